//! How buffers are grouped: by device, type of memory, and where they were allocated.

use std::ops::AddAssign;

use serde::Serialize;

use super::event::{BufferType, Device};
use crate::frame::StackId;

/// Where a group's buffers were allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// The tracer saw the allocation. `None` if its stack wasn't captured.
    Traced(Option<StackId>),
    /// The buffer was allocated before the tracer attached.
    BeforeAttach,
}

impl Source {
    /// The stack of the allocation, if it was captured.
    pub(crate) fn stack(self) -> Option<StackId> {
        match self {
            Self::Traced(stack) => stack,
            Self::BeforeAttach => None,
        }
    }
}

/// What the buffers of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupKey {
    pub device: Device,
    pub buffer_type: BufferType,
    pub source: Source,
}

/// A number of buffers and their total size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub buffers: u64,
    /// For buffers on a mesh: bytes on each member chip.
    pub bytes: u64,
}

impl Count {
    /// Adds one buffer of this many bytes.
    pub(crate) fn add(&mut self, bytes: u64) {
        *self += Self { buffers: 1, bytes };
    }

    /// Takes one buffer of this many bytes away.
    pub(super) fn remove(&mut self, bytes: u64) {
        self.buffers = self.buffers.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.buffers = self.buffers.saturating_add(other.buffers);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
