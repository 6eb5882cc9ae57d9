//! The comparison of a trace with the baseline: the summary of an earlier trace.

use serde::Serialize;

use super::device::DeviceMemory;
use crate::{frame::StackId, ledger::Count, origin::Origin};

/// What has changed since the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// The file that the baseline was read from.
    pub path: String,
    /// When the baseline's trace began.
    pub started_at: String,
    /// First the processes of this trace, in their order, then those of the baseline that have no
    /// counterpart in this trace.
    pub processes: Vec<ProcessChange>,
}

/// What has changed in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessChange {
    /// `None` if this trace has no such process.
    pub pid: Option<u32>,
    /// `None` if the baseline has no such process.
    pub baseline_pid: Option<u32>,
    pub comm: String,
    /// Each type of memory of each device that was in use in either trace.
    pub memory: Vec<MemoryChange>,
    /// Whether `live` and `peaks` could be compared: each of the two traces has stacks, or has no
    /// allocations that could have stacks.
    pub by_stack: bool,
    /// The groups of buffers that were live at the end and differ; the largest difference first.
    pub live: Vec<GroupChange>,
    /// The groups of buffers that were live at each peak and differ; the largest difference first.
    pub peaks: Vec<GroupChange>,
    /// Whether the command lines are the same.
    #[serde(skip)]
    pub same_command: bool,
    /// Bytes that the process of the baseline may have leaked.
    #[serde(skip)]
    pub baseline_leaked_bytes: u64,
}

/// The change of one type of memory of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemoryChange {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    #[serde(flatten)]
    pub live: Compared,
    pub baseline_peak_bytes: u64,
    pub peak_bytes: u64,
    /// Whether the device is a member of a mesh, which has rows of its own.
    #[serde(skip)]
    pub is_member: bool,
}

/// The change of a group of owning buffers that were allocated in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GroupChange {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    pub origin: Origin,
    pub before_attach: bool,
    /// The label of the frame that allocated them.
    #[serde(rename = "place")]
    pub label: String,
    /// The stack of the buffers in this trace; `None` if there are none, or the stack wasn't captured.
    pub stack: Option<StackId>,
    #[serde(flatten)]
    pub buffers: Compared,
}

/// A figure in the baseline and in this trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Compared {
    pub baseline: Count,
    pub now: Count,
    pub difference: Difference,
}

impl Compared {
    pub(crate) fn new(baseline: Count, now: Count) -> Self {
        Self {
            baseline,
            now,
            difference: Difference {
                buffers: signed_difference(baseline.buffers, now.buffers),
                bytes: signed_difference(baseline.bytes, now.bytes),
            },
        }
    }
}

/// This trace's figure less the baseline's; negative if it has fallen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub buffers: i64,
    pub bytes: i64,
}

fn signed_difference(then: u64, now: u64) -> i64 {
    let apart = i64::try_from(now.abs_diff(then)).unwrap_or(i64::MAX);
    if now < then { -apart } else { apart }
}
