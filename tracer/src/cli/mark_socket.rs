//! The socket by which `tt-memtrace mark` reaches a tracer. It is in Linux's abstract name space, so nothing
//! is left behind. The answer comes once the mark is set: what the caller does then comes after it.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use rustix::{net::sockopt::socket_peercred, process::geteuid};
use tokio::sync::mpsc::UnboundedSender;

use crate::session::{MarkRequest, Request};

/// The longest name that a mark can have, in bytes.
pub(super) const MAX_NAME_LEN: usize = 200;

/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to set a mark: until the snapshots of processes have been read.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(10);

/// The name of a tracer's socket.
///
/// # Errors
/// Never with a name as short as this.
pub(super) fn address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("tt-memtrace/{pid}/mark"))
}

/// The tracer whose socket is called so in `/proc/net/unix`, where `@` stands before abstract names.
pub(super) fn pid(socket: &str) -> Option<u32> {
    let name = socket.strip_prefix("@tt-memtrace/")?;
    name.strip_suffix("/mark")?.parse().ok()
}

/// What a mark may be called.
///
/// # Errors
/// Why it can't be.
pub(super) fn mark_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_NAME_LEN {
        return Err(format!("must have from 1 to {MAX_NAME_LEN} bytes"));
    }
    if text.contains(char::is_control) {
        return Err("must be one line of text".to_owned());
    }
    Ok(text.to_owned())
}

/// The request for a mark of that name, or, if it is empty, for one without a name.
pub(super) fn request(name: &str) -> String {
    format!("mark {name}\n")
}

/// The name that a request has; `None` if the bytes are no request. A client that only connects sends none.
fn requested(request: &[u8]) -> Option<Option<String>> {
    let name = std::str::from_utf8(request).ok()?;
    let name = name.strip_prefix("mark ")?.strip_suffix('\n')?;
    let is_name = name.len() <= MAX_NAME_LEN && !name.contains(char::is_control);
    is_name.then(|| (!name.is_empty()).then(|| name.to_owned()))
}

/// Whether at the other end is the same user, or root.
pub(super) fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = socket_peercred(stream)?.uid;
    Ok(peer == geteuid() || peer.is_root())
}

/// Answers clients in a thread of its own.
///
/// # Errors
/// When there can be no socket.
pub(super) fn listen(marks: UnboundedSender<Request>) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&address(std::process::id())?)?;
    thread::Builder::new().name("marks".into()).spawn(move || {
        for stream in listener.incoming() {
            let served = stream.and_then(|stream| serve(stream, &marks));
            // A client that goes away has asked for nothing. But there may be no descriptor left, and then
            // trying again at once would only burn the processor.
            if let Err(error) = served {
                tracing::debug!("a request for a mark: {error}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    })?;
    Ok(())
}

fn serve(mut stream: UnixStream, marks: &UnboundedSender<Request>) -> io::Result<()> {
    if !is_trusted(&stream)? {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    // With some room to spare, so that a longer name differs from one that fits.
    let most = 2 * MAX_NAME_LEN as u64;
    (&stream).take(most).read_to_end(&mut text)?;
    let Some(name) = requested(&text) else {
        return Ok(());
    };
    let (answer, answered) = sync_channel(1);
    let request = Request::Mark(MarkRequest {
        name,
        reply: Some(answer),
    });
    if marks.send(request).is_ok()
        && let Ok(text) = answered.recv_timeout(MAX_WAIT)
    {
        stream.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_with_a_name_or_none() {
        let of = |text: &str| requested(text.as_bytes());
        assert_eq!(of(&request("warm up")), Some(Some("warm up".to_owned())));
        assert_eq!(of(&request("")), Some(None));
        let longest = "x".repeat(MAX_NAME_LEN);
        assert_eq!(of(&request(&longest)), Some(Some(longest.clone())));
        for wrong in [
            "",
            "mark",
            "mark x",
            "mark a\nb\n",
            "mark \x1b[2J\n",
            "stop x\n",
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(of(&request(&(longest + "x"))), None);
        assert_eq!(requested(b"mark \xff\n"), None);
    }

    #[test]
    fn a_tracers_socket_is_known_by_its_name() {
        let name = address(123).expect("a short name");
        let name = name.as_abstract_name().expect("an abstract one");
        let shown = format!("@{}", str::from_utf8(name).expect("text"));
        assert_eq!(pid(&shown), Some(123));
        for other in ["/run/x.sock", "@tt-memtrace/x/mark", "tt-memtrace/123/mark"] {
            assert_eq!(pid(other), None, "{other}");
        }
    }
}
