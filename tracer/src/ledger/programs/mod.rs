//! L1 apart from buffers: what programs take of it for circular buffers, dataflow buffers and scratchpads,
//! below the addresses that the allocator gives.
//!
//! * A program that is only laid out holds nothing: the allocator may give its addresses to a buffer, and
//!   the program's next dispatch fails then. A core holds what the program that was dispatched there last
//!   needs there, until that program ends or the device closes.
//! * A program on a mesh lies on each member chip, at the same addresses.
//! * A program's buffer that lies in an L1 buffer ([`Backing::Buffer`]) is counted with the L1 buffer, and an
//!   alias with the buffer that it is an alias of.
//! * Regions are counted, not buffers. Regions that overlap count once.

mod event;
mod l1;
mod layout;
mod process;
#[cfg(test)]
mod tests;

pub(crate) use event::{ProgramEffect, ProgramEvent, ProgramEventKind, ProgramKey};
pub(crate) use l1::L1Account;
pub(crate) use layout::{
    Allocated, Backing, Core, CoreRange, Layout, ProgramBuffer, ProgramBufferKind, ProgramPointer,
    ProgramSemaphore, Region, RegionKind,
};
pub(crate) use process::{ProcessPrograms, Program};
