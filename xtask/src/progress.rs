//! What a person sees while a command works: a spinner per step with its time on a terminal, plain
//! lines elsewhere. The output of the programs that a step runs goes to a log.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::sh;

/// Without a terminal, a step that takes long says this often that it lives.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// How many last lines of a failed program's output are shown.
const TAIL: usize = 30;

pub struct Progress {
    /// `None` when stderr is no terminal.
    bars: Option<MultiProgress>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            bars: io::stderr().is_terminal().then(MultiProgress::new),
        }
    }

    /// Runs `work` as one named step. Steps may run in several threads at once.
    pub fn step<T>(&self, name: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style(
                "{spinner:.cyan} {prefix} [{elapsed}] {wide_msg:.dim}",
            ));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("==> {name}");
        }
        let step = Step {
            bar,
            name: name.to_owned(),
            log: log_file(name)?,
        };
        let result = work(&step);
        let seconds = started.elapsed().as_secs_f64();
        let Step { bar, name, log: _ } = step;
        match bar {
            Some(bar) => {
                let mark = if result.is_ok() { "✓" } else { "✗" };
                bar.set_style(style("{prefix}"));
                bar.set_prefix(format!("{mark} {name} [{seconds:.1} s]"));
                bar.finish();
            }
            None if result.is_ok() => eprintln!("    {name}: done in {seconds:.1} s"),
            None => eprintln!("    {name}: failed after {seconds:.1} s"),
        }
        result
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A step under way.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    log: PathBuf,
}

impl Step {
    /// Tells the reader what happens, in a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {line}")),
            None => eprintln!("    {line}"),
        }
    }

    /// Runs a command with its output in the step's log; when it fails, the error has the output's
    /// last lines.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let shown = sh::show(command);
        let mut log = File::options()
            .append(true)
            .create(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        writeln!(log, "$ {shown}")?;
        let (reader, writer) = io::pipe().context("make a pipe")?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start `{shown}`"))?;
        // The command holds the pipe's writing ends: without this, no end of file.
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());

        let (lines, received) = mpsc::channel();
        let copying = thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut last = String::new();
        let mut spoke = Instant::now();
        loop {
            match received.recv_timeout(HEARTBEAT) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    if let Some(bar) = &self.bar {
                        bar.set_message(line.trim().to_owned());
                    }
                    last = line;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.bar.is_none() && spoke.elapsed() >= HEARTBEAT {
                eprintln!("    {}: … {}", self.name, last.trim());
                spoke = Instant::now();
            }
        }
        let _ = copying.join();
        let status = child
            .wait()
            .with_context(|| format!("wait for `{shown}`"))?;
        if !status.success() {
            bail!(
                "`{shown}` failed ({status}). Its last lines, from {}:\n{}",
                self.log.display(),
                tail(&self.log)
            );
        }
        Ok(())
    }

    /// Runs `work` with nothing of ours on the terminal, for programs that print there themselves.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

fn log_file(name: &str) -> Result<PathBuf> {
    let dir = sh::target_dir().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let file: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let log = dir.join(format!("{file}.log"));
    if log.exists() {
        fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))?;
    }
    Ok(log)
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
