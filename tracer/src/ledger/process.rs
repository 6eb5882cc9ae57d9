//! The accounting of one process: what it holds, and which event changes what.

mod begins;
mod counters;
mod ends;
mod members;

use std::collections::{BTreeMap, HashMap, HashSet};

pub(crate) use counters::Counters;

use self::members::MemberDetection;
use super::{
    devices::{DeviceAccount, Devices},
    event::{
        AllocatorPointer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Nanoseconds,
        ObjectPointer,
    },
    failed::{FailedAllocation, FailedAllocations},
    group::{Count, GroupKey},
    live_buffer::LiveBuffer,
    marks::{Marks, Since},
    outcome::{Effect, Outcome},
    programs::{ProcessPrograms, ProgramEffect, ProgramEvent},
    space::{BankRange, Space, Spaces},
};

/// One process. Several processes may have had the same pid, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId {
    pub pid: u32,
    /// How many processes with this pid were traced before.
    pub generation: u32,
}

/// A process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub at: Nanoseconds,
    /// `None` if it isn't known how the process ended.
    pub how: Option<Exit>,
}

/// What one process has done with device memory, and what it holds. After the process's end: what it held
/// when it ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    devices: Devices,
    owning: HashMap<ObjectPointer, LiveBuffer>,
    non_owning: HashMap<ObjectPointer, LiveBuffer>,
    /// Where the owning buffers lie.
    spaces: Spaces,
    /// Buffer objects that exist but hold no memory: hooked ones, and those whose memory a bulk free has
    /// freed. TT-Metal may still deallocate them.
    without_memory: HashSet<ObjectPointer>,
    /// The copies of the parent's objects that a fork made. They refer to the parent's memory.
    inherited: HashSet<ObjectPointer>,
    parent: Option<ProcessId>,
    member_detection: MemberDetection,
    failed: FailedAllocations,
    temporary: HashMap<GroupKey, Count>,
    marks: Marks,
    programs: ProcessPrograms,
    /// The device of each allocator that has given an address.
    allocators: HashMap<AllocatorPointer, Device>,
    counters: Counters,
    end: Option<End>,
}

impl Process {
    /// A child process right after the fork.
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

    /// The process that forked this one, if it was traced.
    pub(crate) fn parent(&self) -> Option<ProcessId> {
        self.parent
    }

    /// Whether the process has had no event about device memory.
    pub(crate) fn is_silent(&self) -> bool {
        self.counters.memory_events == 0
    }

    /// Every device that the process has or had buffers on.
    pub(crate) fn devices(&self) -> &BTreeMap<Device, DeviceAccount> {
        self.devices.all()
    }

    /// The live owning buffers, in no particular order.
    pub(crate) fn owning(&self) -> impl ExactSizeIterator<Item = &LiveBuffer> {
        self.owning.values()
    }

    /// Whether the object is a live owning buffer, or the copy of one of the parent's objects.
    pub(crate) fn has(&self, object: ObjectPointer) -> bool {
        self.owning.contains_key(&object) || self.inherited.contains(&object)
    }

    /// The blocks in use in the banks of each allocator.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = Space> {
        self.spaces.all(|object| self.owning.get(&object))
    }

    /// The live non-owning buffers, in no particular order.
    pub(crate) fn non_owning(&self) -> impl ExactSizeIterator<Item = &LiveBuffer> {
        self.non_owning.values()
    }

    /// The first allocations that failed.
    pub(crate) fn failed_allocations(&self) -> &[FailedAllocation] {
        self.failed.all()
    }

    /// The owning buffers that were freed soon after their allocation, by group.
    pub(crate) fn temporary(&self) -> &HashMap<GroupKey, Count> {
        &self.temporary
    }

    /// What has changed since a mark; `None` if the process had ended by then.
    pub(crate) fn since(&self, mark: u32) -> Option<Since<'_>> {
        self.marks.since(mark)
    }

    /// The process's programs, and what they take of L1.
    pub(crate) fn programs(&self) -> &ProcessPrograms {
        &self.programs
    }

    /// How often each kind of thing happened.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The process's end, if it has ended.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether a later event has proved that the end of a buffer was not seen.
    pub(super) fn has_implied_ends(&self) -> bool {
        self.counters.implied_deallocations > 0 || self.counters.implied_destroys > 0
    }

    /// Applies an event. `temporary`: an owning buffer that is freed after at most this many other allocations
    /// counts as temporary.
    pub(super) fn apply(&mut self, event: &Event, temporary: u64) -> Outcome {
        let kind = event.kind;
        self.counters.received += u64::from(!matches!(kind, EventKind::Found(_)));
        self.counters.memory_events += u64::from(!kind.is_process_event());
        if self.end.is_some() && !matches!(kind, EventKind::Exit(_)) {
            self.counters.after_exit += 1;
            return Effect::AfterExit.into();
        }
        let mut implied_ends = Vec::new();
        let implied = &mut implied_ends;
        let effect = match kind {
            EventKind::Found(buffer) => self.find(buffer, event.time),
            EventKind::Allocate(buffer) => self.allocate(event, buffer, implied),
            EventKind::Create(buffer) => self.create(event, buffer, implied),
            EventKind::Deallocate(object) => self.deallocate(event, object, temporary, implied),
            EventKind::Destroy(object) => self.destroy(event, object, implied),
            EventKind::Hooked(buffer) => self.hook(event, buffer, implied),
            EventKind::Failed(buffer) => self.fail(event, buffer, implied),
            EventKind::BulkFree(allocator) => self.bulk_free(event, allocator),
            EventKind::Fork { child } => Effect::Forked { child },
            EventKind::Exec => self.execute(event.time),
            EventKind::Exit(how) => self.exit(how, event.time),
            EventKind::Lost(count) => Effect::Lost(count),
        };
        Outcome {
            implied_ends,
            effect,
        }
    }

    /// Of several exits the last one counts, but an exit of unknown cause doesn't replace a known cause.
    fn exit(&mut self, how: Option<Exit>, at: Nanoseconds) -> Effect {
        let how = how.or(self.end.and_then(|end| end.how));
        self.end = Some(End { at, how });
        Effect::Exited
    }

    pub(super) fn apply_to_programs(&mut self, event: &ProgramEvent) -> ProgramEffect {
        if self.end.is_some() {
            return ProgramEffect::AfterExit;
        }
        let devices = self.devices.all();
        let members = |device| {
            let account = devices.get(&device);
            account
                .map(|account| account.members.clone())
                .unwrap_or_default()
        };
        // A process that has only one mesh dispatches its programs to that mesh.
        let mut meshes = devices
            .keys()
            .filter(|device| device.kind == DeviceKind::Mesh);
        let only_mesh = meshes.next().copied().filter(|_| meshes.next().is_none());
        self.programs.apply(event, &members, only_mesh)
    }

    pub(super) fn mark(&mut self, mark: u32) {
        let allocations = self.counters.allocations;
        self.marks
            .add(mark, allocations, self.devices.all(), self.end.is_some());
    }

    /// Events were lost, maybe of this process: a creation may now follow a mesh's allocation that it has
    /// nothing to do with.
    pub(super) fn after_loss(&mut self) {
        self.member_detection.clear();
    }

    pub(super) fn add_members(&mut self, mesh: Device, chips: impl IntoIterator<Item = u32>) {
        for chip in chips {
            self.devices.add_member(mesh, chip);
        }
    }

    pub(super) fn set_bank_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        self.spaces.set_bank_range(allocator, buffer_type, range);
        self.failed.set_bank_range(allocator, buffer_type, range);
    }

    pub(super) fn expect_unknown_buffers(&mut self) {
        self.spaces.expect_unknown_buffers();
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
}
