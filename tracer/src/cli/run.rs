//! `tt-memtrace run`: a command from its first buffer on.
//!
//! The command is started by a copy of this program that stops itself first ([`exec_held`]). From
//! then on the kernel's side stops it again after each program that it executes, and after each
//! library that its dynamic linker loads, before any of that library's code runs: time to put the
//! probes on. Once they are on, nothing stops it any more.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use tokio::sync::oneshot::{self, error::RecvError};

use super::{
    args::Run,
    failure::{Failure, Kind},
    host::HostCheck,
    linker,
    output::Output,
    session::{FETCH, Session},
    signals::{self, Request},
};
use crate::{
    ledger::Exit,
    probe::AttachedProbes,
    report::Attached,
    stream::Decoded,
    target::{self, MappedFile},
};

/// Runs the command and returns its exit code.
///
/// # Errors
/// When it can't be started, or a result not written.
pub async fn run(options: Run) -> Result<ExitCode, Failure> {
    can_be_started(&options.command)?;
    HostCheck::run().require()?;
    let output = Output::open(&options.tracing)?;
    let mut requests = signals::requests().map_err(|error| Failure::new(Kind::Host, error))?;
    let mut session = Session::new(options.tracing.ring_size, output)?;
    let (child, pid) = start(&options.command)?;
    let mut held = Held {
        pid,
        linkers: Vec::new(),
        failure: None,
    };
    session.introduce(pid.as_raw_nonzero().get().unsigned_abs(), Attached::Start)?;
    session.kernel.watch(held.pid(), true)?;
    session.kernel.hold(held.pid(), true)?;
    session.kernel.record(true)?;
    held.go_on();

    let mut waiting = wait_in_background(child);
    let mut fetch = tokio::time::interval(FETCH);
    fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = optional_sleep(options.tracing.duration);
    tokio::pin!(stop);
    let mut asked = false;
    let ended = loop {
        tokio::select! {
            _ = fetch.tick() => {}
            attention = session.kernel.attention() => attention?,
            status = &mut waiting => break Some(unwrapped(status)?),
            () = &mut stop => break None,
            Some(Request { signal, from_process }) = requests.recv() => {
                if asked {
                    session.kernel.hold(held.pid(), false)?;
                    session.finish()?;
                    return Ok(ExitCode::from(128 + signal.as_raw() as u8));
                }
                asked = true;
                if from_process {
                    // Whoever asks the tracer to end means the command, too.
                    let _ = kill_process(pid, signal);
                }
            }
        }
        for control in session.fetch()? {
            held.look(&mut session, control);
        }
        session.output.flush();
    };
    let code = match ended {
        Some(status) => {
            // Its number may soon be another process's.
            session.kernel.hold(held.pid(), false)?;
            session.ended(held.pid(), exit(status))?;
            let (traced, failure) = (session.traces_anything(), held.failure.take());
            if !traced && failure.is_none() {
                session.output.warn(&format!(
                    "{} ended without loading {}: there was nothing to trace",
                    options.command[0].to_string_lossy(),
                    target::LIBRARY,
                ));
            }
            drop(held);
            session.finish()?;
            match failure {
                Some(failure) if status.success() => return Err(failure),
                _ => exit_code(status),
            }
        }
        None => {
            session.kernel.hold(held.pid(), false)?;
            for control in session.fetch()? {
                held.look(&mut session, control);
            }
            drop(held);
            session.finish()?;
            // Its exit code is still ours to pass on.
            exit_code(unwrapped(waiting.await)?)
        }
    };
    Ok(code)
}

/// The started process, as long as the kernel's side stops it at loaded libraries.
struct Held {
    pid: Pid,
    linkers: Vec<(MappedFile, AttachedProbes)>,
    /// Why it can't be traced, if so.
    failure: Option<Failure>,
}

impl Held {
    fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn go_on(&self) {
        // It may have been killed meanwhile; then there is nothing to go on.
        let _ = kill_process(self.pid, Signal::CONT);
    }

    /// Looks at the stopped process, and lets it go on whatever comes of it.
    fn look(&mut self, session: &mut Session, control: Decoded) {
        let looked = match control {
            Decoded::Executed { .. } => self.executed(session),
            Decoded::Linked { .. } => self.linked(session),
            Decoded::Memory(_) | Decoded::ThreadExit { .. } => return,
        };
        if let Err(failure) = looked {
            // Without tracing, but unharmed.
            session
                .output
                .warn(&format!("the command goes on untraced: {failure}"));
            let _ = session.kernel.hold(self.pid(), false);
            self.failure.get_or_insert(failure);
        }
        self.go_on();
    }

    fn executed(&mut self, session: &mut Session) -> Result<(), Failure> {
        session.introduce(self.pid(), Attached::Start)?;
        let Some(linker) = target::dynamic_linker(self.pid())? else {
            return Ok(());
        };
        if !self
            .linkers
            .iter()
            .any(|(known, _)| known.file == linker.file)
        {
            let probes = linker::attach(session, &linker)?;
            self.linkers.push((linker, probes));
        }
        Ok(())
    }

    fn linked(&mut self, session: &mut Session) -> Result<(), Failure> {
        if session.trace_libraries(self.pid())? {
            session.kernel.hold(self.pid(), false)?;
        }
        Ok(())
    }
}

/// Completes after a time, or never.
pub async fn optional_sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Tells before anything is set up whether there is such a command.
fn can_be_started(command: &[OsString]) -> Result<(), Failure> {
    let name = &command[0];
    if which::which(name).is_ok() {
        return Ok(());
    }
    let shown = name.to_string_lossy();
    let path = Path::new(name);
    Err(if path.is_dir() {
        Failure::new(
            Kind::CannotStart,
            anyhow!("{shown} is a directory, not a command"),
        )
    } else if path.components().count() > 1 && path.exists() {
        Failure::new(
            Kind::CannotStart,
            anyhow!("{shown} isn't executable (chmod +x, or name its interpreter first)"),
        )
    } else {
        Failure::new(
            Kind::NoCommand,
            anyhow!("there is no command {shown}: check the spelling and PATH"),
        )
    })
}

/// Starts the copy of this program that stops itself and then becomes the command.
fn start(command: &[OsString]) -> Result<(Child, Pid), Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Kind::CannotStart,
            anyhow!(error).context("can't start a process"),
        )
    };
    let own = std::env::current_exe().map_err(failed)?;
    let child = Command::new(own)
        .arg("exec-held")
        .arg("--")
        .args(command)
        .spawn()
        .map_err(failed)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed(io::Error::other("a process without a number")))?;
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).map_err(|error| failed(error.into()))?;
    Ok((child, pid))
}

/// Stops itself, and when it is let go on, becomes the command.
///
/// # Errors
/// When the command can't be executed.
pub fn exec_held(command: &[OsString]) -> Failure {
    if let Err(error) = kill_process(getpid(), Signal::STOP) {
        return Failure::new(Kind::CannotStart, anyhow!(error).context("can't stop"));
    }
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    let kind = if error.kind() == io::ErrorKind::NotFound {
        Kind::NoCommand
    } else {
        Kind::CannotStart
    };
    Failure::new(
        kind,
        anyhow!(error).context(format!("can't execute {}", command[0].to_string_lossy())),
    )
}

fn wait_in_background(mut child: Child) -> oneshot::Receiver<io::Result<ExitStatus>> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        // Nobody waits any more if the tracer is ending itself.
        let _ = sender.send(child.wait());
    });
    receiver
}

fn unwrapped(status: Result<io::Result<ExitStatus>, RecvError>) -> Result<ExitStatus, Failure> {
    status
        .context("nobody waits for the command any more")
        .and_then(|status| status.context("can't wait for the command"))
        .map_err(|error| Failure::new(Kind::Host, error))
}

fn exit(status: ExitStatus) -> Option<Exit> {
    status
        .code()
        .map(Exit::Code)
        .or_else(|| status.signal().map(Exit::Signal))
}

/// As a shell tells it: the code, or 128 and the signal's number.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
    )
}
