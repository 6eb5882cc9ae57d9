//! How buffers begin: allocations, including failed and hooked ones, creations, and what the attach snapshot
//! contains.

use super::{
    super::{
        event::{Buffer, Event, Nanoseconds, Ownership},
        live_buffer::{LiveBuffer, Provenance},
        outcome::Effect,
    },
    Process,
};

impl Process {
    pub(super) fn find(&mut self, buffer: Buffer, at: Nanoseconds) -> Effect {
        if self.owning.contains_key(&buffer.object) {
            return Effect::Known;
        }
        let provenance = Provenance::BeforeAttach;
        self.begin(LiveBuffer { buffer, provenance }, at);
        Effect::Found
    }

    pub(super) fn allocate(
        &mut self,
        event: &Event,
        buffer: Buffer,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.retract(&buffer);
        self.end_previous(buffer.object, event.time, implied_ends);
        self.end_at_address(&buffer, event.time, implied_ends);
        self.counters.allocations += 1;
        self.begin_traced(event, buffer);
        self.member_detection.allocated(event.tid, &buffer);
        Effect::Allocated
    }

    pub(super) fn create(
        &mut self,
        event: &Event,
        buffer: Buffer,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.end_previous(buffer.object, event.time, implied_ends);
        self.begin_traced(event, buffer);
        let of_mesh = self
            .member_detection
            .created(event.tid, &buffer, &self.owning);
        let mesh = of_mesh.map(|of_mesh| of_mesh.device);
        Effect::Created {
            joined: mesh.filter(|mesh| self.devices.add_member(*mesh, buffer.device.id)),
        }
    }

    pub(super) fn hook(
        &mut self,
        event: &Event,
        buffer: Buffer,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.member_detection.interrupted(event.tid);
        self.end_previous(buffer.object, event.time, implied_ends);
        self.devices.add(buffer.device);
        self.without_memory.insert(buffer.object);
        self.counters.hooked_allocations += 1;
        Effect::Hooked
    }

    pub(super) fn fail(
        &mut self,
        event: &Event,
        buffer: Buffer,
        implied_ends: &mut Vec<LiveBuffer>,
    ) -> Effect {
        self.member_detection.interrupted(event.tid);
        self.end_previous(buffer.object, event.time, implied_ends);
        self.devices.add(buffer.device);
        self.counters.failed_allocations += 1;
        let account = self.devices.all().get(&buffer.device);
        let composition = account.map(|account| &account.composition[buffer.buffer_type]);
        let owning = |object| self.owning.get(&object);
        let in_detail = self.failed.wants_space();
        let banks = self.spaces.at_failure(&buffer, in_detail, owning);
        self.failed.add(event, buffer, composition, banks);
        Effect::Failed
    }

    /// Takes back that a buffer was found, if its allocation comes only now: the snapshot was read in the
    /// middle of the allocation.
    fn retract(&mut self, buffer: &Buffer) {
        let found = self
            .owning
            .get(&buffer.object)
            .filter(|live| live.before_attach() && live.buffer.is_same_as(buffer));
        if let Some(live) = found.copied() {
            self.owning.remove(&buffer.object);
            self.spaces.remove(buffer);
            self.devices.release(&live);
        }
    }

    fn begin_traced(&mut self, event: &Event, buffer: Buffer) {
        let provenance = Provenance::Traced {
            at: event.time,
            tid: event.tid,
            stack: event.stack,
            allocations: self.counters.allocations,
        };
        self.begin(LiveBuffer { buffer, provenance }, event.time);
    }

    fn begin(&mut self, live: LiveBuffer, at: Nanoseconds) {
        let buffer = live.buffer;
        match buffer.ownership {
            Ownership::Owning => {
                if live.before_attach() {
                    self.devices.hold(&live, at);
                } else {
                    self.devices.allocate(&live, at);
                }
                self.spaces.insert(&buffer);
                self.allocators.insert(buffer.allocator, buffer.device);
                self.owning.insert(buffer.object, live);
            }
            Ownership::NonOwning => {
                self.devices.add(buffer.device);
                self.counters.created += u64::from(!live.before_attach());
                self.non_owning.insert(buffer.object, live);
            }
        }
    }
}
