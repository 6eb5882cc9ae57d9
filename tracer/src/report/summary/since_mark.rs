//! Marks and what has changed since each.

use serde::Serialize;

use super::buffer_groups::MemoryGroup;
use super::device::DeviceMemory;
use crate::ledger::{Count, Mark, Nanoseconds};

/// A moment that a user marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MarkSummary {
    /// From 1 on.
    pub number: u32,
    /// `None` if the user gave no name.
    pub name: Option<String>,
    pub at_ns: Nanoseconds,
}

impl From<&Mark> for MarkSummary {
    fn from(mark: &Mark) -> Self {
        let Mark { number, name, at } = mark;
        Self {
            number: *number,
            name: name.clone(),
            at_ns: *at,
        }
    }
}

/// What has changed in one process since a mark. Buffers from before attach count as live at each mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SinceMark {
    /// The mark's number.
    pub mark: u32,
    /// Each type of memory of each device that was in use at the mark or since.
    pub memory: Vec<MemorySince>,
    /// Buffers that were allocated since the mark and are live, grouped by stack; the largest group first.
    pub new: Vec<MemoryGroup>,
    /// Buffers that were live at the mark and have been freed, grouped in the same way.
    pub gone: Vec<MemoryGroup>,
}

impl SinceMark {
    /// Whether nothing is new and nothing is gone.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

/// The change of one type of memory of one device since a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemorySince {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    /// What was live at the mark.
    pub then: Count,
    /// What is live now; after the process's end, what was live when it ended.
    pub now: Count,
    /// Allocations since the mark, whether still live or not.
    pub allocated: Count,
    /// Frees since the mark, whether the buffer was allocated before it or not.
    pub freed: Count,
}
