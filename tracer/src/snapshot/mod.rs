//! What a process's allocators hold, read from its memory by the library's own rules.
//!
//! A `SnapshotReader` asks each device for its allocator and each allocator for its buffers and banks, by
//! [replaying](crate::replay) the library's accessors. Three types decide when it does:
//!
//! - [`AttachSnapshots`] has it read what a process held when the tracer attached. The target runs
//!   meanwhile, so that one reading may mix several moments; `reconcile` compares two readings with the
//!   events of that time to find what was live.
//! - [`BankReader`] has it read the banks of a process that is traced from its start.
//! - [`RangeReader`] has it read which addresses an allocator can give.
//!
//! Nothing here prints, and nothing here knows the state of the ledger.

mod attach_snapshot;
mod attach_snapshots;
mod bank_reader;
mod banks;
#[cfg(test)]
mod fixture;
mod heap_reading;
mod heap_search;
mod held_events;
mod process_reading;
mod range_reader;
mod reader;
mod reconcile;
mod target_library;

pub(crate) use attach_snapshot::AttachSnapshot;
pub(crate) use attach_snapshots::AttachSnapshots;
pub(crate) use bank_reader::BankReader;
#[cfg(test)]
pub(crate) use banks::BankStatistics;
pub(crate) use heap_reading::DeviceState;
pub(crate) use held_events::Waiting;
pub(crate) use range_reader::{AllocatorRanges, RangeReader};
pub(crate) use target_library::TargetLibrary;
