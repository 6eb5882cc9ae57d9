//! Progress reports: on a terminal a spinner with the time of each step, elsewhere plain lines. The output of the
//! programs that a step runs goes to a log.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::sh;

/// How often a long step reports that it is still running, without a terminal.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// How many of the last lines of a failed program's output are shown.
const TAIL: usize = 30;

pub(crate) struct Progress {
    /// `None` if stderr is no terminal.
    bars: Option<MultiProgress>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            bars: io::stderr().is_terminal().then(MultiProgress::new),
        }
    }

    /// Runs `work` as one named step. Steps may run in several threads at once.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
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
        let verdict = if result.is_ok() {
            "done in"
        } else {
            "failed after"
        };
        match (&self.bars, step.bar) {
            (Some(bars), Some(bar)) => {
                bar.finish_and_clear();
                bars.remove(&bar);
                let mark = if result.is_ok() { "✓" } else { "✗" };
                bars.println(format!("{mark} {name} [{seconds:.1} s]"))
                    .context("write to the terminal")?;
            }
            _ => eprintln!("    {name}: {verdict} {seconds:.1} s"),
        }
        result
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A running step.
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    name: String,
    log: PathBuf,
}

impl Step {
    /// Prints a line that stays on the terminal.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {line}")),
            None => eprintln!("    {line}"),
        }
    }

    /// Shows how far the step has come.
    pub(crate) fn report(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(message.to_owned()),
            None => eprintln!("    {}: {message}", self.name),
        }
    }

    /// Runs a command with its output in the step's log. The error of a failed command has the last lines
    /// of that output.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let (reader, writer) = io::pipe().context("make a pipe")?;
        command.stdout(writer.try_clone()?).stderr(writer);
        self.follow(command, reader).map(drop)
    }

    /// Like `run`, but returns the command's stdout.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        let (reader, writer) = io::pipe().context("make a pipe")?;
        command.stdout(Stdio::piped()).stderr(writer);
        self.follow(command, reader)
    }

    fn follow(&self, command: &mut Command, reader: PipeReader) -> Result<String> {
        let shown = sh::show(command);
        let mut log = File::options()
            .append(true)
            .create(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        writeln!(log, "$ {shown}")?;
        let mut child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("can't start `{shown}`"))?;
        // The command still holds the writing ends of the pipes: close them, or reading never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let stdout = child.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut text = String::new();
                stdout.read_to_string(&mut text).map(|_| text)
            })
        });

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
        copying.join().ok();
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
        match stdout.map(thread::JoinHandle::join) {
            None => Ok(String::new()),
            Some(Ok(text)) => text.with_context(|| format!("output of `{shown}`")),
            Some(Err(_)) => bail!("reading the output of `{shown}` panicked"),
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
