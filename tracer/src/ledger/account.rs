//! The account of one type of memory on one device: what is live, the peak, and the totals.

use std::ops::{Index, IndexMut};

use super::{
    composition::PeakOf,
    event::{BufferType, Nanoseconds},
};

/// Bytes and buffers of one [`BufferType`] on one device: live ones, and totals. Only owning buffers count.
/// Sums saturate rather than wrap, so a wrong record can't turn a total into nonsense by an underflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Bytes of the live buffers.
    pub live_bytes: u64,
    /// Number of live buffers.
    pub live_buffers: u64,
    /// The most that `live_bytes` has ever been.
    pub peak_bytes: u64,
    /// When `peak_bytes` was first reached; 0 if nothing was ever live.
    pub peak_at: Nanoseconds,
    /// Bytes allocated since the tracer attached.
    pub allocated_bytes: u64,
    /// Bytes freed since the tracer attached.
    pub freed_bytes: u64,
    /// Number of allocations since the tracer attached.
    pub allocations: u64,
    /// Number of buffers that ended since the tracer attached, in whatever way.
    pub deallocations: u64,
    /// When `live_bytes` got its current value.
    changed_at: Nanoseconds,
}

impl Account {
    /// Adds a buffer that is live from `at` on but whose allocation the tracer didn't see. Returns whether
    /// the live bytes reach a new maximum.
    pub(super) fn hold(&mut self, bytes: u64, at: Nanoseconds) -> bool {
        self.live_bytes = self.live_bytes.saturating_add(bytes);
        self.live_buffers = self.live_buffers.saturating_add(1);
        self.changed_at = at;
        let maximum = self.live_bytes > self.peak_bytes;
        if maximum {
            self.peak_bytes = self.live_bytes;
            self.peak_at = at;
        }
        maximum
    }

    /// Takes a [`hold`](Self::hold) back, because the tracer does see the buffer's allocation.
    pub(super) fn release(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_buffers = self.live_buffers.saturating_sub(1);
    }

    /// Adds a buffer that was allocated. Returns whether the live bytes reach a new maximum.
    pub(super) fn allocate(&mut self, bytes: u64, at: Nanoseconds) -> bool {
        let maximum = self.hold(bytes, at);
        self.allocated_bytes = self.allocated_bytes.saturating_add(bytes);
        self.allocations = self.allocations.saturating_add(1);
        maximum
    }

    /// Removes a live buffer that ended.
    pub(super) fn free(&mut self, bytes: u64, at: Nanoseconds) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_buffers = self.live_buffers.saturating_sub(1);
        self.freed_bytes = self.freed_bytes.saturating_add(bytes);
        self.deallocations = self.deallocations.saturating_add(1);
        self.changed_at = at;
    }

    /// Adds a mesh's account to the account of a chip that is now known to be a member of the mesh. Returns
    /// which peak is the chip's peak from now on.
    ///
    /// Usually the mesh's account has only one allocation by then, because the creation of a member's buffer
    /// follows right after it: then the peak of the sum is exact. If events were lost and the membership
    /// shows later, the peak is the largest value that is certain.
    pub(super) fn merge(&mut self, mesh: &Self) -> PeakOf {
        let before = *self;
        *self = Self {
            live_bytes: before.live_bytes.saturating_add(mesh.live_bytes),
            live_buffers: before.live_buffers.saturating_add(mesh.live_buffers),
            peak_bytes: before.peak_bytes,
            peak_at: before.peak_at,
            allocated_bytes: before.allocated_bytes.saturating_add(mesh.allocated_bytes),
            freed_bytes: before.freed_bytes.saturating_add(mesh.freed_bytes),
            allocations: before.allocations.saturating_add(mesh.allocations),
            deallocations: before.deallocations.saturating_add(mesh.deallocations),
            changed_at: before.changed_at.max(mesh.changed_at),
        };
        let mut peak = PeakOf::Own;
        if mesh.peak_bytes > self.peak_bytes {
            peak = PeakOf::Other;
            (self.peak_bytes, self.peak_at) = (mesh.peak_bytes, mesh.peak_at);
        }
        let now = (self.live_bytes, self.changed_at);
        // If one account's peak is now, the sum has also the other account's buffers of 0 bytes.
        let is_peak = self.live_bytes > 0 && now == (self.peak_bytes, self.peak_at);
        if self.live_bytes > self.peak_bytes || is_peak {
            peak = PeakOf::Sum;
            (self.peak_bytes, self.peak_at) = now;
        }
        peak
    }
}

/// One value for each [`BufferType`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByType<T>([T; BufferType::ALL.len()]);

/// One [`Account`] for each [`BufferType`].
pub(super) type Memory = ByType<Account>;

impl<T> Index<BufferType> for ByType<T> {
    type Output = T;

    fn index(&self, buffer_type: BufferType) -> &T {
        &self.0[buffer_type as usize]
    }
}

impl<T> IndexMut<BufferType> for ByType<T> {
    fn index_mut(&mut self, buffer_type: BufferType) -> &mut T {
        &mut self.0[buffer_type as usize]
    }
}
