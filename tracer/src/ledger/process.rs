//! The accounting of one process: the rules. Those about ends have a file of their own.

mod ends;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::devices::Devices;
use super::failed::{FailedAllocation, FailedAllocations};
use super::mark::{Marks, Since};
use super::space::{BankRange, Space, Spaces};
use super::{
    AllocatorPointer, Birth, Buffer, BufferType, Device, DeviceAccount, DeviceKind, Effect, Event,
    EventKind, Exit, LiveBuffer, Nanoseconds, ObjectPointer, Outcome, Ownership, ProcessId,
    ProcessPrograms, ProgramEffect, ProgramEvent, Source, Tally,
};

/// How often what happened, in one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that came, of every kind but [`EventKind::Lost`], applied or not.
    pub received: u64,
    /// Those of them that were about device memory.
    pub memory_events: u64,
    /// Events that came after the process's end and were not applied.
    pub after_exit: u64,
    /// [`EventKind::BulkFree`]s, also those that had nothing to free.
    pub bulk_frees: u64,
    /// Owning buffers that got an address.
    pub allocations: u64,
    /// Allocations that the allocator refused.
    pub failed_allocations: u64,
    /// Allocations that a graph capture took the place of.
    pub hooked_allocations: u64,
    /// Ends of owning buffers that the ledger does not know.
    pub unmatched_deallocations: u64,
    /// Ends of owning buffers that were never seen but are proven by what came after; also counted
    /// among the deallocations.
    pub implied_deallocations: u64,
    /// Births of non-owning buffers.
    pub created: u64,
    /// Ends of non-owning buffers that were live.
    pub destroyed: u64,
    /// Ends of non-owning buffers that the ledger does not know.
    pub unmatched_destroys: u64,
    /// Ends of non-owning buffers that were never seen but are proven by what came after; also
    /// counted among the destroyed.
    pub implied_destroys: u64,
}

/// A process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Nanoseconds,
    /// How; `None` if that isn't known.
    pub how: Option<Exit>,
}

/// What buffers have in common that lie on one device, in one type of memory, and come from one place.
pub type Kin = (Device, BufferType, Source);

/// What one process has done with device memory, and what it holds. After its end: what it held
/// until then.
#[derive(Clone, Debug, Default)]
pub struct Process {
    devices: Devices,
    owning: HashMap<ObjectPointer, LiveBuffer>,
    non_owning: HashMap<ObjectPointer, LiveBuffer>,
    /// Where the owning buffers lie.
    spaces: Spaces,
    /// Buffer objects that exist but hold no memory: hooked ones, and those
    /// whose memory a bulk free took. TT-Metal may still deallocate them.
    without_memory: HashSet<ObjectPointer>,
    /// The copies of a parent's objects that a fork made. They stand for the parent's memory.
    inherited: HashSet<ObjectPointer>,
    parent: Option<ProcessId>,
    /// For each thread the mesh's buffer that it has just allocated, as long as nothing but
    /// buffers for the mesh's members followed.
    announcing: HashMap<u32, ObjectPointer>,
    failed: FailedAllocations,
    temporary: HashMap<Kin, Tally>,
    marks: Marks,
    programs: ProcessPrograms,
    /// The device of each allocator that gave anything.
    allocators: HashMap<AllocatorPointer, Device>,
    counters: Counters,
    end: Option<End>,
}

impl Process {
    /// A child right after the fork.
    pub(super) fn forked(parent: &Self, id: ProcessId) -> Self {
        let inherited = parent.owning.keys().chain(parent.non_owning.keys());
        Self {
            devices: parent.devices.without_memory(),
            inherited: inherited
                .chain(&parent.without_memory)
                .chain(&parent.inherited)
                .copied()
                .collect(),
            parent: Some(id),
            ..Self::default()
        }
    }

    /// The process that forked it, if that was traced.
    pub fn parent(&self) -> Option<ProcessId> {
        self.parent
    }

    /// Whether it ever did anything to device memory.
    pub fn is_silent(&self) -> bool {
        self.counters.memory_events == 0
    }

    /// Every device that a buffer was made on.
    pub fn devices(&self) -> &BTreeMap<Device, DeviceAccount> {
        self.devices.all()
    }

    /// The live owning buffers, in no order.
    pub fn owning(&self) -> impl ExactSizeIterator<Item = &LiveBuffer> {
        self.owning.values()
    }

    /// Whether a live owning buffer, or the copy of a parent's, is known by that object.
    pub fn has(&self, object: ObjectPointer) -> bool {
        self.owning.contains_key(&object) || self.inherited.contains(&object)
    }

    /// What lies where in the banks of each allocator.
    pub fn spaces(&self) -> impl Iterator<Item = Space> {
        self.spaces.all(|object| self.owning.get(&object))
    }

    /// The live non-owning buffers, in no order.
    pub fn non_owning(&self) -> impl ExactSizeIterator<Item = &LiveBuffer> {
        self.non_owning.values()
    }

    /// The first allocations that failed.
    pub fn failed_allocations(&self) -> &[FailedAllocation] {
        self.failed.all()
    }

    /// The owning buffers that were freed soon after their birth.
    pub fn temporary(&self) -> &HashMap<Kin, Tally> {
        &self.temporary
    }

    /// What has changed since a mark of the ledger's; `None` if the process had ended by then.
    pub fn since(&self, mark: u32) -> Option<Since<'_>> {
        self.marks.since(mark)
    }

    pub(super) fn mark(&mut self, mark: u32) {
        let allocations = self.counters.allocations;
        self.marks
            .note(mark, allocations, self.devices.all(), self.end.is_some());
    }

    /// Its programs, and what they take of L1.
    pub fn programs(&self) -> &ProcessPrograms {
        &self.programs
    }

    pub(super) fn apply_to_programs(&mut self, event: &ProgramEvent) -> ProgramEffect {
        if self.end.is_some() {
            return ProgramEffect::AfterExit;
        }
        let all = self.devices.all();
        let members = |device| {
            let account = all.get(&device);
            account
                .map(|account| account.members.clone())
                .unwrap_or_default()
        };
        // A process that has one mesh dispatches to that.
        let mut meshes = all.keys().filter(|device| device.kind == DeviceKind::Mesh);
        let only = meshes.next().copied().filter(|_| meshes.next().is_none());
        self.programs.apply(event, &members, only)
    }

    /// How often what happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The process's end, if it came.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether something proves that an event of this process was never seen.
    pub(super) fn proves_loss(&self) -> bool {
        self.counters.implied_deallocations > 0 || self.counters.implied_destroys > 0
    }

    /// `temporary`: with how many others in between an allocation that is freed counts as temporary.
    pub(super) fn apply(&mut self, event: &Event, temporary: u64) -> Outcome {
        let &Event {
            pid: _,
            tid,
            time: at,
            kind,
            stack,
        } = event;
        self.counters.received += u64::from(!matches!(kind, EventKind::Found(_)));
        self.counters.memory_events += u64::from(!kind.is_of_life());
        if self.end.is_some() && !matches!(kind, EventKind::Exit(_)) {
            self.counters.after_exit += 1;
            return Outcome {
                implied: Vec::new(),
                effect: Effect::AfterExit,
            };
        }

        let mut implied = Vec::new();
        let effect = match kind {
            EventKind::Found(buffer) => self.find(buffer, at),
            EventKind::Allocate(buffer) => {
                self.retract(&buffer);
                self.end_previous(buffer.object, at, &mut implied);
                self.end_at_place(&buffer, at, &mut implied);
                self.counters.allocations += 1;
                self.begin(
                    LiveBuffer {
                        buffer,
                        birth: self.birth(event),
                    },
                    at,
                );
                if buffer.device.kind == DeviceKind::Mesh {
                    self.announcing.insert(tid, buffer.object);
                } else {
                    self.announcing.remove(&tid);
                }
                Effect::Allocated
            }
            EventKind::Create(buffer) => {
                self.end_previous(buffer.object, at, &mut implied);
                self.begin(
                    LiveBuffer {
                        buffer,
                        birth: self.birth(event),
                    },
                    at,
                );
                Effect::Created {
                    joined: self.learn_member(tid, &buffer),
                }
            }
            EventKind::Deallocate(object) => {
                self.announcing.remove(&tid);
                let effect = self.deallocate(object, at, &mut implied);
                if let Effect::Deallocated(live) = &effect {
                    self.note_temporary(live, temporary);
                }
                effect
            }
            EventKind::Destroy(object) => {
                self.announcing.remove(&tid);
                self.destroy(object, at, &mut implied)
            }
            EventKind::Hooked(buffer) => {
                self.announcing.remove(&tid);
                self.end_previous(buffer.object, at, &mut implied);
                self.devices.note(buffer.device);
                self.without_memory.insert(buffer.object);
                self.counters.hooked_allocations += 1;
                Effect::Hooked
            }
            EventKind::Failed(buffer) => {
                self.announcing.remove(&tid);
                self.end_previous(buffer.object, at, &mut implied);
                self.devices.note(buffer.device);
                self.counters.failed_allocations += 1;
                let account = self.devices.all().get(&buffer.device);
                let held = account.map(|account| &account.composition[buffer.buffer_type]);
                let in_detail = self.failed.wants_space();
                let asked = self
                    .spaces
                    .asked(&buffer, in_detail, |object| self.owning.get(&object));
                self.failed.note(buffer, at, tid, stack, held, asked);
                Effect::Failed
            }
            EventKind::BulkFree(allocator) => {
                self.announcing.remove(&tid);
                self.bulk_free(allocator, at)
            }
            EventKind::Fork { child } => Effect::Forked { child },
            EventKind::Exec => self.execute(at),
            EventKind::Exit(how) => {
                // The last one tells how the process ended; one that doesn't know takes nothing
                // from what an earlier one knew.
                let how = how.or(self.end.and_then(|end| end.how));
                self.end = Some(End { at, how });
                Effect::Exited
            }
            EventKind::Lost(count) => Effect::Lost(count),
        };
        Outcome { implied, effect }
    }

    /// Forgets which thread is announcing which mesh's members: with events missing, a birth may
    /// follow an allocation that it has nothing to do with.
    pub(super) fn after_loss(&mut self) {
        self.announcing.clear();
    }

    pub(super) fn join(&mut self, mesh: Device, chips: impl IntoIterator<Item = u32>) {
        for chip in chips {
            self.devices.join(mesh, chip);
        }
    }

    pub(super) fn know_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        self.spaces.know_range(allocator, buffer_type, range);
        self.failed.know_range(allocator, buffer_type, range);
    }

    pub(super) fn misses_some(&mut self) {
        self.spaces.misses_some();
    }

    pub(super) fn forget_lengths(&mut self) {
        let owning = self.owning.values_mut();
        owning.for_each(|live| live.buffer.bytes_per_bank = None);
        self.spaces.forget_lengths();
        self.failed.forget_lengths();
    }

    pub(super) fn inherit(&mut self, object: ObjectPointer) {
        self.inherited.insert(object);
    }

    fn birth(&self, event: &Event) -> Birth {
        Birth::Traced {
            at: event.time,
            tid: event.tid,
            stack: event.stack,
            allocations: self.counters.allocations,
        }
    }

    fn note_temporary(&mut self, live: &LiveBuffer, most_between: u64) {
        let Birth::Traced { allocations, .. } = live.birth else {
            return;
        };
        if self.counters.allocations.saturating_sub(allocations) <= most_between {
            let buffer = &live.buffer;
            let kind = (buffer.device, buffer.buffer_type, live.source());
            self.temporary.entry(kind).or_default().add(buffer.size);
        }
    }

    fn find(&mut self, buffer: Buffer, at: Nanoseconds) -> Effect {
        if self.owning.contains_key(&buffer.object) {
            return Effect::Known;
        }
        let birth = Birth::BeforeAttach;
        self.begin(LiveBuffer { buffer, birth }, at);
        Effect::Found
    }

    /// A buffer that was found in memory and of whose allocation the event comes only now was found
    /// in the middle of it.
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

    pub(super) fn begin(&mut self, live: LiveBuffer, at: Nanoseconds) {
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
                self.devices.note(buffer.device);
                self.counters.created += u64::from(!live.before_attach());
                self.non_owning.insert(buffer.object, live);
            }
        }
    }

    /// Right after a mesh's allocation TT-Metal makes, in the same thread, one non-owning buffer
    /// on each member chip, at the same address and of the same type and size. Views and kernel
    /// binaries are non-owning too; they differ in one of these, or come after something else.
    fn learn_member(&mut self, tid: u32, buffer: &Buffer) -> Option<Device> {
        let announced = self
            .announcing
            .get(&tid)
            .and_then(|object| self.owning.get(object));
        let mesh = announced.map(|live| live.buffer).filter(|mesh| {
            buffer.device.kind == DeviceKind::Chip
                && (mesh.address, mesh.buffer_type, mesh.size)
                    == (buffer.address, buffer.buffer_type, buffer.size)
        });
        let Some(mesh) = mesh else {
            self.announcing.remove(&tid);
            return None;
        };
        self.devices
            .join(mesh.device, buffer.device.id)
            .then_some(mesh.device)
    }
}
