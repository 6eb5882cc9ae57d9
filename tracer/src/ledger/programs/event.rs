//! What happens to programs, and what it means.

use super::layout::{Layout, ProgramPointer};
use crate::{frame::StackId, ledger::event::Nanoseconds};

/// Identifies a program within its process for the whole trace; unlike a [`ProgramPointer`], it is never
/// reused. It is the program's number in the order of first layouts, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProgramKey(pub u64);

/// What happened to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProgramEventKind {
    /// The program's buffers got their addresses.
    LaidOut(Box<Layout>),
    /// The program was enqueued to its device. `layout`: its current layout, if no event has had it yet.
    Dispatched {
        program: ProgramPointer,
        layout: Option<Box<Layout>>,
    },
    /// The program was destroyed.
    Ended(ProgramPointer),
}

/// What an event of a program meant, given what the ledger knew before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramEffect {
    /// The program has a first or a different layout.
    LaidOut(ProgramKey),
    /// The program has the same layout as before.
    AsBefore(ProgramKey),
    /// The program lies where it was laid out; `None` if that is unknown.
    Dispatched(Option<ProgramKey>),
    /// The program takes nothing any more; `None` if it was never laid out.
    Ended(Option<ProgramKey>),
    /// The event came after its process's end and was not applied.
    AfterExit,
}

/// Something that happened to a program, in one thread of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramEvent {
    pub pid: u32,
    pub tid: u32,
    pub time: Nanoseconds,
    pub kind: ProgramEventKind,
    /// The thread's stack, if it was captured.
    pub stack: Option<StackId>,
}
