//! How often each kind of thing happened in one process.

/// How often each kind of thing happened in one process. A non-owning buffer's end is its *destruction*, an
/// owning buffer's its *deallocation*. An end is *unmatched* if the ledger doesn't know the buffer, and
/// *implied* if the tracer didn't see it but a later event proves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Events of every kind but [`EventKind::Lost`](super::super::EventKind::Lost) and
    /// [`EventKind::Found`](super::super::EventKind::Found), whether applied or not.
    pub received: u64,
    /// Events about device memory, including those that were found.
    pub memory_events: u64,
    /// Events that came after the process's end and were not applied.
    pub after_exit: u64,
    /// Bulk frees, including those that had nothing to free.
    pub bulk_frees: u64,
    /// Owning buffers that got an address.
    pub allocations: u64,
    /// Allocations that the allocator refused.
    pub failed_allocations: u64,
    /// Allocations that a graph capture replaced.
    pub hooked_allocations: u64,
    /// Unmatched deallocations.
    pub unmatched_deallocations: u64,
    /// Implied deallocations. The accounts count them as deallocations, too.
    pub implied_deallocations: u64,
    /// Creations of non-owning buffers.
    pub created: u64,
    /// Destructions of live non-owning buffers, including implied ones.
    pub destroyed: u64,
    /// Unmatched destructions.
    pub unmatched_destroys: u64,
    /// Implied destructions.
    pub implied_destroys: u64,
}
