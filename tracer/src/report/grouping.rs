//! From the ledger's sources to groups of buffers: which stack, what for, how much.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::maps::map;
use super::{
    BufferSummary, Failure, Group, Leak, OriginTotal, Peak, PlacedGroup, ProcessSummary,
    StackSummary, Temporary,
};
use crate::{
    ledger::{
        BankRange, Buffer, BufferType, Device, DeviceKind, FailedAllocation, Free, Kin, LiveBuffer,
        Nanoseconds, ObjectPointer, Ownership, Process, Source, Tally,
    },
    origin::{Origin, origin},
    stack::{Stack, StackId},
};

/// What the buffers of one process are for. Each stack is looked at once.
pub struct Origins<'a> {
    stacks: &'a BTreeMap<StackId, Stack>,
    known: HashMap<(Option<StackId>, BufferType, Ownership), Origin>,
    /// The objects of those non-owning buffers on a mesh's members that were the first there since the
    /// mesh's own was born where they lie, by device.
    members: HashSet<(Device, ObjectPointer)>,
}

impl<'a> Origins<'a> {
    pub fn new(process: &Process, stacks: &'a BTreeMap<StackId, Stack>) -> Self {
        Self {
            stacks,
            known: HashMap::new(),
            members: members(process),
        }
    }

    /// What buffers of that kind are for that come from there.
    fn of(&mut self, stack: Option<StackId>, memory: BufferType, ownership: Ownership) -> Origin {
        let stacks = self.stacks;
        *self
            .known
            .entry((stack, memory, ownership))
            .or_insert_with(|| {
                let stack = stack.and_then(|id| stacks.get(&id));
                origin(memory, ownership, stack)
            })
    }

    /// What a buffer is for. Without a stack, the first non-owning one on a mesh's member that lies where
    /// a buffer of the mesh does is that member's share of it.
    pub fn of_buffer(&mut self, live: &LiveBuffer) -> Origin {
        let buffer = &live.buffer;
        match self.of(live.stack(), buffer.buffer_type, buffer.ownership) {
            Origin::Unknown if self.members.contains(&(buffer.device, buffer.object)) => {
                Origin::MeshMember
            }
            origin => origin,
        }
    }

    fn group(&mut self, source: Source, memory: BufferType, tally: Tally) -> Group {
        let Tally { buffers, bytes } = tally;
        Group {
            stack: source.stack(),
            before_attach: source == Source::BeforeAttach,
            origin: self.of(source.stack(), memory, Ownership::Owning),
            buffers,
            bytes,
        }
    }

    pub(super) fn placed(&mut self, kin: Kin, tally: Tally) -> PlacedGroup {
        let (device, buffer_type, source) = kin;
        PlacedGroup {
            device_kind: device.kind,
            device_id: device.id,
            buffer_type,
            group: self.group(source, buffer_type, tally),
        }
    }

    /// The groups of one type of memory, the largest first.
    fn groups(&mut self, memory: BufferType, parts: BTreeMap<Source, Tally>) -> Vec<Group> {
        let groups = parts.into_iter();
        let mut groups: Vec<Group> = groups
            .map(|(source, tally)| self.group(source, memory, tally))
            .collect();
        groups.sort_by_key(|group| Reverse(group.bytes));
        groups
    }
}

fn members(process: &Process) -> HashSet<(Device, ObjectPointer)> {
    let mut meshes: HashMap<u32, Vec<Device>> = HashMap::new();
    for (device, account) in process.devices() {
        for chip in &account.members {
            meshes.entry(*chip).or_default().push(*device);
        }
    }
    let place = |buffer: &Buffer| (buffer.buffer_type, buffer.address);
    // Of those from before nobody knows what was made of them.
    let born: HashMap<(Device, (BufferType, u64)), Nanoseconds> = process
        .owning()
        .filter(|live| live.buffer.device.kind == DeviceKind::Mesh)
        .filter_map(|live| Some(((live.buffer.device, place(&live.buffer)), live.since()?)))
        .collect();
    let mut first: HashMap<(Device, (BufferType, u64)), &LiveBuffer> = HashMap::new();
    for live in process.non_owning() {
        let buffer = &live.buffer;
        let mut meshes = meshes.get(&buffer.device.id).into_iter().flatten();
        let is_behind_a_meshs = meshes.any(|mesh| {
            let born = born.get(&(*mesh, place(buffer)));
            born.is_some_and(|born| live.since().is_some_and(|since| since >= *born))
        });
        if buffer.device.kind == DeviceKind::Chip && is_behind_a_meshs {
            let first = first.entry((buffer.device, place(buffer))).or_insert(live);
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

/// What is live, by where it was allocated, the largest first. `end`: when ages are taken.
pub fn leaks(process: &Process, origins: &mut Origins<'_>, end: Nanoseconds) -> Vec<Leak> {
    struct Found {
        tally: Tally,
        /// Of the first and the last birth that was seen.
        births: Option<(Nanoseconds, Nanoseconds)>,
    }
    let mut found: BTreeMap<Kin, Found> = BTreeMap::new();
    for live in process.owning() {
        let buffer = &live.buffer;
        let kin = (buffer.device, buffer.buffer_type, live.source());
        let found = found.entry(kin).or_insert(Found {
            tally: Tally::default(),
            births: None,
        });
        found.tally.add(buffer.size);
        if let Some(at) = live.since() {
            let (first, last) = found.births.unwrap_or((at, at));
            found.births = Some((first.min(at), last.max(at)));
        }
    }
    let age = |since: Nanoseconds| end.0.saturating_sub(since.0);
    let mut leaks: Vec<Leak> = found
        .into_iter()
        .map(|(kin, Found { tally, births })| Leak {
            placed: origins.placed(kin, tally),
            oldest_age_ns: births.map(|(first, _)| age(first)),
            youngest_age_ns: births.map(|(_, last)| age(last)),
        })
        .collect();
    leaks.sort_by_key(|leak| Reverse(leak.placed.group.bytes));
    leaks
}

/// The peak of each type of memory that was in use, by device and type.
pub fn peaks(process: &Process, origins: &mut Origins<'_>) -> Vec<Peak> {
    let mut peaks = Vec::new();
    for (device, account) in process.devices() {
        for buffer_type in BufferType::ALL {
            let memory = &account.memory[buffer_type];
            if memory.peak_bytes > 0 {
                peaks.push(Peak {
                    device_kind: device.kind,
                    device_id: device.id,
                    buffer_type,
                    peak_bytes: memory.peak_bytes,
                    peak_at_ns: memory.peak_at,
                    groups: origins.groups(buffer_type, account.composition[buffer_type].peak()),
                });
            }
        }
    }
    peaks
}

/// What was freed soon after its allocation.
pub fn temporary(process: &Process, origins: &mut Origins<'_>, within: u64) -> Temporary {
    let found: BTreeMap<&Kin, &Tally> = process.temporary().iter().collect();
    let mut groups: Vec<PlacedGroup> = found
        .into_iter()
        .map(|(kin, tally)| origins.placed(*kin, *tally))
        .collect();
    groups.sort_by_key(|placed| Reverse(placed.group.bytes));
    Temporary { within, groups }
}

/// The first allocations that failed.
pub fn failures(process: &Process, origins: &mut Origins<'_>) -> Vec<Failure> {
    let failures = process.failed_allocations().iter();
    failures
        .map(|failed| {
            let FailedAllocation {
                buffer,
                at,
                tid,
                stack,
                live,
                largest,
                rest,
                free,
                space,
                ..
            } = failed;
            let memory = buffer.buffer_type;
            let of_all = |of: fn(&Free) -> u64| {
                let of_one = |(range, free): &(BankRange, Free)| (range.banks, of(free));
                free.as_ref()
                    .map(of_one)
                    .map(|(banks, bytes)| banks.saturating_mul(bytes))
            };
            Failure {
                at_ns: *at,
                tid: *tid,
                stack: *stack,
                origin: origins.of(*stack, memory, buffer.ownership),
                device_kind: buffer.device.kind,
                device_id: buffer.device.id,
                buffer_type: memory,
                size: buffer.size,
                live_bytes: live.bytes,
                live_buffers: live.buffers,
                largest: largest
                    .iter()
                    .map(|(source, tally)| origins.group(*source, memory, *tally))
                    .collect(),
                rest: *rest,
                free_bytes: of_all(|free| free.bytes),
                largest_free_bytes: of_all(|free| free.largest),
                banks: free.map(|(range, _)| range.banks),
                free_per_bank: free.map(|(_, free)| free.bytes),
                largest_free_per_bank: free.map(|(_, free)| free.largest),
                map: space.as_ref().map(|space| map(space, origins)),
            }
        })
        .collect()
}

/// What is live, by what it is for. `owning`: each live owning buffer.
pub fn totals(owning: &[BufferSummary]) -> Vec<OriginTotal> {
    let mut totals: BTreeMap<Origin, Tally> = BTreeMap::new();
    for buffer in owning {
        totals.entry(buffer.origin).or_default().add(buffer.size);
    }
    totals
        .into_iter()
        .map(|(origin, tally)| OriginTotal {
            origin,
            live_buffers: tally.buffers,
            live_bytes: tally.bytes,
        })
        .collect()
}

/// The stacks that something in the summary of a process refers to.
pub fn stacks_of(process: &ProcessSummary) -> BTreeSet<StackId> {
    let buffers = process.live_buffers.iter();
    let buffers = buffers.chain(&process.non_owning.buffers);
    let leaks = process.leaks.iter().map(|leak| &leak.placed.group);
    let peaks = process.peaks.iter().flat_map(|peak| &peak.groups);
    let temporary = process.temporary.groups.iter().map(|placed| &placed.group);
    let at_failures = process.failures.iter().flat_map(|failure| &failure.largest);
    let programs = process.program_memory.iter().flat_map(|of| &of.programs);
    let since_marks = process.since_marks.iter();
    let since_marks = since_marks
        .flat_map(|since| since.new.iter().chain(&since.gone))
        .map(|placed| &placed.group);
    let maps = process
        .failures
        .iter()
        .filter_map(|failure| failure.map.as_ref());
    let blocks = process.maps.iter().chain(maps).flat_map(|map| &map.blocks);
    let in_maps = blocks.filter_map(|block| block.buffer.as_ref());
    let groups = leaks
        .chain(peaks)
        .chain(temporary)
        .chain(at_failures)
        .chain(since_marks);
    buffers
        .map(|buffer| buffer.stack)
        .chain(groups.map(|group| group.stack))
        .chain(process.failures.iter().map(|failure| failure.stack))
        .chain(programs.map(|program| program.stack))
        .chain(in_maps.map(|buffer| buffer.stack))
        .flatten()
        .collect()
}

/// What stacks stand for. One that nobody has read stands there without frames, so that no reference leads
/// nowhere.
pub fn stacks(ids: BTreeSet<StackId>, known: &BTreeMap<StackId, Stack>) -> Vec<StackSummary> {
    ids.into_iter()
        .map(|id| StackSummary {
            id,
            stack: known.get(&id).cloned().unwrap_or_else(|| Stack {
                frames: Vec::new(),
                broken: Some("it was not read".to_owned()),
            }),
        })
        .collect()
}
