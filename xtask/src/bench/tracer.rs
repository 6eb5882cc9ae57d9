//! The tracers that are attached to the measured processes: bpftrace and tt-memtrace.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::sh;

/// How long bpftrace needs after its message "Attaching". It prints nothing once the probes are attached.
const BPFTRACE_SETTLES: Duration = Duration::from_secs(2);
/// The kernel takes 0.1 s to detach a probe.
const TIME_TO_END: Duration = Duration::from_secs(60);
const INTERRUPT_AGAIN: Duration = Duration::from_secs(5);

/// A running tracer.
pub(super) struct Tracer {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Tracer {
    /// bpftrace with empty probes on `functions`, in that process alone.
    pub(super) fn empty_probes(
        pid: u32,
        library: &Path,
        functions: &[String],
        dir: &Path,
    ) -> Result<Self> {
        let program: String = functions
            .iter()
            .map(|function| format!("uprobe:{}:{function} {{}} ", library.display()))
            .collect();
        Self::bpftrace(pid, &program, dir)
    }

    /// bpftrace, counting how often each of `functions` is called.
    pub(super) fn counting_probes(
        pid: u32,
        library: &Path,
        functions: &[String],
        dir: &Path,
    ) -> Result<Self> {
        let program: String = functions
            .iter()
            .enumerate()
            .map(|(i, function)| {
                format!(
                    "uprobe:{}:{function} {{ @hits[{i}] = count(); }} ",
                    library.display()
                )
            })
            .collect();
        Self::bpftrace(pid, &program, dir)
    }

    fn bpftrace(pid: u32, program: &str, dir: &Path) -> Result<Self> {
        let mut command = Self::command("bpftrace")?;
        command.args(["-f", "json", "-p", &pid.to_string(), "-e", program]);
        let mut tracer = Self::start("bpftrace", &mut command, dir)?;
        tracer.wait_for(&tracer.stdout.clone(), "\"attached_probes\"")?;
        thread::sleep(BPFTRACE_SETTLES);
        tracer.check_alive()?;
        Ok(tracer)
    }

    /// tt-memtrace, once it has read the attach snapshot.
    pub(super) fn tt_memtrace(binary: &Path, pid: u32, stacks: &str, dir: &Path) -> Result<Self> {
        let mut tracer = Self::begin_tt_memtrace(binary, pid, stacks, dir)?;
        tracer.wait_for_snapshot()?;
        Ok(tracer)
    }

    /// tt-memtrace, once its probes are attached.
    pub(super) fn begin_tt_memtrace(
        binary: &Path,
        pid: u32,
        stacks: &str,
        dir: &Path,
    ) -> Result<Self> {
        let mut command = Self::command(&binary.to_string_lossy())?;
        command
            .args([
                "attach",
                "--pid",
                &pid.to_string(),
                "--stacks",
                stacks,
                "--summary",
            ])
            .arg(dir.join("summary.json"));
        let mut tracer = Self::start("tt-memtrace", &mut command, dir)?;
        tracer.wait_for(&tracer.stderr.clone(), "\ntracing")?;
        Ok(tracer)
    }

    /// Waits until tt-memtrace has read the attach snapshot.
    pub(super) fn wait_for_snapshot(&mut self) -> Result<()> {
        self.wait_for(&self.stderr.clone(), " from before, ")
    }

    /// A program that runs as root, and ends when this process is killed.
    fn command(program: &str) -> Result<Command> {
        let mut command = sh::as_root("setpriv")?;
        command.args(["--pdeathsig", "INT", program]);
        Ok(command)
    }

    fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let stdout = dir.join(format!("{name}.out"));
        let stderr = dir.join(format!("{name}.err"));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("write {}", path.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            .spawn()
            .with_context(|| format!("can't start `{}`", sh::show(command)))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            stdout,
            stderr,
        })
    }

    /// Waits for `text` in the file. A line break at the start of `text` also matches the start of the file.
    fn wait_for(&mut self, file: &Path, text: &str) -> Result<()> {
        let deadline = Instant::now() + TIME_TO_END;
        loop {
            let printed = fs::read(file).unwrap_or_default();
            if format!("\n{}", String::from_utf8_lossy(&printed)).contains(text) {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                bail!(
                    "{} doesn't print {:?} into {}",
                    self.name,
                    text.trim(),
                    file.display()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended with {status}: {}",
                self.name,
                self.printed_errors()
            );
        }
        Ok(())
    }

    fn printed_errors(&self) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    /// Ends the tracer as Ctrl-C does, and returns its stdout.
    pub(super) fn stop(mut self) -> Result<String> {
        let status = self.interrupt()?;
        // Where tracefs isn't mounted, bpftrace 0.17 fails to detach its probes; the kernel then detaches them.
        ensure!(
            status.success() || self.name == "bpftrace",
            "{} ended with {status}: {}",
            self.name,
            self.printed_errors()
        );
        fs::read_to_string(&self.stdout).with_context(|| format!("read {}", self.stdout.display()))
    }

    fn interrupt(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + TIME_TO_END;
        let mut next = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.signal("-KILL")?;
                bail!("{} doesn't end: {}", self.name, self.printed_errors());
            }
            // bpftrace 0.17 sometimes misses a signal.
            if Instant::now() >= next {
                self.signal("-INT")?;
                next = Instant::now() + INTERRUPT_AGAIN;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: &str) -> Result<()> {
        // If the child is sudo, it passes the signal on.
        let mut command = sh::as_root("kill")?;
        sh::output(command.args([signal, &self.child.id().to_string()])).map(drop)
    }
}

impl Drop for Tracer {
    /// After an error, no tracer is left running.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.interrupt().ok();
        }
    }
}

/// How often each function was called, from what `counting_probes` printed.
pub(super) fn counted(printed: &str, functions: usize) -> Result<Vec<u64>> {
    let hits = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line.pointer("/data/@hits").cloned())
        .with_context(|| format!("bpftrace counted nothing: {printed:?}"))?;
    Ok((0..functions)
        .map(|i| hits.get(i.to_string()).and_then(Value::as_u64).unwrap_or(0))
        .collect())
}
