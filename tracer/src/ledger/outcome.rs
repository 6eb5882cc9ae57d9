//! What an event meant, given what the ledger knew before it.

use super::{event::Device, live_buffer::LiveBuffer};

/// What one event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Buffers of either kind whose end the tracer didn't see, but which this event proves to have ended
    /// before it. Almost always empty.
    pub implied_ends: Vec<LiveBuffer>,
    /// What the event itself did.
    pub effect: Effect,
}

impl From<Effect> for Outcome {
    fn from(effect: Effect) -> Self {
        Self {
            implied_ends: Vec::new(),
            effect,
        }
    }
}

/// What the event itself did, apart from the ends that it implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// An owning buffer is live.
    Allocated,
    /// An owning buffer is live, and has been since before the tracer attached.
    Found,
    /// The buffer that was found was known already. Nothing changed.
    Known,
    /// A non-owning buffer is live.
    Created {
        /// The mesh that the buffer's chip is now known to belong to; `None` if the creation showed no new
        /// membership.
        joined: Option<Device>,
    },
    /// A live owning buffer was freed.
    Deallocated(LiveBuffer),
    /// A live non-owning buffer was destroyed.
    Destroyed(LiveBuffer),
    /// All live owning buffers of one allocator were freed.
    BulkFreed {
        /// How many buffers.
        buffers: u64,
        /// Their total size; for a mesh's allocator, on each member chip.
        bytes: u64,
        /// The device that the buffers lay on; `None` if there were none.
        device: Option<Device>,
    },
    /// A buffer ended that the ledger doesn't know: it existed before the tracer attached, or the record of
    /// its allocation or creation was lost. No total changed.
    Unmatched,
    /// A buffer object ended that had no memory: it was hooked, a bulk free had already freed its memory, or
    /// it is the copy that a fork made of the parent's object. No total changed.
    HadNoMemory,
    /// An allocation failed.
    Failed,
    /// A graph capture hooked an allocation.
    Hooked,
    /// The process forked.
    Forked {
        /// The child's pid.
        child: u32,
    },
    /// The process executed a program.
    Executed {
        /// How many live owning buffers of the old program ended.
        buffers: u64,
        /// Their total size; for those on a mesh, on each member chip.
        bytes: u64,
    },
    /// The process ended.
    Exited,
    /// This many events were not recorded.
    Lost(u64),
    /// The event came after its process's end and was not applied.
    AfterExit,
}
