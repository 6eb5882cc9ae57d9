//! The comparison of a trace with a baseline: the summary of an earlier trace.
//!
//! A process is compared with the baseline's process that has the same command line, or else the same name;
//! if several match, the first with the first, the second with the second. What the two held is compared by
//! device, type of memory, origin and stack. Stack ids and library addresses differ between traces, so
//! two stacks count as the same if their [call chains](call_chain) are: the lines of Python that aren't
//! ttnn's, the innermost first, by file name, or else the functions. A line that has moved in its file counts
//! as another one.

mod baseline;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::frame_label::{call_chain, labels};
use super::leaks::may_leak_bytes;
use super::summary::{
    Change, Compared, DeviceMemory, Difference, Group, GroupChange, MemoryChange, ProcessChange,
    ProcessSummary, Summary,
};
use crate::{
    frame::{Stack, StackId},
    ledger::{Count, DeviceKind},
    origin::Origin,
};

pub(crate) use baseline::{BaselineError, BaselineSummary};
use baseline::{ComparedProcess, ComparedUsage};

impl Change {
    /// What has changed from the baseline to this trace.
    pub(crate) fn new(baseline: &BaselineSummary, now: &Summary) -> Self {
        let pairs = pairs(&baseline.processes, &now.processes);
        let mut paired = BTreeSet::new();
        let mut processes = Vec::new();
        for (process, position) in now.processes.iter().zip(pairs) {
            paired.extend(position);
            let then = position.map(|position| &baseline.processes[position]);
            processes.push(compare(then, Some(&process.into())));
        }
        for (position, process) in baseline.processes.iter().enumerate() {
            if !paired.contains(&position) {
                processes.push(compare(Some(process), None));
            }
        }
        Self {
            path: baseline.path.display().to_string(),
            started_at: baseline.started_at.clone(),
            processes,
        }
    }
}

/// For each process of this trace, the position of the baseline's process that it is compared with.
fn pairs(baseline: &[ComparedProcess], now: &[ProcessSummary]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; now.len()];
    let mut unpaired: BTreeSet<usize> = (0..baseline.len()).collect();
    let matches: [fn(&ComparedProcess, &ProcessSummary) -> bool; 2] = [
        |then, now| then.comm == now.comm && then.command_line == now.command_line,
        |then, now| then.comm == now.comm,
    ];
    for matches in matches {
        for (pair, process) in pairs.iter_mut().zip(now) {
            if pair.is_none() {
                *pair = unpaired
                    .iter()
                    .copied()
                    .find(|position| matches(&baseline[*position], process));
                if let Some(position) = pair {
                    unpaired.remove(position);
                }
            }
        }
    }
    pairs
}

fn compare(then: Option<&ComparedProcess>, now: Option<&ComparedProcess>) -> ProcessChange {
    let [held_then, held_now] =
        [then, now].map(|process| process.map(Holdings::new).unwrap_or_default());
    let by_stack = held_then.has_stacks() && held_now.has_stacks();
    let leaks =
        |process: &ComparedProcess| may_leak_bytes(process.leaks.iter().map(|held| &held.group));
    let mut change = ProcessChange {
        pid: now.map(|process| process.pid),
        baseline_pid: then.map(|process| process.pid),
        comm: now
            .or(then)
            .map(|process| process.comm.clone())
            .unwrap_or_default(),
        memory: memory_changes(&held_then, &held_now),
        by_stack,
        live: Vec::new(),
        peaks: Vec::new(),
        same_command: then.map(|process| &process.command_line)
            == now.map(|process| &process.command_line),
        baseline_leaked_bytes: then.map_or(0, leaks),
    };
    if by_stack {
        let labels = chain_labels([&held_then, &held_now]);
        change.live = group_changes(&held_then.live, &held_now.live, &labels);
        change.peaks = group_changes(&held_then.peaks, &held_now.peaks, &labels);
    }
    change
}

/// A stack in the form that is the same in each trace: see [`call_chain`].
type CallChain = Vec<String>;

/// The properties by which groups of buffers are matched between the two traces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    memory: DeviceMemory,
    origin: Origin,
    before_attach: bool,
    /// `None` if the stack wasn't captured.
    chain: Option<CallChain>,
}

/// What a process held, in one of the two traces.
#[derive(Default)]
struct Holdings<'a> {
    memory: BTreeMap<DeviceMemory, ComparedUsage>,
    /// The chips that belong to a mesh.
    members: BTreeSet<u32>,
    live: BTreeMap<Key, Total>,
    peaks: BTreeMap<Key, Total>,
    /// One stack for each call chain.
    stacks: BTreeMap<CallChain, &'a Stack>,
}

/// The buffers with one key.
#[derive(Clone, Copy, Default)]
struct Total {
    buffers: Count,
    /// The stack of one of them.
    stack: Option<StackId>,
}

impl<'a> Holdings<'a> {
    fn new(process: &'a ComparedProcess) -> Self {
        let mut held = Self::default();
        let mut chains: BTreeMap<StackId, CallChain> = BTreeMap::new();
        for stack in &process.stacks {
            let chain = call_chain(&stack.stack);
            held.stacks.entry(chain.clone()).or_insert(&stack.stack);
            chains.insert(stack.id, chain);
        }
        for device in &process.devices {
            held.members.extend(&device.members);
            for (buffer_type, usage) in &device.memory {
                if usage.peak_bytes > 0 || usage.live_buffers > 0 {
                    let memory = DeviceMemory {
                        device_kind: device.kind,
                        device_id: device.id,
                        buffer_type: *buffer_type,
                    };
                    held.memory.insert(memory, *usage);
                }
            }
        }
        for leak in &process.leaks {
            add(&mut held.live, &chains, leak.memory, &leak.group);
        }
        for peak in &process.peaks {
            for group in &peak.groups {
                add(&mut held.peaks, &chains, peak.memory, group);
            }
        }
        held
    }

    /// Whether the trace has stacks, or has no allocations that could have stacks.
    fn has_stacks(&self) -> bool {
        let all = || self.live.keys().chain(self.peaks.keys());
        all().any(|key| key.chain.is_some()) || all().all(|key| key.before_attach)
    }
}

fn add(
    totals: &mut BTreeMap<Key, Total>,
    chains: &BTreeMap<StackId, CallChain>,
    memory: DeviceMemory,
    group: &Group,
) {
    let key = Key {
        memory,
        origin: group.origin,
        before_attach: group.before_attach,
        chain: group.stack.and_then(|id| chains.get(&id)).cloned(),
    };
    let total = totals.entry(key).or_default();
    total.stack = total.stack.or(group.stack);
    total.buffers += Count {
        buffers: group.buffers,
        bytes: group.bytes,
    };
}

fn memory_changes(then: &Holdings<'_>, now: &Holdings<'_>) -> Vec<MemoryChange> {
    let all: BTreeSet<&DeviceMemory> = then.memory.keys().chain(now.memory.keys()).collect();
    let live = |usage: &ComparedUsage| Count {
        buffers: usage.live_buffers,
        bytes: usage.live_bytes,
    };
    let changes = all.into_iter().map(|memory| {
        let usage = |held: &Holdings<'_>| held.memory.get(memory).copied().unwrap_or_default();
        let [usage_then, usage_now] = [usage(then), usage(now)];
        let is_member = |held: &Holdings<'_>| held.members.contains(&memory.device_id);
        MemoryChange {
            memory: *memory,
            live: Compared::new(live(&usage_then), live(&usage_now)),
            baseline_peak_bytes: usage_then.peak_bytes,
            peak_bytes: usage_now.peak_bytes,
            is_member: memory.device_kind == DeviceKind::Chip
                && (is_member(then) || is_member(now)),
        }
    });
    changes.collect()
}

/// The label of each call chain, long enough to differ from the others'.
fn chain_labels(held: [&Holdings<'_>; 2]) -> BTreeMap<CallChain, String> {
    let all: BTreeMap<&CallChain, &Stack> = held
        .into_iter()
        .flat_map(|held| &held.stacks)
        .map(|(chain, stack)| (chain, *stack))
        .collect();
    let numbered = (0..).map(StackId).zip(all.values().copied());
    let mut labels = labels(numbered);
    let chains = (0..).map(StackId).zip(all.keys());
    chains
        .map(|(id, chain)| ((*chain).clone(), labels.remove(&id).unwrap_or_default()))
        .collect()
}

fn group_changes(
    then: &BTreeMap<Key, Total>,
    now: &BTreeMap<Key, Total>,
    labels: &BTreeMap<CallChain, String>,
) -> Vec<GroupChange> {
    let keys: BTreeSet<&Key> = then.keys().chain(now.keys()).collect();
    let mut changes: Vec<GroupChange> = keys
        .into_iter()
        .map(|key| {
            let total =
                |totals: &BTreeMap<Key, Total>| totals.get(key).copied().unwrap_or_default();
            let [then, now] = [total(then), total(now)];
            let label = key.chain.as_ref().and_then(|chain| labels.get(chain));
            GroupChange {
                memory: key.memory,
                origin: key.origin,
                before_attach: key.before_attach,
                label: match label {
                    _ if key.before_attach => "there before".to_owned(),
                    Some(label) => label.clone(),
                    None => "stack not captured".to_owned(),
                },
                stack: now.stack,
                buffers: Compared::new(then.buffers, now.buffers),
            }
        })
        .filter(|change| change.buffers.difference != Difference::default())
        .collect();
    changes.sort_by_key(|change| Reverse(change.buffers.difference.bytes.unsigned_abs()));
    changes
}
