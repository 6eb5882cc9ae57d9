//! Programs: where a `ProgramImpl` keeps what lies in L1 besides buffers, derived from its functions.
//!
//! One `CircularBufferAllocator` per range of cores lays out a program's circular buffers, and another
//! one its dataflow buffers and scratchpads. Their regions are the L1 that the program needs on each of
//! the cores. The single buffers stand in lists beside them.
//! (`tt_metal/impl/program/program_impl.hpp`, 0.62 to 0.81.1.)

mod buffers;
mod derive;
mod deriver;
mod layout;
mod regions;

pub(crate) use derive::derive;
pub(crate) use layout::{Buffers, Programs};
