//! Buffers grouped by the stack that allocated them. A group's `bytes` are the sum of its buffers' sizes;
//! for buffers on a mesh, of their sizes on each member.

use serde::{Deserialize, Serialize};

use super::device::DeviceMemory;
use super::map::MapSummary;
use crate::{
    frame::{Stack, StackId},
    ledger::{Count, Nanoseconds},
    origin::Origin,
};

/// A stack that `stack` fields refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StackSummary {
    pub id: StackId,
    #[serde(flatten)]
    pub stack: Stack,
}

/// Owning buffers that were allocated with the same stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// `None` if the stack wasn't captured, or the buffers were allocated before attach.
    pub stack: Option<StackId>,
    /// Whether the buffers were live at attach.
    pub before_attach: bool,
    pub origin: Origin,
    pub buffers: u64,
    pub bytes: u64,
}

/// A [`Group`] in one type of memory of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryGroup {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    #[serde(flatten)]
    pub group: Group,
}

/// Owning buffers that were live when their process ended, or when the trace ended if the process still
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Leak {
    #[serde(flatten)]
    pub held: MemoryGroup,
    /// The time since the allocation of the oldest buffer; `None` if the buffers were live at attach.
    pub oldest_age_ns: Option<u64>,
    /// The same for the youngest buffer.
    pub youngest_age_ns: Option<u64>,
}

/// What was live in one type of memory of one device when its use was highest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peak {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    pub peak_bytes: u64,
    /// When the peak was first reached.
    pub peak_at_ns: Nanoseconds,
    /// The largest first.
    pub groups: Vec<Group>,
}

/// Owning buffers that were freed soon after their allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Temporary {
    /// The process made at most this many other allocations between a buffer's allocation and its free.
    pub within: u64,
    /// The largest first.
    pub groups: Vec<MemoryGroup>,
}

/// An allocation that the allocator refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Failure {
    pub at_ns: Nanoseconds,
    pub tid: u32,
    pub stack: Option<StackId>,
    pub origin: Origin,
    #[serde(flatten)]
    pub memory: DeviceMemory,
    /// The requested size.
    pub size: u64,
    /// Bytes that were live in that memory.
    pub live_bytes: u64,
    pub live_buffers: u64,
    /// The largest groups of the live buffers, the largest first.
    pub largest: Vec<Group>,
    /// The live buffers in no group of `largest`.
    pub rest: Count,
    /// The free bytes of all banks together; `None` if they aren't known.
    pub free_bytes: Option<u64>,
    /// The largest free block, also summed over all banks, as an allocator takes the same addresses in each
    /// bank; `None` if it isn't known.
    pub largest_free_bytes: Option<u64>,
    /// The number of banks.
    pub banks: Option<u64>,
    /// The free bytes of each bank.
    pub free_per_bank: Option<u64>,
    /// The largest free block of each bank.
    pub largest_free_per_bank: Option<u64>,
    /// The blocks in the banks at that time; only for a process's first failures.
    pub map: Option<MapSummary>,
}

/// The live owning buffers of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OriginTotal {
    pub origin: Origin,
    pub live_buffers: u64,
    pub live_bytes: u64,
}
