//! How buffers end: ends that the tracer saw, and ends that a later event proves (implied ends).

use super::{
    super::{
        event::{AllocatorPointer, Buffer, Event, Nanoseconds, ObjectPointer},
        live_buffer::{LiveBuffer, Provenance},
        outcome::Effect,
        space::Spaces,
    },
    Process,
};

impl Process {
    /// `temporary`: see [`Process::apply`].
    pub(super) fn deallocate(
        &mut self,
        event: &Event,
        object: ObjectPointer,
        temporary: u64,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.member_detection.interrupted(event.tid);
        if let Some(live) = self.end_owning(object, event.time) {
            self.count_if_temporary(&live, temporary);
            return Effect::Deallocated(live);
        }
        // If a non-owning buffer is live at this object, it has ended, and an owning one took its place.
        self.imply_destroy(object, implied_ends);
        if self.without_memory.remove(&object) || self.inherited.remove(&object) {
            return Effect::HadNoMemory;
        }
        self.counters.unmatched_deallocations += 1;
        Effect::Unmatched
    }

    pub(super) fn destroy(
        &mut self,
        event: &Event,
        object: ObjectPointer,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.member_detection.interrupted(event.tid);
        if let Some(live) = self.non_owning.remove(&object) {
            self.counters.destroyed += 1;
            return Effect::Destroyed(live);
        }
        self.imply_deallocation(object, event.time, implied_ends);
        self.without_memory.remove(&object);
        if self.inherited.remove(&object) {
            return Effect::HadNoMemory;
        }
        self.counters.unmatched_destroys += 1;
        Effect::Unmatched
    }

    pub(super) fn execute(&mut self, at: Nanoseconds) -> Effect {
        let ended: Vec<LiveBuffer> = self.owning.drain().map(|(_, live)| live).collect();
        self.spaces = Spaces::default();
        let mut bytes = 0_u64;
        for live in &ended {
            self.free(live, at);
            bytes = bytes.saturating_add(live.buffer.size);
        }
        self.counters.destroyed += self.non_owning.len() as u64;
        self.non_owning.clear();
        self.without_memory.clear();
        self.inherited.clear();
        self.member_detection.clear();
        self.programs.clear();
        self.allocators.clear();
        Effect::Executed {
            buffers: ended.len() as u64,
            bytes,
        }
    }

    pub(super) fn bulk_free(&mut self, event: &Event, allocator: AllocatorPointer) -> Effect {
        self.member_detection.interrupted(event.tid);
        self.counters.bulk_frees += 1;
        if let Some(device) = self.allocators.remove(&allocator) {
            let account = self.devices.all().get(&device);
            let members = account.map(|account| account.members.clone());
            self.programs
                .close_device(device, &members.unwrap_or_default());
        }
        self.spaces
            .before_bulk_free(allocator, &self.owning, event.time);
        self.failed.after_bulk_free(allocator);
        let freed: Vec<LiveBuffer> = self
            .owning
            .extract_if(|_, live| live.buffer.allocator == allocator)
            .map(|(_, live)| live)
            .collect();
        let mut bytes = 0_u64;
        for live in &freed {
            self.free(live, event.time);
            self.without_memory.insert(live.buffer.object);
            bytes = bytes.saturating_add(live.buffer.size);
        }
        Effect::BulkFreed {
            buffers: freed.len() as u64,
            bytes,
            device: freed.first().map(|live| live.buffer.device),
        }
    }

    /// Ends all that the ledger knows at an object's address: a new buffer there proves that it has ended.
    pub(super) fn end_previous(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied_ends: &mut Vec<LiveBuffer>,
    ) {
        self.imply_deallocation(object, at, implied_ends);
        self.imply_destroy(object, implied_ends);
        self.without_memory.remove(&object);
        self.inherited.remove(&object);
    }

    /// Ends the buffer that lies at the device address of a new one: an allocator gives no address twice, so
    /// the earlier buffer has been freed.
    pub(super) fn end_at_address(
        &mut self,
        buffer: &Buffer,
        at: Nanoseconds,
        implied_ends: &mut Vec<LiveBuffer>,
    ) {
        if let Some(object) = self.spaces.at(buffer) {
            self.imply_deallocation(object, at, implied_ends);
        }
    }

    fn imply_deallocation(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied_ends: &mut Vec<LiveBuffer>,
    ) {
        if let Some(live) = self.end_owning(object, at) {
            self.counters.implied_deallocations += 1;
            implied_ends.push(live);
        }
    }

    fn imply_destroy(&mut self, object: ObjectPointer, implied_ends: &mut Vec<LiveBuffer>) {
        if let Some(live) = self.non_owning.remove(&object) {
            self.counters.destroyed += 1;
            self.counters.implied_destroys += 1;
            implied_ends.push(live);
        }
    }

    fn end_owning(&mut self, object: ObjectPointer, at: Nanoseconds) -> Option<LiveBuffer> {
        let live = self.owning.remove(&object)?;
        self.free(&live, at);
        Some(live)
    }

    /// Takes an owning buffer that has ended out of the accounts.
    fn free(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.marks.end(live);
        self.spaces.remove(&live.buffer);
        self.devices.free(live, at);
    }

    fn count_if_temporary(&mut self, live: &LiveBuffer, max_between: u64) {
        let Provenance::Traced { allocations, .. } = live.provenance else {
            return;
        };
        if self.counters.allocations.saturating_sub(allocations) <= max_between {
            let count = self.temporary.entry(live.group_key()).or_default();
            count.add(live.buffer.size);
        }
    }
}
