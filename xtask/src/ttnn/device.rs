//! The devices without hardware that a release can run on. Releases differ and don't document it, so each device is
//! tried in turn. The first is the one that exercises most of TT-Metal.

use std::{
    fmt,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::sh;

/// How long the workload may take. It usually takes some 5 s.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// `TT_METAL_MOCK_CLUSTER_DESC_PATH`, command queues included.
    Mock,
    /// A mock device without command queues, and without the inspector, which crashes there (0.67.4).
    SlowMock,
    /// `TT_METAL_SIMULATOR` with a stand-in for the simulator's library, for releases that refuse a mock device.
    Simulator,
    /// `TT_METAL_SIMULATOR` with a stand-in for the simulator's process, for releases that can't load a library.
    SimulatorProcess,
}

impl Device {
    pub(crate) const ALL: [Self; 4] = [
        Self::Mock,
        Self::SlowMock,
        Self::Simulator,
        Self::SimulatorProcess,
    ];

    /// Of a simulator, what `TT_METAL_SIMULATOR` names in a chip's folder: the library, or the folder itself.
    pub(crate) fn simulator(self) -> Option<&'static str> {
        match self {
            Self::Mock | Self::SlowMock => None,
            Self::Simulator => Some("libttsim.so"),
            Self::SimulatorProcess => Some(""),
        }
    }

    /// The name in the stamp.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mock => "mock",
            Self::SlowMock => "slow-mock",
            Self::Simulator => "simulator",
            Self::SimulatorProcess => "simulator-process",
        }
    }

    pub(crate) fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Mock => &[],
            Self::SlowMock | Self::Simulator | Self::SimulatorProcess => &[
                ("TT_METAL_SLOW_DISPATCH_MODE", "1"),
                ("TT_METAL_INSPECTOR", "0"),
            ],
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mock => "mock device",
            Self::SlowMock => "mock device, slow dispatch",
            Self::Simulator => "stand-in simulator",
            Self::SimulatorProcess => "stand-in simulator, as a process",
        })
    }
}

/// Runs `tests/mock-ttnn/workload.py` in `dir`. The inner error is one line with the reason why it doesn't run.
pub(super) fn try_workload(python: &Path, dir: &Path) -> Result<Result<(), String>> {
    let mock = sh::root().join("tests/mock-ttnn");
    let cluster = mock.join("wormhole_n150.yaml");
    let command = || {
        let mut command = Command::new(python);
        command
            .arg(mock.join("workload.py"))
            .arg(&cluster)
            .env("TT_METAL_MOCK_CLUSTER_DESC_PATH", &cluster)
            .current_dir(dir);
        command
    };
    let log = dir.join("workload.log");
    let Some(status) = run_with_patience(command(), &log)? else {
        return Ok(Err(format!("hangs for {} s", PATIENCE.as_secs())));
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let output = std::fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    Ok(Err(match status.signal() {
        Some(signal) => match crashed_in(command()) {
            Some(function) => format!("signal {signal} in `{function}`"),
            None => format!("signal {signal}"),
        },
        None => reason(&output).unwrap_or_else(|| status.to_string()),
    }))
}

/// Runs the command; `None` if it took too long and was killed.
fn run_with_patience(mut command: Command, log: &Path) -> Result<Option<ExitStatus>> {
    let file = std::fs::File::create(log).with_context(|| format!("write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("can't start `{}`", sh::show(&command)))?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// The innermost function of TT-Metal or ttnn in which the command crashes, if gdb is installed.
fn crashed_in(command: Command) -> Option<String> {
    sh::on_path("gdb")?;
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "run", "-ex", "bt 40", "--args"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(n, v)| Some((n, v?))))
        .current_dir(command.get_current_dir()?);
    function(&sh::output(&mut gdb).ok()?)
}

/// The name `tt::…` or `ttnn::…` of the first such frame in gdb's backtrace.
fn function(backtrace: &str) -> Option<String> {
    let frames = backtrace.lines().filter(|line| line.starts_with('#'));
    frames
        .filter_map(|frame| {
            let start = frame.find("tt::").or_else(|| frame.find("ttnn::"))?;
            let name = frame[start..].split(['(', '<', ' ']).next()?;
            (!frame[..start].contains("std::")).then(|| name.to_owned())
        })
        .next()
}

/// The reason from the output of a Python that an exception ended: TT-Metal's own message, else the last line.
fn reason(output: &str) -> Option<String> {
    let mut lines = output.lines();
    if lines.any(|line| line.trim() == "info:")
        && let Some(line) = lines.next()
    {
        return Some(line.trim().to_owned());
    }
    let last = output.lines().rfind(|line| !line.trim().is_empty())?;
    Some(last.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{function, reason};

    #[test]
    fn tt_metals_own_message_is_the_reason() {
        let output = "Traceback (most recent call last):\n\
                    RuntimeError: TT_THROW @ /project/metal_context.cpp:74: tt::exception\n\
                    info:\n\
                    Mock cluster cannot be initialized because there is no device.\n\
                    backtrace:\n --- python\n";
        assert_eq!(
            reason(output).as_deref(),
            Some("Mock cluster cannot be initialized because there is no device.")
        );
        assert_eq!(
            reason("a\nImportError: no b\n\n").as_deref(),
            Some("ImportError: no b")
        );
        assert_eq!(reason(""), None);
    }

    #[test]
    fn the_innermost_function_of_tt_metals_is_named() {
        let backtrace = "Thread 1 \"python\" received signal SIGSEGV, Segmentation fault.\n\
            #0  ___pthread_mutex_lock (mutex=0xab8) at ./nptl/pthread_mutex_lock.c:80\n\
            #1  0x00007ffff3bc0421 in tt::tt_metal::Inspector::set(tt::Workload const*) () from x.so\n\
            #2  0x00007ffff4ef1bd0 in ttnn::device_operation::emit() () from y.so\n";
        assert_eq!(
            function(backtrace).as_deref(),
            Some("tt::tt_metal::Inspector::set")
        );
        assert_eq!(function("#0  main ()"), None);
    }
}
