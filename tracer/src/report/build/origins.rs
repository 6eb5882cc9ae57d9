//! The origin of each buffer of a process, and the groups that carry it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    frame::{Stack, StackId},
    ledger::{
        Buffer, BufferType, Count, Device, DeviceKind, GroupKey, LiveBuffer, Nanoseconds,
        ObjectPointer, Ownership, Process, Source,
    },
    origin::{Origin, origin},
    report::summary::{DeviceMemory, Group, MemoryGroup},
};

/// Finds the origins of the buffers of one process. Each stack is classified once.
pub(crate) struct Origins<'a> {
    stacks: &'a BTreeMap<StackId, Stack>,
    known: HashMap<(Option<StackId>, BufferType, Ownership), Origin>,
    /// The objects of the members' shares of mesh buffers, by device: see [`member_shares`].
    member_shares: HashSet<(Device, ObjectPointer)>,
}

impl<'a> Origins<'a> {
    pub(crate) fn new(process: &Process, stacks: &'a BTreeMap<StackId, Stack>) -> Self {
        Self {
            stacks,
            known: HashMap::new(),
            member_shares: member_shares(process),
        }
    }

    /// The origin of buffers of this type and ownership that this stack allocated.
    pub(super) fn of_stack(
        &mut self,
        stack: Option<StackId>,
        memory: BufferType,
        ownership: Ownership,
    ) -> Origin {
        let stacks = self.stacks;
        *self
            .known
            .entry((stack, memory, ownership))
            .or_insert_with(|| {
                let stack = stack.and_then(|id| stacks.get(&id));
                origin(memory, ownership, stack)
            })
    }

    /// The origin of a buffer: that of its stack, or [`Origin::MeshMember`] if the stack doesn't say and
    /// the buffer is a member's share of a mesh buffer.
    pub(super) fn of_buffer(&mut self, live: &LiveBuffer) -> Origin {
        let buffer = &live.buffer;
        match self.of_stack(live.stack(), buffer.buffer_type, buffer.ownership) {
            Origin::Unknown if self.member_shares.contains(&(buffer.device, buffer.object)) => {
                Origin::MeshMember
            }
            origin => origin,
        }
    }

    pub(super) fn group(&mut self, source: Source, memory: BufferType, total: Count) -> Group {
        let Count { buffers, bytes } = total;
        Group {
            stack: source.stack(),
            before_attach: source == Source::BeforeAttach,
            origin: self.of_stack(source.stack(), memory, Ownership::Owning),
            buffers,
            bytes,
        }
    }

    pub(super) fn memory_group(&mut self, key: GroupKey, total: Count) -> MemoryGroup {
        let GroupKey {
            device,
            buffer_type,
            source,
        } = key;
        MemoryGroup {
            memory: DeviceMemory {
                device_kind: device.kind,
                device_id: device.id,
                buffer_type,
            },
            group: self.group(source, buffer_type, total),
        }
    }

    /// The largest first.
    pub(super) fn memory_groups(
        &mut self,
        totals: impl IntoIterator<Item = (GroupKey, Count)>,
    ) -> Vec<MemoryGroup> {
        let totals = totals.into_iter();
        let mut groups: Vec<MemoryGroup> = totals
            .map(|(key, total)| self.memory_group(key, total))
            .collect();
        groups.sort_by_key(|group| Reverse(group.group.bytes));
        groups
    }
}

/// The members' shares of mesh buffers: for each mesh buffer, on each member chip, the first non-owning
/// buffer that was created at its address and in its type of memory since the mesh buffer's allocation.
fn member_shares(process: &Process) -> HashSet<(Device, ObjectPointer)> {
    let mut meshes: HashMap<u32, Vec<Device>> = HashMap::new();
    for (device, account) in process.devices() {
        for chip in &account.members {
            meshes.entry(*chip).or_default().push(*device);
        }
    }
    let at = |buffer: &Buffer| (buffer.buffer_type, buffer.address);
    // Without buffers from before attach: the creation of their members' shares was not traced.
    let allocated: HashMap<(Device, (BufferType, u64)), Nanoseconds> = process
        .owning()
        .filter(|live| live.buffer.device.kind == DeviceKind::Mesh)
        .filter_map(|live| Some(((live.buffer.device, at(&live.buffer)), live.since()?)))
        .collect();
    let mut first: HashMap<(Device, (BufferType, u64)), &LiveBuffer> = HashMap::new();
    for live in process.non_owning() {
        let buffer = &live.buffer;
        let mut meshes = meshes.get(&buffer.device.id).into_iter().flatten();
        let follows_a_mesh_buffer = meshes.any(|mesh| {
            let allocated = allocated.get(&(*mesh, at(buffer)));
            allocated.is_some_and(|at| live.since().is_some_and(|since| since >= *at))
        });
        if buffer.device.kind == DeviceKind::Chip && follows_a_mesh_buffer {
            let first = first.entry((buffer.device, at(buffer))).or_insert(live);
            if live.since() < first.since() {
                *first = live;
            }
        }
    }
    let first = first.into_iter();
    first
        .map(|((device, _), live)| (device, live.buffer.object))
        .collect()
}
