//! A live buffer, and what is known of its allocation.

use super::{
    event::{Buffer, Nanoseconds, Ownership},
    group::{GroupKey, Source},
};
use crate::frame::StackId;

/// How the ledger came to know a live buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// The tracer saw the buffer's allocation (owning) or creation (non-owning).
    Traced {
        /// When that was.
        at: Nanoseconds,
        /// The thread that did it.
        tid: u32,
        /// That thread's stack, if it was captured.
        stack: Option<StackId>,
        /// How many owning buffers the process had allocated by then, this one included.
        allocations: u64,
    },
    /// The attach snapshot contained the buffer. Its age is unknown.
    BeforeAttach,
}

/// A buffer that is live, or was live until the current event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveBuffer {
    /// The buffer as it was when it was allocated, created or found.
    pub buffer: Buffer,
    pub provenance: Provenance,
}

impl LiveBuffer {
    /// Whether the buffer existed before the tracer attached.
    pub(crate) fn before_attach(&self) -> bool {
        self.provenance == Provenance::BeforeAttach
    }

    /// When the buffer was allocated or created, if the tracer saw that.
    pub(crate) fn since(&self) -> Option<Nanoseconds> {
        match self.provenance {
            Provenance::Traced { at, .. } => Some(at),
            Provenance::BeforeAttach => None,
        }
    }

    /// The thread that allocated or created the buffer, if the tracer saw that.
    pub(crate) fn tid(&self) -> Option<u32> {
        match self.provenance {
            Provenance::Traced { tid, .. } => Some(tid),
            Provenance::BeforeAttach => None,
        }
    }

    /// The stack of that thread, if it was captured.
    pub(crate) fn stack(&self) -> Option<StackId> {
        self.source().stack()
    }

    /// Where the buffer was allocated.
    pub(crate) fn source(&self) -> Source {
        match self.provenance {
            Provenance::Traced { stack, .. } => Source::Traced(stack),
            Provenance::BeforeAttach => Source::BeforeAttach,
        }
    }

    /// The group that the buffer belongs to.
    pub(crate) fn group_key(&self) -> GroupKey {
        GroupKey {
            device: self.buffer.device,
            buffer_type: self.buffer.buffer_type,
            source: self.source(),
        }
    }

    /// Whether the buffer holds memory of its own.
    pub(crate) fn owns_data(&self) -> bool {
        self.buffer.ownership == Ownership::Owning
    }
}
