//! The ends of buffers: those that are seen, and those that what comes after proves.

use super::{
    super::{
        AllocatorPointer, Buffer, Effect, LiveBuffer, Nanoseconds, ObjectPointer, space::Spaces,
    },
    Process,
};

impl Process {
    pub(super) fn deallocate(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied: &mut Vec<LiveBuffer>,
    ) -> Effect {
        if let Some(live) = self.end_owning(object, at) {
            return Effect::Deallocated(live);
        }
        // An object that is live as non-owning has ended, and an owning one has taken its place.
        self.imply_destroy(object, implied);
        if self.without_memory.remove(&object) || self.inherited.remove(&object) {
            return Effect::HadNoMemory;
        }
        self.counters.unmatched_deallocations += 1;
        Effect::Unmatched
    }

    pub(super) fn destroy(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied: &mut Vec<LiveBuffer>,
    ) -> Effect {
        if let Some(live) = self.non_owning.remove(&object) {
            self.counters.destroyed += 1;
            return Effect::Destroyed(live);
        }
        self.imply_deallocation(object, at, implied);
        self.without_memory.remove(&object);
        if self.inherited.remove(&object) {
            return Effect::HadNoMemory;
        }
        self.counters.unmatched_destroys += 1;
        Effect::Unmatched
    }

    pub(super) fn execute(&mut self, at: Nanoseconds) -> Effect {
        let gone: Vec<LiveBuffer> = self.owning.drain().map(|(_, live)| live).collect();
        self.spaces = Spaces::default();
        let mut bytes = 0_u64;
        for live in &gone {
            self.close(live, at);
            bytes = bytes.saturating_add(live.buffer.size);
        }
        self.counters.destroyed += self.non_owning.len() as u64;
        self.non_owning.clear();
        self.without_memory.clear();
        self.inherited.clear();
        self.announcing.clear();
        self.programs.clear();
        self.allocators.clear();
        Effect::Executed {
            buffers: gone.len() as u64,
            bytes,
        }
    }

    pub(super) fn bulk_free(&mut self, allocator: AllocatorPointer, at: Nanoseconds) -> Effect {
        self.counters.bulk_frees += 1;
        if let Some(device) = self.allocators.remove(&allocator) {
            let account = self.devices.all().get(&device);
            let members = account.map(|account| account.members.clone());
            self.programs.close(device, &members.unwrap_or_default());
        }
        self.spaces.free_all(allocator, &self.owning, at);
        self.failed.free_all(allocator);
        let freed: Vec<LiveBuffer> = self
            .owning
            .extract_if(|_, live| live.buffer.allocator == allocator)
            .map(|e| e.1)
            .collect();
        let mut bytes = 0_u64;
        for live in &freed {
            self.close(live, at);
            self.without_memory.insert(live.buffer.object);
            bytes = bytes.saturating_add(live.buffer.size);
        }
        Effect::BulkFreed {
            buffers: freed.len() as u64,
            bytes,
            device: freed.first().map(|live| live.buffer.device),
        }
    }

    /// A new buffer at an object's address proves that whatever lived there has ended.
    pub(super) fn end_previous(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied: &mut Vec<LiveBuffer>,
    ) {
        self.imply_deallocation(object, at, implied);
        self.imply_destroy(object, implied);
        self.without_memory.remove(&object);
        self.inherited.remove(&object);
    }

    /// An allocator gives no address twice: whoever had this one has given it back.
    pub(super) fn end_at_place(
        &mut self,
        buffer: &Buffer,
        at: Nanoseconds,
        implied: &mut Vec<LiveBuffer>,
    ) {
        if let Some(object) = self.spaces.at(buffer) {
            self.imply_deallocation(object, at, implied);
        }
    }

    fn imply_deallocation(
        &mut self,
        object: ObjectPointer,
        at: Nanoseconds,
        implied: &mut Vec<LiveBuffer>,
    ) {
        if let Some(live) = self.end_owning(object, at) {
            self.counters.implied_deallocations += 1;
            implied.push(live);
        }
    }

    fn imply_destroy(&mut self, object: ObjectPointer, implied: &mut Vec<LiveBuffer>) {
        if let Some(live) = self.non_owning.remove(&object) {
            self.counters.destroyed += 1;
            self.counters.implied_destroys += 1;
            implied.push(live);
        }
    }

    fn end_owning(&mut self, object: ObjectPointer, at: Nanoseconds) -> Option<LiveBuffer> {
        let live = self.owning.remove(&object)?;
        self.close(&live, at);
        Some(live)
    }

    /// Takes an owning buffer that is live no more out of the accounts.
    fn close(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.marks.end(live);
        self.spaces.remove(&live.buffer);
        self.devices.free(live, at);
    }
}
