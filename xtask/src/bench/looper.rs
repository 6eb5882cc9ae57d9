//! A process that runs the measured loop, with its own copy of TT-Metal.

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

/// Copies `libtt_metal.so` into `dir`, and links the libraries that it needs beside it.
///
/// A probe belongs to a file. With a file for each process, a probe in one process costs the others nothing.
pub(super) fn copy_library(environment: &Environment, dir: &Path) -> Result<PathBuf> {
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
pub(super) struct Looper {
    child: Child,
    /// `None` once stdin is closed, which ends the process.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Looper {
    /// Starts the loop and waits until its device is open. TT-Metal leaves files in `dir`, the working directory.
    pub(super) fn start(environment: &Environment, library: &Path, dir: &Path) -> Result<Self> {
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

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Allocates and frees `count` tensors; returns the nanoseconds that each took.
    pub(super) fn run(&mut self, count: u32) -> Result<f64> {
        self.ask(&count.to_string())
    }

    /// Allocates and frees `count` tensors, `rate` of them a second; returns the seconds that all took.
    pub(super) fn run_steadily(&mut self, count: u64, rate: u64) -> Result<f64> {
        let nanoseconds = self.ask(&format!("{count} {rate}"))?;
        Ok(nanoseconds / 1e9)
    }

    /// Dispatches a cached program `count` times; returns the nanoseconds that each took.
    pub(super) fn dispatch(&mut self, count: u32) -> Result<f64> {
        self.ask(&format!("dispatch {count}"))
    }

    fn ask(&mut self, line: &str) -> Result<f64> {
        let commands = self.commands.as_mut().context("no stdin")?;
        writeln!(commands, "{line}").context("the measured process has ended")?;
        let answer = self.answer()?;
        answer.parse().with_context(|| {
            format!("the measured process answered {answer:?}, which is no number")
        })
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
    /// Lets the process close its device and end. A process that doesn't end in time is killed.
    fn drop(&mut self) {
        self.commands = None;
        let deadline = Instant::now() + TIME_TO_END;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
