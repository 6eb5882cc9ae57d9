//! Signals that ask the tracer to stop.

use std::{io, thread};

use rustix::process::Signal;
use signal_hook::low_level::siginfo::Cause;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{SignalsInfo, exfiltrator::origin::WithOrigin},
};
use tokio::sync::mpsc;

/// A request to stop.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub signal: Signal,
    /// From a process (`kill`), so to the tracer alone; not from a terminal's key, which goes to
    /// the whole foreground process group.
    pub from_process: bool,
}

/// Receives SIGINT, SIGTERM and SIGHUP instead of being ended by them.
///
/// # Errors
/// When the handlers can't be installed.
pub fn requests() -> io::Result<mpsc::UnboundedReceiver<Request>> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM, SIGHUP])?;
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for origin in &mut signals {
                let signal = match origin.signal {
                    SIGINT => Signal::INT,
                    SIGTERM => Signal::TERM,
                    _ => Signal::HUP,
                };
                let from_process = matches!(origin.cause, Cause::Sent(_));
                if sender
                    .send(Request {
                        signal,
                        from_process,
                    })
                    .is_err()
                {
                    break;
                }
            }
        })?;
    Ok(receiver)
}
