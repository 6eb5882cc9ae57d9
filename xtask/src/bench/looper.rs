//! The process that is measured, and its own copy of TT-Metal.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{sh, ttnn::Environment};

const TIME_TO_END: Duration = Duration::from_secs(10);

/// A copy of `libtt_metal.so` in `dir`, with all that it needs beside it.
///
/// A probe belongs to a file: with a file each, what traces one process costs the others nothing.
pub fn copy_library(environment: &Environment, dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    // The library looks for others in $ORIGIN and $ORIGIN/../../../ttnn.libs.
    let lib = dir.join("ttnn/build/lib");
    fs::create_dir_all(&lib).with_context(|| format!("make {}", lib.display()))?;
    let original = environment.library.parent().context("library folder")?;
    let site_packages = original
        .ancestors()
        .nth(3)
        .context("the folder of ttnn's wheel")?;
    symlink(site_packages.join("ttnn.libs"), dir.join("ttnn.libs"))?;
    for entry in fs::read_dir(original)
        .with_context(|| format!("read {}", original.display()))?
        .flatten()
    {
        if entry.path() != environment.library {
            symlink(entry.path(), lib.join(entry.file_name()))?;
        }
    }
    let copy = lib.join("libtt_metal.so");
    fs::copy(&environment.library, &copy).with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}

/// A running `loop.py`.
pub struct Looper {
    child: Child,
    /// `None` when it has been told to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Looper {
    /// Starts one and waits for its device to be open. `dir` is for what TT-Metal leaves behind.
    pub fn start(environment: &Environment, library: &Path, dir: &Path) -> Result<Self> {
        let script = dir.join("loop.py");
        fs::write(&script, include_str!("loop.py"))
            .with_context(|| format!("write {}", script.display()))?;
        let log = dir.join("loop.log");
        let mut child = Command::new(&environment.python)
            .arg(&script)
            .arg(sh::root().join("tests/mock-ttnn/wormhole_n150.yaml"))
            .arg(library)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).with_context(|| format!("write {}", log.display()))?)
            .spawn()
            .with_context(|| format!("can't start {}", environment.python.display()))?;
        let commands = child.stdin.take().context("stdin of the loop")?;
        let stdout = child.stdout.take().context("stdout of the loop")?;
        let mut looper = Self {
            child,
            commands: Some(commands),
            answers: BufReader::new(stdout),
            log,
        };
        while looper.answer()? != "ready" {}
        Ok(looper)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Allocates and frees `count` tensors; nanoseconds for each.
    pub fn run(&mut self, count: u32) -> Result<f64> {
        self.ask(&count.to_string())
    }

    /// Allocates and frees `count` tensors, `rate` of them a second; seconds for all.
    pub fn run_steadily(&mut self, count: u64, rate: u64) -> Result<f64> {
        let nanoseconds = self.ask(&format!("{count} {rate}"))?;
        Ok(nanoseconds / 1e9)
    }

    /// Dispatches a cached program `count` times; nanoseconds for each.
    pub fn dispatch(&mut self, count: u32) -> Result<f64> {
        self.ask(&format!("dispatch {count}"))
    }

    fn ask(&mut self, line: &str) -> Result<f64> {
        let commands = self.commands.as_mut().context("no stdin")?;
        writeln!(commands, "{line}").context("the measured process has ended")?;
        let answer = self.answer()?;
        answer
            .parse()
            .with_context(|| format!("the measured process says {answer:?}"))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            bail!(
                "the measured process ended with {status}; see {}",
                self.log.display()
            );
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Looper {
    /// It closes its device and ends; if it doesn't, it is ended.
    fn drop(&mut self) {
        self.commands = None;
        let deadline = Instant::now() + TIME_TO_END;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
