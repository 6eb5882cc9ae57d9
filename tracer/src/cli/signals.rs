//! What the tracer is asked for while it traces: by signals, and by `tt-memtrace mark`.

use std::{io, thread};

use rustix::process::Signal;
use signal_hook::low_level::siginfo::Cause;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::{SignalsInfo, exfiltrator::origin::WithOrigin},
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::mark_socket;
use crate::session::{MarkRequest, Request};

/// A signal that asks the tracer to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopSignal {
    pub signal: Signal,
    /// From a process (`kill`), so to the tracer alone; not from a terminal's key, which goes to
    /// the whole foreground process group.
    pub from_process: bool,
}

/// What the tracer is asked for.
pub(super) struct Requests {
    pub stops: UnboundedReceiver<StopSignal>,
    /// Marks so far; the sender takes others.
    pub requests: UnboundedReceiver<Request>,
    pub sender: UnboundedSender<Request>,
}

/// Receives SIGINT, SIGTERM and SIGHUP instead of being ended by them, SIGUSR1 to mark a moment, and what
/// `tt-memtrace mark` asks for.
///
/// # Errors
/// When the handlers can't be installed.
pub(super) fn requests() -> io::Result<Requests> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let (stop, stops) = mpsc::unbounded_channel();
    let (sender, requests) = mpsc::unbounded_channel();
    if let Err(error) = mark_socket::listen(sender.clone()) {
        tracing::warn!("`tt-memtrace mark` can't reach this tracer (SIGUSR1 can): {error}");
    }
    let marks = sender.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for origin in &mut signals {
                let from_process = matches!(origin.cause, Cause::Sent(_));
                let stop = |signal| {
                    let request = StopSignal {
                        signal,
                        from_process,
                    };
                    stop.send(request).is_ok()
                };
                let is_heard = match origin.signal {
                    SIGUSR1 => marks.send(Request::Mark(MarkRequest::default())).is_ok(),
                    SIGINT => stop(Signal::INT),
                    SIGTERM => stop(Signal::TERM),
                    _ => stop(Signal::HUP),
                };
                if !is_heard {
                    break;
                }
            }
        })?;
    Ok(Requests {
        stops,
        requests,
        sender,
    })
}
