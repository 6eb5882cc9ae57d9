//! What one reading of a process's heap finds: plain data.

use std::collections::{BTreeMap, BTreeSet};

use super::banks::{BankMap, BankStatistics};
use crate::ledger::{AllocatorPointer, Buffer, BufferType, Device, Nanoseconds, ObjectPointer};

/// A device, its allocator and its banks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceState {
    pub device: Device,
    pub allocator: AllocatorPointer,
    /// Ids of the member chips of a mesh.
    pub members: BTreeSet<u32>,
    /// The banks of each type of memory that the device has.
    pub banks: BTreeMap<BufferType, BankStatistics>,
}

/// What the allocators of one process hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeapReading {
    pub(super) devices: Vec<DeviceState>,
    /// Live owning buffers, by object.
    pub(super) buffers: BTreeMap<ObjectPointer, Buffer>,
    /// Which addresses of their banks allocators have given away.
    pub(super) maps: BTreeMap<(AllocatorPointer, BufferType), BankMap>,
    /// Whether each allocator's answer is of one moment. Otherwise `buffers` is the union of several
    /// answers.
    pub(super) at_one_moment: bool,
    /// Objects that an allocator lists and that aren't live owning buffers of it: they are under
    /// construction, being freed, or not understood.
    pub(super) unrecognized: BTreeSet<ObjectPointer>,
    /// Bytes that allocators count as allocated and no buffer that was read accounts for, in all banks
    /// together. Where no object is unrecognized, they are padding.
    pub(super) unknown_bytes: u64,
    /// What couldn't be read and why, for a person.
    pub(super) problems: Vec<String>,
}

impl HeapReading {
    /// The bytes that a buffer takes of each bank, if the buffer was there.
    pub(super) fn bytes_per_bank(&self, buffer: &Buffer) -> Option<u64> {
        let map = self.maps.get(&(buffer.allocator, buffer.buffer_type))?;
        map.used.get(&buffer.address).copied()
    }
}

/// A reading and when it was over.
#[derive(Clone, Debug)]
pub(super) struct TimedReading {
    pub(super) heap: HeapReading,
    /// Everything in `heap` was read before this time.
    pub(super) read_until: Nanoseconds,
}

impl TimedReading {
    /// A reading that found nothing because of a problem.
    pub(super) fn failed(problem: String, read_until: Nanoseconds) -> Self {
        Self {
            heap: HeapReading {
                problems: vec![problem],
                ..HeapReading::default()
            },
            read_until,
        }
    }
}

/// Two readings of the same devices, both made after the probes went on.
#[derive(Clone, Debug)]
pub(super) struct ReadingPair {
    pub(super) first: TimedReading,
    /// Made when every thread had finished whatever it was in the middle of when the probes went on.
    pub(super) second: TimedReading,
}

impl From<TimedReading> for ReadingPair {
    /// For a single reading that is enough.
    fn from(only: TimedReading) -> Self {
        Self {
            first: only.clone(),
            second: only,
        }
    }
}
