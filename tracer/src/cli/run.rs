//! `tt-memtrace run`: a command, and whatever it starts, from the first buffer on.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender},
    oneshot::error::RecvError,
};

use super::{
    args::Run,
    command::{self, HeldCommand},
    failure::{Failure, Kind},
    signals::{self, Requests, StopSignal},
    terminal::Terminal,
    trace::{Trace, Traced},
};
use crate::{
    probe::Requirements,
    session::{EndReason, Request, Scope},
    target,
};

/// Runs the command and returns its exit code.
///
/// # Errors
/// When it can't be started, or a result not written.
pub(super) async fn run(options: Run) -> Result<ExitCode, Failure> {
    command::can_be_started(&options.command)?;
    Requirements::check().require()?;
    let terminal = Terminal::new(options.tracing.quiet);
    let trace = Trace::prepare(&options.tracing)?;
    let Requests {
        stops,
        mut requests,
        sender,
    } = signals::requests().map_err(|error| Failure::new(Kind::Host, error))?;
    let kernel = trace.load_kernel()?;
    let (child, held) = HeldCommand::start(&options.command)?;
    let pid = held.pid();
    let mut status = command::wait_in_background(child, sender.clone());
    let second_signal = Arc::new(OnceLock::new());
    tokio::spawn(pass_on(
        stops,
        pid,
        sender.clone(),
        Arc::clone(&second_signal),
    ));
    let scope = Scope::Command {
        pid: pid.as_raw_nonzero().get().unsigned_abs(),
    };
    let traced = trace
        .follow(scope, |_| Ok(kernel), &mut requests, sender, || drop(held))
        .await;
    let Traced {
        ended,
        outputs,
        accounts,
    } = match traced {
        Ok(traced) => traced,
        Err(failure) => {
            // Without results there is no exit code to pass on of a command that has ended, nor anything to wait
            // for after a second signal.
            if second_signal.get().is_some() || status.try_recv().is_ok() {
                return Err(failure);
            }
            terminal.warn(&format!(
                "the trace ends here, and the command goes on: {failure}"
            ));
            let status = received(status.await)?;
            return if status.success() {
                Err(failure)
            } else {
                Ok(command::exit_code(status))
            };
        }
    };
    let has_ended = ended.reason == EndReason::Over;
    if has_ended && !ended.traced_anything && ended.failure.is_none() {
        terminal.warn(&format!(
            "{} ended without loading {}: there was nothing to trace",
            options.command[0].to_string_lossy(),
            target::LIBRARY,
        ));
    }
    let written = outputs.finish(accounts, &ended);
    if let Some(signal) = second_signal.get().filter(|_| !has_ended) {
        return conclude(written, ExitStatus::from_raw(signal.as_raw()));
    }
    match (written, ended.failure) {
        (Err(failure), _) if !has_ended && failure.kind != Kind::Leak => Err(failure),
        // `--duration` may have ended the trace: the command's exit code is still to be passed on.
        (written, failure) => {
            let status = received(status.await)?;
            match failure {
                Some(error) if has_ended && status.success() && written.is_ok() => {
                    Err(error.into())
                }
                _ => conclude(written, status),
            }
        }
    }
}

/// Forwards the first stop signal to the command. The second one ends the trace.
async fn pass_on(
    mut stops: UnboundedReceiver<StopSignal>,
    command: Pid,
    requests: UnboundedSender<Request>,
    second_signal: Arc<OnceLock<Signal>>,
) {
    let Some(first) = stops.recv().await else {
        return;
    };
    if first.from_process {
        // It may have ended.
        kill_process(command, first.signal).ok();
    }
    if let Some(second) = stops.recv().await {
        second_signal.get_or_init(|| second.signal);
        // The trace may be over.
        requests.send(Request::Stop).ok();
    }
}

/// The exit code, from what became of the results and of the command: a leak only shows where the command
/// succeeded.
fn conclude(written: Result<(), Failure>, status: ExitStatus) -> Result<ExitCode, Failure> {
    match written {
        Err(leak) if leak.kind == Kind::Leak && !status.success() => {
            Terminal::new(true).warn(&leak.to_string());
            Ok(command::exit_code(status))
        }
        written => written.map(|()| command::exit_code(status)),
    }
}

fn received(status: Result<io::Result<ExitStatus>, RecvError>) -> Result<ExitStatus, Failure> {
    status
        .context("nobody waits for the command any more")
        .and_then(|status| status.context("can't wait for the command"))
        .map_err(|error| Failure::new(Kind::Host, error))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

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
