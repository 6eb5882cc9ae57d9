//! One trace held against an earlier one.
//!
//! A process of an earlier trace is taken for the one now that has the same command line, or else the same
//! name; of several the first for the first, the second for the second. What each of them held is told apart by device,
//! type of memory, what it is for, and who allocated it. Stacks have other ids in each trace, and libraries
//! other addresses, so *who* is what a person reads: the lines of Python that aren't ttnn's, the innermost
//! first, by file name, or else the functions. A line that has moved in its file is another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::earlier::{Earlier, EarlierProcess, EarlierUsage};
use super::place::{chain, places};
use super::{Group, ProcessSummary, Summary};
use crate::{
    ledger::{BufferType, DeviceKind, Tally},
    origin::Origin,
    stack::{Stack, StackId},
};

/// What has changed since an earlier trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The file that the earlier summary was read from.
    pub path: String,
    /// When the earlier trace began.
    pub started_at: String,
    /// First the processes of now, in their order, then the earlier ones that have none now.
    pub processes: Vec<ProcessChange>,
}

/// What has changed in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessChange {
    /// `None` if there is none like it now.
    pub pid: Option<u32>,
    /// `None` if there was none like it then.
    pub baseline_pid: Option<u32>,
    pub comm: String,
    /// Each type of memory of each device that was in use in either.
    pub memory: Vec<MemoryChange>,
    /// Whether `live` and `peaks` could be told: both traces have stacks, or nothing to have them of.
    pub by_stack: bool,
    /// What was live at the end, as far as it differs; the largest difference first.
    pub live: Vec<GroupChange>,
    /// What lay there at each peak, as far as it differs; likewise.
    pub peaks: Vec<GroupChange>,
    /// Whether the command lines are the same.
    #[serde(skip)]
    pub same_command: bool,
    /// Bytes that the earlier one may have leaked.
    #[serde(skip)]
    pub baseline_leaked_bytes: u64,
}

/// One type of memory of one device: of what lies on it, or, for a mesh, on *each* member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryChange {
    #[serde(flatten)]
    pub memory: Memory,
    #[serde(flatten)]
    pub live: Compared,
    pub baseline_peak_bytes: u64,
    pub peak_bytes: u64,
    /// A mesh that it is a member of has rows of its own.
    #[serde(skip)]
    pub is_member: bool,
}

/// Owning buffers that were allocated in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupChange {
    #[serde(flatten)]
    pub memory: Memory,
    pub origin: Origin,
    pub before_attach: bool,
    /// Who allocated them, in a few words.
    pub place: String,
    /// The stack of those of now; `None` if there are none, or it wasn't captured.
    pub stack: Option<StackId>,
    #[serde(flatten)]
    pub buffers: Compared,
}

/// In which memory of which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Memory {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
}

/// The same, then and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    pub baseline: Tally,
    pub now: Tally,
    pub difference: Difference,
}

/// How much more; negative if it is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub buffers: i64,
    pub bytes: i64,
}

impl Compared {
    fn new(baseline: Tally, now: Tally) -> Self {
        Self {
            baseline,
            now,
            difference: Difference {
                buffers: difference(baseline.buffers, now.buffers),
                bytes: difference(baseline.bytes, now.bytes),
            },
        }
    }
}

fn difference(then: u64, now: u64) -> i64 {
    let apart = i64::try_from(now.abs_diff(then)).unwrap_or(i64::MAX);
    if now < then { -apart } else { apart }
}

impl Change {
    /// What has changed between an earlier trace and this one.
    pub fn new(earlier: &Earlier, now: &Summary) -> Self {
        let pairs = pairs(&earlier.processes, &now.processes);
        let mut met = BTreeSet::new();
        let mut processes = Vec::new();
        for (process, earlier_one) in now.processes.iter().zip(pairs) {
            met.extend(earlier_one);
            let then = earlier_one.map(|position| &earlier.processes[position]);
            processes.push(compare(then, Some(&process.into())));
        }
        for (position, process) in earlier.processes.iter().enumerate() {
            if !met.contains(&position) {
                processes.push(compare(Some(process), None));
            }
        }
        Self {
            path: earlier.path.display().to_string(),
            started_at: earlier.started_at.clone(),
            processes,
        }
    }
}

impl Summary {
    /// Each process with the bytes that it leaked: if there is an earlier trace, that it leaked more than
    /// then.
    pub fn leaked(&self) -> impl Iterator<Item = (&ProcessSummary, u64)> {
        let changes = self
            .change
            .as_ref()
            .map(|change| change.processes.as_slice());
        let changes = changes.unwrap_or_default();
        let processes = self.processes.iter().enumerate();
        processes.map(|(position, process)| {
            // They stand in the same order.
            let before = changes
                .get(position)
                .map(|change| change.baseline_leaked_bytes);
            let leaked = process.leaked_bytes();
            (process, leaked.saturating_sub(before.unwrap_or_default()))
        })
    }
}

/// For each process of now the position of the earlier one that it is compared with.
fn pairs(earlier: &[EarlierProcess], now: &[ProcessSummary]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; now.len()];
    let mut free: BTreeSet<usize> = (0..earlier.len()).collect();
    let is_alike: [fn(&EarlierProcess, &ProcessSummary) -> bool; 2] = [
        |then, now| then.comm == now.comm && then.command_line == now.command_line,
        |then, now| then.comm == now.comm,
    ];
    for is_alike in is_alike {
        for (pair, process) in pairs.iter_mut().zip(now) {
            if pair.is_none() {
                *pair = free
                    .iter()
                    .copied()
                    .find(|position| is_alike(&earlier[*position], process));
                if let Some(position) = pair {
                    free.remove(position);
                }
            }
        }
    }
    pairs
}

fn compare(then: Option<&EarlierProcess>, now: Option<&EarlierProcess>) -> ProcessChange {
    let [of_then, of_now] = [then, now].map(|process| process.map(Held::new).unwrap_or_default());
    let by_stack = of_then.has_stacks() && of_now.has_stacks();
    let mut change = ProcessChange {
        pid: now.map(|process| process.pid),
        baseline_pid: then.map(|process| process.pid),
        comm: now
            .or(then)
            .map(|process| process.comm.clone())
            .unwrap_or_default(),
        memory: memory(&of_then, &of_now),
        by_stack,
        live: Vec::new(),
        peaks: Vec::new(),
        same_command: then.map(|process| &process.command_line)
            == now.map(|process| &process.command_line),
        baseline_leaked_bytes: then.map_or(0, EarlierProcess::may_leak_bytes),
    };
    if by_stack {
        let names = names([&of_then, &of_now]);
        change.live = groups(&of_then.live, &of_now.live, &names);
        change.peaks = groups(&of_then.peaks, &of_now.peaks, &names);
    }
    change
}

/// Who allocated something: the lines or functions that a person reads.
type Who = Vec<String>;

/// What is told apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    memory: Memory,
    origin: Origin,
    before_attach: bool,
    /// `None` if that wasn't captured.
    who: Option<Who>,
}

/// What a process held, in one of the two traces.
#[derive(Default)]
struct Held<'a> {
    memory: BTreeMap<Memory, EarlierUsage>,
    /// Chips that belong to a mesh.
    members: BTreeSet<u32>,
    live: BTreeMap<Kind, Part>,
    peaks: BTreeMap<Kind, Part>,
    /// One stack of each who.
    stacks: BTreeMap<Who, &'a Stack>,
}

/// What of a kind there was.
#[derive(Clone, Copy, Default)]
struct Part {
    tally: Tally,
    stack: Option<StackId>,
}

impl<'a> Held<'a> {
    fn new(process: &'a EarlierProcess) -> Self {
        let mut held = Self::default();
        let mut who: BTreeMap<StackId, Who> = BTreeMap::new();
        for stack in &process.stacks {
            let chain = chain(&stack.stack);
            held.stacks.entry(chain.clone()).or_insert(&stack.stack);
            who.insert(stack.id, chain);
        }
        for device in &process.devices {
            held.members.extend(&device.members);
            for (buffer_type, usage) in &device.memory {
                if usage.peak_bytes > 0 || usage.live_buffers > 0 {
                    let memory = Memory {
                        device_kind: device.kind,
                        device_id: device.id,
                        buffer_type: *buffer_type,
                    };
                    held.memory.insert(memory, *usage);
                }
            }
        }
        for leak in &process.leaks {
            let memory = Memory {
                device_kind: leak.device_kind,
                device_id: leak.device_id,
                buffer_type: leak.buffer_type,
            };
            add(&mut held.live, &who, memory, &leak.group);
        }
        for peak in &process.peaks {
            let memory = Memory {
                device_kind: peak.device_kind,
                device_id: peak.device_id,
                buffer_type: peak.buffer_type,
            };
            for group in &peak.groups {
                add(&mut held.peaks, &who, memory, group);
            }
        }
        held
    }

    /// Whether the trace has stacks, or had nothing to have them of.
    fn has_stacks(&self) -> bool {
        let all = || self.live.keys().chain(self.peaks.keys());
        all().any(|kind| kind.who.is_some()) || all().all(|kind| kind.before_attach)
    }
}

fn add(
    parts: &mut BTreeMap<Kind, Part>,
    who: &BTreeMap<StackId, Who>,
    memory: Memory,
    group: &Group,
) {
    let kind = Kind {
        memory,
        origin: group.origin,
        before_attach: group.before_attach,
        who: group.stack.and_then(|id| who.get(&id)).cloned(),
    };
    let part = parts.entry(kind).or_default();
    part.stack = part.stack.or(group.stack);
    part.tally += Tally {
        buffers: group.buffers,
        bytes: group.bytes,
    };
}

fn memory(then: &Held<'_>, now: &Held<'_>) -> Vec<MemoryChange> {
    let all: BTreeSet<&Memory> = then.memory.keys().chain(now.memory.keys()).collect();
    let live = |usage: &EarlierUsage| Tally {
        buffers: usage.live_buffers,
        bytes: usage.live_bytes,
    };
    let changes = all.into_iter().map(|memory| {
        let of = |held: &Held<'_>| held.memory.get(memory).copied().unwrap_or_default();
        let [then_usage, now_usage] = [of(then), of(now)];
        let is_member = |held: &Held<'_>| held.members.contains(&memory.device_id);
        MemoryChange {
            memory: *memory,
            live: Compared::new(live(&then_usage), live(&now_usage)),
            baseline_peak_bytes: then_usage.peak_bytes,
            peak_bytes: now_usage.peak_bytes,
            is_member: memory.device_kind == DeviceKind::Chip
                && (is_member(then) || is_member(now)),
        }
    });
    changes.collect()
}

/// What a person reads of each who: so much of it as tells it from the others.
fn names(held: [&Held<'_>; 2]) -> BTreeMap<Who, String> {
    let all: BTreeMap<&Who, &Stack> = held
        .into_iter()
        .flat_map(|held| &held.stacks)
        .map(|(who, stack)| (who, *stack))
        .collect();
    let numbered = (0..).map(StackId).zip(all.values().copied());
    let mut places = places(numbered);
    let names = (0..).map(StackId).zip(all.keys());
    names
        .map(|(id, who)| ((*who).clone(), places.remove(&id).unwrap_or_default()))
        .collect()
}

fn groups(
    then: &BTreeMap<Kind, Part>,
    now: &BTreeMap<Kind, Part>,
    names: &BTreeMap<Who, String>,
) -> Vec<GroupChange> {
    let kinds: BTreeSet<&Kind> = then.keys().chain(now.keys()).collect();
    let mut changes: Vec<GroupChange> = kinds
        .into_iter()
        .map(|kind| {
            let of = |parts: &BTreeMap<Kind, Part>| parts.get(kind).copied().unwrap_or_default();
            let [then, now] = [of(then), of(now)];
            let name = kind.who.as_ref().and_then(|who| names.get(who));
            GroupChange {
                memory: kind.memory,
                origin: kind.origin,
                before_attach: kind.before_attach,
                place: match name {
                    _ if kind.before_attach => "there before".to_owned(),
                    Some(name) => name.clone(),
                    None => "stack not captured".to_owned(),
                },
                stack: now.stack,
                buffers: Compared::new(then.tally, now.tally),
            }
        })
        .filter(|change| change.buffers.difference != Difference::default())
        .collect();
    changes.sort_by_key(|change| Reverse(change.buffers.difference.bytes.unsigned_abs()));
    changes
}
