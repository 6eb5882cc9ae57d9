//! What a session hands out.

use std::{collections::BTreeMap, sync::mpsc::SyncSender};

use super::Notice;
use crate::{
    ledger::{Event, Nanoseconds, ProgramEvent},
    snapshot::{AllocatorRanges, AttachSnapshot, DeviceState},
    stack::NamedStack,
    target::Identity,
};

/// One thing that a session hands out. Items come in the order in which things happened; what was read of
/// a process comes before the events that it explains.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Something about device memory or a process's life, or records that were lost.
    Event(Event),
    /// Something about a program.
    Program(ProgramEvent),
    /// A stack that earlier events name. It comes before the next mark, or else at the end.
    Stack(NamedStack),
    /// A fact about a process.
    Process(ProcessFact),
    /// A moment that somebody marked.
    Mark(Mark),
    /// Something that a person should know.
    Notice(Notice),
}

/// A fact about a process that no event contains.
#[derive(Clone, Debug)]
pub(crate) enum ProcessFact {
    /// From now on `pid` means a process that is new to the session. `from_start`: it is traced from its
    /// first buffer on. `identity`: `None` if it ended before its name could be read.
    Began {
        pid: u32,
        from_start: bool,
        identity: Option<Identity>,
    },
    /// What a process is called now: it has executed another program.
    Renamed(Identity),
    /// A forked process did nothing to device memory, and its pid may come to mean another.
    Forgotten { pid: u32 },
    /// A process has a TT-Metal library.
    Library {
        pid: u32,
        from_start: bool,
        library: TracedLibrary,
        /// Whether its programs are traced, too.
        programs: bool,
    },
    /// The banks of a process's devices, read at `read_at`.
    Banks {
        pid: u32,
        read_at: Nanoseconds,
        devices: Vec<DeviceState>,
    },
    /// Which addresses an allocator of a process can give.
    Ranges { pid: u32, ranges: AllocatorRanges },
    /// What a process held before it was traced.
    Snapshot(AttachSnapshot),
    /// Devices of a process from before may be missing from its snapshot.
    NotSearched { pid: u32, problem: String },
    /// A process can't be traced.
    Untraced {
        pid: u32,
        comm: String,
        reason: String,
    },
}

/// A TT-Metal library with probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TracedLibrary {
    /// The path as the process sees it.
    pub path: String,
    /// The GNU build id in hexadecimal; `None` for a library that has none.
    pub build_id: Option<String>,
    /// The ttnn release, such as `0.81.1`, where it is known.
    pub release: Option<String>,
    /// Where each field of a buffer is read, such as `size` at `[[buffer+0x10]+0x8]`.
    pub fields: BTreeMap<String, String>,
}

/// A moment that somebody marked.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub name: Option<String>,
    pub at: Nanoseconds,
    /// Takes the answer for the person who waits for the mark; the session doesn't use it.
    pub reply: Option<SyncSender<String>>,
}

/// A moment to be marked.
#[derive(Debug, Default)]
pub(crate) struct MarkRequest {
    pub name: Option<String>,
    /// Takes the answer for the person who waits for the mark; the session doesn't use it.
    pub reply: Option<SyncSender<String>>,
}

/// What a session is asked while it runs.
#[derive(Debug)]
pub(crate) enum Request {
    /// Mark this moment: after everything that has happened by now.
    Mark(MarkRequest),
    /// The command of [`Scope::Command`](super::Scope::Command) has ended.
    CommandEnded(Option<crate::ledger::Exit>),
    /// End the trace; the processes go on.
    Stop,
}

/// Takes what a session hands out.
///
/// A sink must not block: the kernel's ring buffer fills while it does. One that writes to a file or a
/// terminal stands in a thread of its own (`sinks::Background`).
pub(crate) trait Sink {
    /// Takes one item.
    fn take(&mut self, item: Item);

    /// Everything that was fetched together has been taken.
    fn flush(&mut self);
}
