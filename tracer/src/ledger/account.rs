//! What one type of memory has been through on one device.

use std::ops::{Index, IndexMut};

use super::{BufferType, Nanoseconds, composition::PeakOf};

/// Bytes and buffers of one [`BufferType`] on one device, now and in sum. Bytes are those of
/// owning buffers only; sums saturate rather than wrap, so a wrong record cannot make a total of
/// nonsense from an underflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes of the buffers that are live.
    pub live_bytes: u64,
    /// Number of the buffers that are live.
    pub live_buffers: u64,
    /// The most that `live_bytes` has ever been.
    pub peak_bytes: u64,
    /// When `peak_bytes` was first reached; 0 if nothing was ever live.
    pub peak_at: Nanoseconds,
    /// Bytes allocated while the tracer watched.
    pub allocated_bytes: u64,
    /// Bytes freed while the tracer watched.
    pub freed_bytes: u64,
    /// Number of allocations that the tracer saw.
    pub allocations: u64,
    /// Number of buffers that ended, by whatever way, while the tracer watched.
    pub deallocations: u64,
    /// When `live_bytes` got the value that it has.
    changed_at: Nanoseconds,
}

impl Account {
    /// A buffer of `bytes` is live from `at` on, without having been allocated under the tracer's
    /// eyes. Says whether so much was never live before.
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

    /// Takes a [`hold`](Self::hold) back: the buffer turns out to have been allocated under the
    /// tracer's eyes.
    pub(super) fn release(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_buffers = self.live_buffers.saturating_sub(1);
    }

    /// A buffer of `bytes` was allocated. Says whether so much was never live before.
    pub(super) fn allocate(&mut self, bytes: u64, at: Nanoseconds) -> bool {
        let maximum = self.hold(bytes, at);
        self.allocated_bytes = self.allocated_bytes.saturating_add(bytes);
        self.allocations = self.allocations.saturating_add(1);
        maximum
    }

    /// A live buffer of `bytes` ended.
    pub(super) fn free(&mut self, bytes: u64, at: Nanoseconds) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_buffers = self.live_buffers.saturating_sub(1);
        self.freed_bytes = self.freed_bytes.saturating_add(bytes);
        self.deallocations = self.deallocations.saturating_add(1);
        self.changed_at = at;
    }

    /// Takes over what a mesh's account holds and has been through, for a chip that turns out to
    /// be a member of the mesh. Says whose peak is the chip's from now on.
    ///
    /// The sum's peak is exact when the mesh's account is no older than its last allocation, which
    /// is the rule: a member shows itself right after the first. When events were lost and it shows
    /// itself later, the peak is the largest of what is certain.
    pub(super) fn take_over(&mut self, mesh: &Self) -> PeakOf {
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
        for (whose, bytes, at) in [
            (PeakOf::Other, mesh.peak_bytes, mesh.peak_at),
            (PeakOf::Sum, self.live_bytes, self.changed_at),
        ] {
            if bytes > self.peak_bytes {
                peak = whose;
                self.peak_bytes = bytes;
                self.peak_at = at;
            }
        }
        peak
    }

    /// Whether this type of memory was ever in use.
    pub fn is_used(&self) -> bool {
        self.live_buffers > 0 || self.allocations > 0 || self.deallocations > 0
    }
}

/// One of something for each [`BufferType`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByType<T>([T; BufferType::ALL.len()]);

/// One [`Account`] for each [`BufferType`].
pub type Memory = ByType<Account>;

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
