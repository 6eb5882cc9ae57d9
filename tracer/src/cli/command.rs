//! The command of `run`.
//!
//! It is started by a copy of this program that stops itself first ([`exec_held`]). From then on the kernel's
//! side stops it again after each program that it executes, and after each library that its dynamic linker
//! loads, before any of that library's code runs: time to put the probes on. Once they are on, nothing stops
//! it any more. The same goes for everything that it forks.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
};

use anyhow::anyhow;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::failure::{Failure, Kind};
use crate::{ledger::Exit, session::Request};

/// A command that stopped itself before its first instruction. It goes on when this is dropped, whatever
/// path the program takes.
pub(super) struct HeldCommand {
    pid: Pid,
}

impl HeldCommand {
    /// Starts the copy of this program that stops itself and then becomes the command.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn start(command: &[OsString]) -> Result<(Child, Self), Failure> {
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
        let held = Self { pid };
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).map_err(|error| failed(error.into()))?;
        Ok((child, held))
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for HeldCommand {
    fn drop(&mut self) {
        // It may have been killed meanwhile; then nothing has to go on.
        kill_process(self.pid, Signal::CONT).ok();
    }
}

/// Checks before anything is set up whether there is such a command.
///
/// # Errors
/// Why there isn't.
pub(super) fn can_be_started(command: &[OsString]) -> Result<(), Failure> {
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

/// Stops itself, and when it is let go on, becomes the command.
///
/// # Errors
/// When the command can't be executed.
pub(super) fn exec_held(command: &[OsString]) -> Failure {
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

/// Waits for the command in a thread of its own. The session gets its end as a request, and the receiver its
/// status.
pub(super) fn wait_in_background(
    mut child: Child,
    requests: UnboundedSender<Request>,
) -> oneshot::Receiver<io::Result<ExitStatus>> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let status = child.wait();
        let exit = status.as_ref().ok().copied().and_then(exit);
        // Nobody waits any more if the tracer is ending itself.
        sender.send(status).ok();
        requests.send(Request::CommandEnded(exit)).ok();
    });
    receiver
}

fn exit(status: ExitStatus) -> Option<Exit> {
    status
        .code()
        .map(Exit::Code)
        .or_else(|| status.signal().map(Exit::Signal))
}

/// The exit code that a shell shows: the code, or 128 and the signal's number.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
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
    fn a_held_command_goes_on_when_it_is_dropped() {
        let mut child = Command::new("sh")
            .args(["-c", "kill -STOP $$; exit 7"])
            .spawn()
            .expect("a shell");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let held = HeldCommand {
            pid: pid.expect("a process"),
        };
        waitid(WaitId::Pid(held.pid()), WaitIdOptions::STOPPED).expect("it stops itself");
        // As on any error between the command's start and its release.
        drop(held);
        // Without that it would stay stopped, and this would never return.
        assert_eq!(child.wait().expect("it ends").code(), Some(7));
    }
}
