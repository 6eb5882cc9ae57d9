//! Devices and how much of their memory is in use.

use serde::{Deserialize, Serialize};

use crate::ledger::{BufferType, DeviceKind, Nanoseconds};

/// One type of memory of one device: all that lies in it, or, for a mesh, what lies on *each* member chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DeviceMemory {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DeviceSummary {
    pub id: u32,
    pub kind: DeviceKind,
    /// A mesh's chips, as far as they are known; empty for a chip.
    pub members: Vec<u32>,
    pub memory: MemorySummary,
}

/// Use of each type of memory: of what lies on the device, or, for a mesh, on *each* member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct MemorySummary {
    pub dram: Usage,
    pub l1: Usage,
    pub l1_small: Usage,
    pub trace: Usage,
    pub system_memory: Usage,
}

impl MemorySummary {
    /// Each type with its use, in the order in which they are shown.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (BufferType, &Usage)> {
        BufferType::ALL
            .into_iter()
            .map(|buffer_type| (buffer_type, self.of(buffer_type)))
    }

    /// Whether both devices have the same use now and had the same allocations and frees.
    pub(crate) fn is_used_like(&self, other: &Self) -> bool {
        let use_of = |usage: &Usage| Usage {
            capacity: None,
            ..*usage
        };
        self.iter()
            .zip(other.iter())
            .all(|((_, own), (_, other))| use_of(own) == use_of(other))
    }

    /// The use of one type.
    pub(crate) fn of(&self, buffer_type: BufferType) -> &Usage {
        match buffer_type {
            BufferType::Dram => &self.dram,
            BufferType::L1 => &self.l1,
            BufferType::L1Small => &self.l1_small,
            BufferType::Trace => &self.trace,
            BufferType::SystemMemory => &self.system_memory,
        }
    }
}

/// Use of one type of memory by owning buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub live_bytes: u64,
    pub live_buffers: u64,
    pub peak_bytes: u64,
    /// When the peak was first reached; 0 if there was none.
    pub peak_at_ns: Nanoseconds,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
    pub allocations: u64,
    pub deallocations: u64,
    /// The device's banks of this type, as its allocator reports them; `None` if they weren't read.
    pub capacity: Option<Capacity>,
}

impl Usage {
    /// Whether this type of memory was ever in use.
    pub(crate) fn is_used(&self) -> bool {
        self.live_buffers > 0 || self.allocations > 0 || self.deallocations > 0
    }
}

/// The banks of one type of memory, with the figures of `ttnn.get_memory_view`. Bytes are those of one
/// bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Capacity {
    pub banks: u64,
    pub bytes_per_bank: u64,
    pub allocated_per_bank: u64,
    pub free_per_bank: u64,
    pub largest_free_per_bank: u64,
    /// When the figures were read.
    pub read_at_ns: Nanoseconds,
}

impl Capacity {
    /// The bytes of all banks together.
    pub(crate) fn bytes(&self) -> u64 {
        self.banks.saturating_mul(self.bytes_per_bank)
    }
}
