//! A tape: what a session took in, in the order in which it did, so that a test can give it to another one.
//!
//! Built with the feature `tape`, tt-memtrace writes one to the file that `TT_MEMTRACE_TAPE` names; `cargo
//! xtask tape` makes the fixtures that way. A tape is a row of entries: a letter, the length of what follows
//! (32 bits, little-endian), and that many bytes. Pids and thread ids on a tape are larger than any that Linux
//! assigns, so a replay never reads a process of its own machine.

#[cfg(test)]
mod reader;
#[cfg(feature = "tape")]
mod recorder;
#[cfg(feature = "tape")]
mod writer;

#[cfg(test)]
pub(crate) use reader::Tape;
#[cfg(feature = "tape")]
pub(crate) use recorder::{TapedKernel, TapedProcesses};

/// A record of the ring buffer.
pub(super) const RECORD: u8 = b'r';
/// A record of the ring buffer of stacks.
pub(super) const STACK: u8 = b's';
/// The end of what was fetched at once.
pub(super) const FETCHED: u8 = b'.';
/// When the session started, by the records' clock, in nanoseconds: JSON.
pub(super) const STARTED: u8 = b't';
/// What a process is called: the JSON of a pid, `comm` and a command line.
pub(super) const IDENTITY: u8 = b'i';
/// A process's library: the JSON of a pid and a path.
pub(super) const LIBRARY: u8 = b'l';
/// A process's Python interpreter: the JSON of a pid and a [`Python`](crate::python::Python).
pub(super) const INTERPRETER: u8 = b'p';
