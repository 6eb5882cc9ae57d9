//! L1 beyond buffers: what programs take of it for their circular buffers, dataflow buffers and
//! scratchpads, below what the allocator gives.
//!
//! * A program that is laid out holds nothing: the allocator may give the same addresses to a buffer,
//!   and the program's next dispatch fails then. What lies on a core is what the program needs there that
//!   was dispatched there last, until that program ends, or the device closes.
//! * On a mesh a program lies on each member, in the same places.
//! * What lies in a buffer ([`Backing::Buffer`]) is counted there, and what is an alias where the other is.
//! * Regions count, not buffers: those that overlap, once.

mod l1;
mod layout;
mod process;
#[cfg(test)]
mod tests;

pub use l1::{CoreAccount, L1Account, LaidOut};
pub use layout::{
    Allocated, Backing, Core, CoreRange, Layout, ProgramBuffer, ProgramBufferKind, ProgramPointer,
    ProgramSemaphore, Region, RegionKind,
};
pub use process::{ProcessPrograms, Program, ProgramCounters, ProgramKey};

use super::Nanoseconds;
use crate::stack::StackId;

/// What happened to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramEventKind {
    /// Its buffers have their places.
    LaidOut(Box<Layout>),
    /// It is on its way to its device. `layout`: as it is, where nothing was told of it before.
    Dispatched {
        program: ProgramPointer,
        layout: Option<Box<Layout>>,
    },
    /// It ended.
    Ended(ProgramPointer),
}

/// What an event of a program turned out to mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramEffect {
    /// It has places, for the first time or others than before.
    LaidOut(ProgramKey),
    /// It has the places that it had.
    AsBefore(ProgramKey),
    /// It lies where it was laid out to; `None`: nobody knows where.
    Dispatched(Option<ProgramKey>),
    /// It takes nothing any more; `None`: it was never laid out.
    Ended(Option<ProgramKey>),
    /// The event came after its process's end and was not applied.
    AfterExit,
}

/// One thing that happened to a program, in one thread of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramEvent {
    pub pid: u32,
    pub tid: u32,
    pub time: Nanoseconds,
    pub kind: ProgramEventKind,
    /// Where the thread was, if its stack was captured.
    pub stack: Option<StackId>,
}
