//! `tt-memtrace mark`: has a running tracer mark a moment.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use anyhow::anyhow;
use rustix::net::sockopt::socket_peercred;

use super::{
    args::Mark,
    failure::{Failure, Kind},
    mark_socket::{self, MAX_WAIT},
};

/// Returns once the mark is set: whatever happens then comes after it.
///
/// # Errors
/// When there is no tracer to ask, or several, or it doesn't answer.
pub(super) fn mark(options: &Mark) -> Result<(), Failure> {
    let tracer = match options.pid {
        Some(pid) => connect(pid).map_err(|error| {
            failure(anyhow!(error).context(format!(
                "process {pid} is no tt-memtrace that traces, or another user's"
            )))
        })?,
        None => only_tracer()?,
    };
    let name = options.name.as_deref().unwrap_or_default();
    let answer = ask(tracer, name)
        .map_err(|error| failure(anyhow!(error).context("the tracer doesn't answer")))?;
    if answer.is_empty() {
        return Err(failure(anyhow!(
            "the tracer has ended, or has set no mark within {} s",
            MAX_WAIT.as_secs()
        )));
    }
    // A closed pipe isn't an error: the mark is set.
    io::stdout().write_all(answer.as_bytes()).ok();
    Ok(())
}

fn failure(error: anyhow::Error) -> Failure {
    Failure::new(Kind::Target, error)
}

/// The tracer of this machine that this user may ask.
fn only_tracer() -> Result<UnixStream, Failure> {
    let sockets = procfs::net::unix().map_err(|error| Failure::new(Kind::Host, error))?;
    let paths = sockets.into_iter().filter_map(|socket| socket.path);
    let names = paths.filter_map(|path| mark_socket::pid(path.to_str()?));
    let mut tracers: Vec<(u32, UnixStream)> = names
        .filter_map(|pid| Some((pid, connect(pid).ok()?)))
        .collect();
    tracers.sort_by_key(|(pid, _)| *pid);
    tracers.dedup_by_key(|(pid, _)| *pid);
    match tracers.len() {
        0 => Err(failure(anyhow!(
            "no tt-memtrace traces on this machine that this user may ask: start one by \
             `tt-memtrace run` or `attach`, or use sudo"
        ))),
        1 => Ok(tracers.remove(0).1),
        _ => {
            let pids = tracers.iter().map(|(pid, _)| pid.to_string());
            let pids: Vec<String> = pids.collect();
            Err(failure(anyhow!(
                "several tt-memtrace trace on this machine: choose one by --pid ({})",
                pids.join(", ")
            )))
        }
    }
}

/// Connects to a tracer after checking that the peer is that process.
fn connect(pid: u32) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&mark_socket::address(pid)?)?;
    let peer = socket_peercred(&stream)?.pid;
    if mark_socket::is_trusted(&stream)? && u32::try_from(peer.as_raw_nonzero().get()) == Ok(pid) {
        return Ok(stream);
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

fn ask(mut tracer: UnixStream, name: &str) -> io::Result<String> {
    tracer.set_read_timeout(Some(2 * MAX_WAIT))?;
    tracer.write_all(mark_socket::request(name).as_bytes())?;
    tracer.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    tracer.read_to_string(&mut answer)?;
    Ok(answer)
}
