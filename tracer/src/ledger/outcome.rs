//! What an event turned out to mean, once the ledger had compared it with what it knew.

use super::{Buffer, Device, Nanoseconds, Ownership, Source};
use crate::stack::StackId;

/// Where the ledger's knowledge of a live buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// The tracer saw its birth.
    Traced {
        /// When it was allocated (owning) or created (non-owning).
        at: Nanoseconds,
        /// The thread that did it.
        tid: u32,
        /// Where that thread was, if its stack was captured.
        stack: Option<StackId>,
        /// How many allocations the process had made by then, with this one if it is one.
        allocations: u64,
    },
    /// It was found live when the tracer came; nobody knows since when.
    BeforeAttach,
}

/// A buffer that is live, or was until the event at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBuffer {
    /// The buffer as it was at its birth.
    pub buffer: Buffer,
    /// Since when it is known.
    pub birth: Birth,
}

impl LiveBuffer {
    /// Whether it was there before the tracer came.
    pub fn before_attach(&self) -> bool {
        self.birth == Birth::BeforeAttach
    }

    /// When it was allocated or created, if the tracer saw it.
    pub fn since(&self) -> Option<Nanoseconds> {
        match self.birth {
            Birth::Traced { at, .. } => Some(at),
            Birth::BeforeAttach => None,
        }
    }

    /// The thread that allocated or created it, if the tracer saw it.
    pub fn tid(&self) -> Option<u32> {
        match self.birth {
            Birth::Traced { tid, .. } => Some(tid),
            Birth::BeforeAttach => None,
        }
    }

    /// Where that thread was, if its stack was captured.
    pub fn stack(&self) -> Option<StackId> {
        match self.birth {
            Birth::Traced { stack, .. } => stack,
            Birth::BeforeAttach => None,
        }
    }

    /// Where it comes from, as far as that tells it from others.
    pub fn source(&self) -> Source {
        match self.birth {
            Birth::Traced { stack, .. } => Source::Traced(stack),
            Birth::BeforeAttach => Source::BeforeAttach,
        }
    }

    /// Whether it holds memory of its own.
    pub fn owns_data(&self) -> bool {
        self.buffer.ownership == Ownership::Owning
    }
}

/// What one event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Buffers, of either kind, whose end was never seen but is proven by this event, which comes
    /// after it. Almost always empty.
    pub implied: Vec<LiveBuffer>,
    /// What the event itself did.
    pub effect: Effect,
}

/// What the event itself did, apart from the ends that it proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An owning buffer is live.
    Allocated,
    /// An owning buffer is live, and has been since before the tracer came.
    Found,
    /// The ledger knew already of what was found. Nothing changes.
    Known,
    /// A non-owning buffer is live.
    Created {
        /// The mesh whose member this birth shows the buffer's chip to be, if that is news.
        joined: Option<Device>,
    },
    /// A live owning buffer ended.
    Deallocated(LiveBuffer),
    /// A live non-owning buffer ended.
    Destroyed(LiveBuffer),
    /// All live owning buffers of one allocator ended.
    BulkFreed {
        /// How many.
        buffers: u64,
        /// Their sizes' sum; for a mesh's allocator, on each member.
        bytes: u64,
        /// The device that they lay on; `None` if there were none.
        device: Option<Device>,
    },
    /// A buffer ended that the ledger does not know: it was there before the tracer came, or its
    /// birth was lost. No total changes.
    Unmatched,
    /// A buffer object ended that had no memory: it was hooked, a bulk free had already taken it, or
    /// it is the copy that a fork made of the parent's. No total changes.
    HadNoMemory,
    /// An allocation failed.
    Failed,
    /// An allocation was hooked by a graph capture.
    Hooked,
    /// The process forked.
    Forked {
        /// The child's pid.
        child: u32,
    },
    /// The process executed a program.
    Executed {
        /// How many live owning buffers went with the old one.
        buffers: u64,
        /// Their sizes' sum; of those on a mesh, on each member.
        bytes: u64,
    },
    /// The process ended.
    Exited,
    /// So many events were not recorded.
    Lost(u64),
    /// The event came after its process's end and was not applied.
    AfterExit,
}
