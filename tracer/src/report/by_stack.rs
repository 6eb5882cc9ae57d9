//! The parts of the JSON summary that tell buffers apart by where they were allocated, as types. A
//! group's `bytes` are its buffers' sizes in sum; of buffers on a mesh, on each member.

use serde::{Deserialize, Serialize};

use super::MapSummary;
use crate::{
    ledger::{BufferType, DeviceKind, Nanoseconds, Tally},
    origin::Origin,
    stack::{Stack, StackId},
};

/// A stack that others refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSummary {
    pub id: StackId,
    #[serde(flatten)]
    pub stack: Stack,
}

/// Owning buffers that were allocated in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `None` if it wasn't captured, or nobody saw it.
    pub stack: Option<StackId>,
    /// They were there before the tracer came.
    pub before_attach: bool,
    pub origin: Origin,
    pub buffers: u64,
    pub bytes: u64,
}

/// A [`Group`] in one type of memory of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedGroup {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
    #[serde(flatten)]
    pub group: Group,
}

/// Owning buffers that were live when their process ended, or, of one that runs, when the trace did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leak {
    #[serde(flatten)]
    pub placed: PlacedGroup,
    /// Of the oldest one, since its allocation; `None` if they were there before the tracer came.
    pub oldest_age_ns: Option<u64>,
    /// Of the youngest one.
    pub youngest_age_ns: Option<u64>,
}

/// What lay in one type of memory of one device when most did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
    pub peak_bytes: u64,
    /// When it was first reached.
    pub peak_at_ns: Nanoseconds,
    /// The largest first.
    pub groups: Vec<Group>,
}

/// Owning buffers that were freed soon after their allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Temporary {
    /// With at most so many other allocations of the process in between.
    pub within: u64,
    /// The largest first.
    pub groups: Vec<PlacedGroup>,
}

/// An allocation that the allocator refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    pub at_ns: Nanoseconds,
    pub tid: u32,
    pub stack: Option<StackId>,
    pub origin: Origin,
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
    /// What was asked for.
    pub size: u64,
    /// What lay in that memory then.
    pub live_bytes: u64,
    pub live_buffers: u64,
    /// Of that the largest groups, the largest first.
    pub largest: Vec<Group>,
    /// What else lay there.
    pub rest: Tally,
    /// What was free then, of all banks together; `None` if that isn't known.
    pub free_bytes: Option<u64>,
    /// The largest block of that, likewise: an allocator takes the same addresses of each bank.
    pub largest_free_bytes: Option<u64>,
    /// How many banks were asked.
    pub banks: Option<u64>,
    /// Of each of them.
    pub free_per_bank: Option<u64>,
    pub largest_free_per_bank: Option<u64>,
    /// What lay where in them then; only of a process's first failures.
    pub map: Option<MapSummary>,
}

/// Live owning buffers of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OriginTotal {
    pub origin: Origin,
    pub live_buffers: u64,
    pub live_bytes: u64,
}
