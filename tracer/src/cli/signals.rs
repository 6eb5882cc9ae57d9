//! Signals that ask the tracer to stop, or to mark a moment.

use std::{io, thread};

use rustix::process::Signal;
use signal_hook::low_level::siginfo::Cause;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::{SignalsInfo, exfiltrator::origin::WithOrigin},
};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::marks::{self, MarkRequest};

/// A request to stop.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub signal: Signal,
    /// From a process (`kill`), so to the tracer alone; not from a terminal's key, which goes to
    /// the whole foreground process group.
    pub from_process: bool,
}

/// What the tracer is asked for while it traces.
pub struct Requests {
    pub stop: UnboundedReceiver<Request>,
    pub mark: UnboundedReceiver<MarkRequest>,
}

/// Receives SIGINT, SIGTERM and SIGHUP instead of being ended by them, SIGUSR1 to mark a moment, and what
/// `tt-memtrace mark` asks for.
///
/// # Errors
/// When the handlers can't be installed.
pub fn requests() -> io::Result<Requests> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let (stop, stopped) = mpsc::unbounded_channel();
    let (mark, marked) = mpsc::unbounded_channel();
    if let Err(error) = marks::listen(mark.clone()) {
        tracing::warn!("`tt-memtrace mark` can't reach this tracer (SIGUSR1 can): {error}");
    }
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for origin in &mut signals {
                let from_process = matches!(origin.cause, Cause::Sent(_));
                let stop = |signal| {
                    let request = Request {
                        signal,
                        from_process,
                    };
                    stop.send(request).is_ok()
                };
                let is_heard = match origin.signal {
                    SIGUSR1 => mark.send(MarkRequest::default()).is_ok(),
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
        stop: stopped,
        mark: marked,
    })
}
