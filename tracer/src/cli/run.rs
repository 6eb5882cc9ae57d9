//! `tt-memtrace run`: a command, and whatever it starts, from the first buffer on.
//!
//! The command is started by a copy of this program that stops itself first ([`exec_held`]). From
//! then on the kernel's side stops it again after each program that it executes, and after each
//! library that its dynamic linker loads, before any of that library's code runs: time to put the
//! probes on. Once they are on, nothing stops it any more. So it is with all that it forks.

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
    deed::{Deed, What, go_on},
    failure::{Failure, Kind},
    host::HostCheck,
    output::Output,
    session::{FETCH, Session},
    signals::{self, Request},
};
use crate::{
    ledger::Exit,
    probe::{Recording, Reporting, Scope},
    report::Attached,
    target,
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
    let mut session = Session::new(&options.tracing, output, &std::collections::BTreeSet::new())?;
    let (child, pid) = start(&options.command)?;
    let mut family = Family {
        command: pid.as_raw_nonzero().get().unsigned_abs(),
        failure: None,
    };
    session.books.introduce(family.command, Attached::Start)?;
    session.kernel.watch(family.command)?;
    session.kernel.report(Reporting::Descendants)?;
    session.kernel.record(Recording::Watched)?;
    go_on(family.command);

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
            Some(mark) = requests.mark.recv() => session.want_mark(mark),
            Some(Request { signal, from_process }) = requests.stop.recv() => {
                if asked {
                    return conclude(session.finish(), ExitStatus::from_raw(signal.as_raw()));
                }
                asked = true;
                if from_process {
                    // Whoever asks the tracer to end means the command, too.
                    let _ = kill_process(pid, signal);
                }
            }
        }
        match session.fetch() {
            Ok(deeds) => {
                for deed in deeds {
                    family.look(&mut session, deed);
                }
            }
            Err(failure) => {
                session.abandon(&failure);
                let status = unwrapped(waiting.await)?;
                return if status.success() {
                    Err(failure)
                } else {
                    Ok(exit_code(status))
                };
            }
        }
        session.books.output.flush();
    };
    let Some(status) = ended else {
        let finished = session.finish();
        return match finished {
            Err(failure) if failure.kind != Kind::Leak => Err(failure),
            // Its exit code is still ours to pass on.
            finished => conclude(finished, unwrapped(waiting.await)?),
        };
    };
    session.ended(family.command, exit(status))?;
    let (traced, failure) = (session.traces_anything(), family.failure);
    if !traced && failure.is_none() {
        session.books.output.warn(&format!(
            "{} ended without loading {}: there was nothing to trace",
            options.command[0].to_string_lossy(),
            target::LIBRARY,
        ));
    }
    let finished = session.finish();
    match failure {
        Some(failure) if status.success() && finished.is_ok() => Err(failure),
        _ => conclude(finished, status),
    }
}

/// What is to be passed on of a trace's end and the command's: a leak only where the command succeeded.
fn conclude(finished: Result<(), Failure>, status: ExitStatus) -> Result<ExitCode, Failure> {
    match finished {
        Err(leak) if leak.kind == Kind::Leak && !status.success() => {
            eprintln!("tt-memtrace: {leak}");
            Ok(exit_code(status))
        }
        finished => finished.map(|()| exit_code(status)),
    }
}

/// The command and all that it starts.
struct Family {
    command: u32,
    /// Why one of them can't be traced, if so.
    failure: Option<Failure>,
}

impl Family {
    /// Looks at a process, and lets it go on whatever comes of it.
    fn look(&mut self, session: &mut Session, deed: Deed) {
        let looked = match deed.what {
            What::Executed => executed(session, deed.pid),
            What::Linked => linked(session, deed),
            What::Ended => Ok(()),
        };
        if let Err(failure) = looked {
            // Without tracing, but unharmed.
            let _ = session.kernel.let_go(deed.pid);
            if target::is_alive(deed.pid) {
                session.books.cannot_trace(deed.pid, &failure);
                // A helper of another kind of program needn't be traced.
                if deed.pid == self.command || failure.kind == Kind::Library {
                    self.failure.get_or_insert(failure);
                }
            }
        }
        deed.answer();
    }
}

fn executed(session: &mut Session, pid: u32) -> Result<(), Failure> {
    session
        .linkers
        .listen(&mut session.kernel, pid, Scope::All)?;
    Ok(())
}

fn linked(session: &mut Session, deed: Deed) -> Result<(), Failure> {
    if session.trace_libraries(deed.pid, Scope::All, deed.stopped)? {
        session.kernel.let_go(deed.pid)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_shows_only_where_the_command_succeeded() {
        let leak = || Err(Failure::new(Kind::Leak, anyhow!("held until the end")));
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw(9);
        let kind = |concluded: Result<ExitCode, Failure>| concluded.map_err(|failure| failure.kind);

        assert_eq!(kind(conclude(leak(), exited(0))), Err(Kind::Leak));
        assert_eq!(kind(conclude(leak(), exited(3))), Ok(ExitCode::from(3)));
        assert_eq!(kind(conclude(leak(), killed)), Ok(ExitCode::from(137)));
        assert_eq!(kind(conclude(Ok(()), exited(3))), Ok(ExitCode::from(3)));
        let unwritten = Err(Failure::new(Kind::Output, anyhow!("no space")));
        assert_eq!(kind(conclude(unwritten, exited(3))), Err(Kind::Output));
    }
}
