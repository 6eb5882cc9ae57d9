//! The ledger, and what is known of each process besides its events.

use std::collections::{BTreeMap, HashMap};

use super::listener::{Listener, MarkText};
use crate::{
    frame::{Stack, StackId},
    ledger::{Buffer, Effect, Event, EventKind, Ledger, Nanoseconds, ProcessId, ProgramEvent},
    report::{self, AttachSnapshotSummary, Attached, Capacity, Library, ProcessFacts, Untraced},
    session::{Item, Notice, ProcessFact, Sink, TracedLibrary},
    snapshot::{AllocatorRanges, AttachSnapshot, DeviceState},
    target::Identity,
};

/// Failed allocations of one process that are reported as they come; all are counted.
const MAX_FAILURES_REPORTED: u64 = 5;

/// The accounts of all processes.
pub(crate) struct Accounts<L> {
    ledger: Ledger,
    facts: BTreeMap<ProcessId, ProcessFacts>,
    untraced: BTreeMap<u32, Untraced>,
    stacks: BTreeMap<StackId, Stack>,
    /// Which of them are of which pid.
    stacks_of: HashMap<u32, Vec<StackId>>,
    listener: L,
}

/// What a summary is made of.
pub(crate) struct Closed<L> {
    pub ledger: Ledger,
    pub facts: Vec<ProcessFacts>,
    pub untraced: Vec<Untraced>,
    pub listener: L,
}

impl<L: Listener> Accounts<L> {
    /// `temporary`: as for [`Ledger::new`].
    pub(crate) fn new(temporary: u64, listener: L) -> Self {
        Self {
            ledger: Ledger::new(temporary),
            facts: BTreeMap::new(),
            untraced: BTreeMap::new(),
            stacks: BTreeMap::new(),
            stacks_of: HashMap::new(),
            listener,
        }
    }

    fn enter(&mut self, item: Item) {
        match item {
            Item::Event(event) => self.event(&event),
            Item::Program(event) => self.program(&event),
            Item::Stack(named) => {
                self.stacks_of.entry(named.pid).or_default().push(named.id);
                self.stacks.insert(named.id, named.stack);
            }
            Item::Process(fact) => self.fact(fact),
            Item::Mark(mark) => {
                self.ledger.mark(mark.name, mark.at);
                let (ledger, facts, stacks) = (&self.ledger, &self.facts, &self.stacks);
                if let Some(set) = ledger.marks().last() {
                    self.listener.mark(set, mark.reply.as_ref(), &|options| {
                        MarkText::new(ledger, facts, stacks, options)
                    });
                }
            }
            Item::Notice(notice) => self.listener.notice(&notice),
        }
    }

    /// Everything that was entered.
    pub(crate) fn close(self) -> Closed<L> {
        let mut stacks = self.stacks;
        let mut facts: Vec<ProcessFacts> = self.facts.into_values().collect();
        for at in 0..facts.len() {
            let pid = facts[at].id.pid;
            // Processes that had one pid after another are neighbours; the last of them takes the stacks.
            let is_last = facts.get(at + 1).is_none_or(|next| next.id.pid != pid);
            for id in self.stacks_of.get(&pid).into_iter().flatten() {
                let stack = if is_last {
                    stacks.remove(id)
                } else {
                    stacks.get(id).cloned()
                };
                if let Some(stack) = stack {
                    facts[at].stacks.insert(*id, stack);
                }
            }
        }
        Closed {
            ledger: self.ledger,
            facts,
            untraced: self.untraced.into_values().collect(),
            listener: self.listener,
        }
    }

    fn event(&mut self, event: &Event) {
        let outcome = self.ledger.apply(event);
        self.listener.event(event, &outcome);
        if let (EventKind::Failed(_), Effect::Failed) = (event.kind, outcome.effect) {
            self.report_failure(event.pid);
        }
    }

    fn program(&mut self, event: &ProgramEvent) {
        let effect = self.ledger.apply_to_programs(event);
        let process = self.ledger.process(event.pid);
        self.listener.program(event, effect, &|key| {
            process.and_then(|process| process.programs().program(key))
        });
    }

    /// Reports a failed allocation at once; of many in one process only the first ones.
    fn report_failure(&mut self, pid: u32) {
        let Some(process) = self.ledger.process(pid) else {
            return;
        };
        let failed = process.failed_allocations();
        if process.counters().failed_allocations > MAX_FAILURES_REPORTED {
            return;
        }
        if let Some(last) = failed.last() {
            let facts = self.facts.get(&self.ledger.id(pid));
            let comm = facts.map_or("process", |facts| facts.comm.as_str());
            let text = report::out_of_memory(comm, pid, last);
            self.listener.notice(&Notice::OutOfMemory(text));
        }
    }

    fn fact(&mut self, fact: ProcessFact) {
        match fact {
            ProcessFact::Began {
                pid,
                from_start,
                identity,
            } => self.begin(pid, from_start, identity),
            ProcessFact::Renamed(identity) => self.name(identity),
            ProcessFact::Forgotten { pid } => self.ledger.forget(pid),
            ProcessFact::Library {
                pid,
                from_start,
                library,
                programs,
            } => self.library(pid, from_start, library, programs),
            ProcessFact::Banks {
                pid,
                read_at,
                devices,
            } => self.banks(pid, read_at, &devices),
            ProcessFact::Ranges { pid, ranges } => self.ranges(pid, &ranges),
            ProcessFact::Snapshot(snapshot) => self.snapshot(snapshot),
            ProcessFact::NotSearched { pid, problem } => {
                let problem = format!(
                    "devices were looked for only where the library's data leads: {problem}"
                );
                self.snapshot_problems(pid, vec![problem]);
            }
            ProcessFact::Untraced { pid, comm, reason } => {
                self.untraced.insert(pid, Untraced { pid, comm, reason });
            }
        }
    }

    /// Begins the account of a new process. A forked child already has one, and starts with its parent's
    /// facts.
    fn begin(&mut self, pid: u32, from_start: bool, identity: Option<Identity>) {
        let forked = self
            .ledger
            .process(pid)
            .filter(|child| child.end().is_none());
        let parent = forked.and_then(|child| child.parent());
        let id = match parent {
            Some(_) => self.ledger.id(pid),
            None => self.ledger.begin(pid),
        };
        let attached = if from_start {
            Attached::Start
        } else {
            Attached::Running
        };
        let facts = parent.and_then(|parent| self.facts.get(&parent)).cloned();
        let facts = facts.unwrap_or_else(|| ProcessFacts::unknown(pid));
        let facts = ProcessFacts {
            id,
            attached: match parent {
                Some(_) => facts.attached,
                None => attached,
            },
            ..facts
        };
        self.facts.insert(id, facts);
        if let Some(identity) = identity {
            self.name(identity);
        }
    }

    fn name(&mut self, identity: Identity) {
        let Identity {
            pid,
            comm,
            command_line,
        } = identity;
        let facts = self.facts_of(pid);
        facts.comm = comm;
        facts.command_line = command_line;
    }

    fn facts_of(&mut self, pid: u32) -> &mut ProcessFacts {
        let id = self.ledger.id(pid);
        self.facts.entry(id).or_insert_with(|| ProcessFacts {
            id,
            ..ProcessFacts::unknown(pid)
        })
    }

    fn library(&mut self, pid: u32, from_start: bool, library: TracedLibrary, programs: bool) {
        let TracedLibrary {
            path,
            build_id,
            release,
            fields,
        } = library;
        let facts = self.facts_of(pid);
        if !from_start {
            facts.attached = Attached::Running;
        }
        let library = Library {
            path,
            build_id,
            release,
            fields,
        };
        // A forked child may have it from its parent.
        if !facts.libraries.contains(&library) {
            facts.libraries.push(library);
        }
        facts.traces_programs |= programs;
    }

    fn banks(&mut self, pid: u32, read_at: Nanoseconds, devices: &[DeviceState]) {
        let Some(facts) = self.facts.get_mut(&self.ledger.id(pid)) else {
            return;
        };
        for state in devices {
            for (buffer_type, banks) in &state.banks {
                let capacity = Capacity {
                    banks: banks.count,
                    bytes_per_bank: banks.bytes,
                    allocated_per_bank: banks.allocated,
                    free_per_bank: banks.free,
                    largest_free_per_bank: banks.largest_free,
                    read_at_ns: read_at,
                };
                facts
                    .capacity
                    .insert((state.device, *buffer_type), capacity);
            }
        }
    }

    fn ranges(&mut self, pid: u32, ranges: &AllocatorRanges) {
        for (buffer_type, range) in &ranges.ranges {
            self.ledger
                .set_bank_range(pid, ranges.allocator, *buffer_type, *range);
        }
        if ranges.lengths_are_wrong {
            self.ledger.forget_lengths(pid);
            self.listener.notice(&Notice::NoBlockLengths { pid });
        }
    }

    fn snapshot(&mut self, snapshot: AttachSnapshot) {
        let AttachSnapshot {
            pid,
            read_at,
            devices,
            ranges,
            mut buffers,
            inherited,
            at_one_moment,
            unknown_bytes,
            unexplained: _,
            problems,
            by_search,
        } = snapshot;
        for object in inherited {
            self.ledger.inherit(pid, object);
        }
        // A buffer that had an event of its own before its device was found is known already.
        if let Some(known) = self.ledger.process(pid) {
            buffers.retain(|buffer| !known.has(buffer.object));
        }
        for device in &devices {
            self.ledger
                .add_members(pid, device.device, device.members.iter().copied());
        }
        for (allocator, buffer_type, range) in ranges {
            self.ledger
                .set_bank_range(pid, allocator, buffer_type, range);
        }
        for buffer in &buffers {
            self.event(&Event {
                pid,
                tid: pid,
                time: read_at,
                kind: EventKind::Found(*buffer),
                stack: None,
            });
        }
        self.banks(pid, read_at, &devices);
        self.summarize(pid, read_at, &buffers, at_one_moment, unknown_bytes);
        if !problems.is_empty() {
            self.ledger.expect_unknown_buffers(pid);
        }
        self.snapshot_problems(pid, problems);
        if !by_search || !buffers.is_empty() {
            self.listener.notice(&Notice::Held {
                pid,
                buffers: buffers.len(),
                bytes: buffers.iter().map(|buffer| buffer.size).sum(),
                more: by_search,
            });
        }
    }

    fn summarize(
        &mut self,
        pid: u32,
        read_at: Nanoseconds,
        buffers: &[Buffer],
        at_one_moment: bool,
        unknown_bytes: u64,
    ) {
        let facts = self.facts_of(pid);
        let summary = facts.attach_snapshot.get_or_insert(AttachSnapshotSummary {
            read_at_ns: read_at,
            buffers: 0,
            bytes: 0,
            at_one_moment: true,
            unknown_bytes: 0,
            problems: Vec::new(),
        });
        summary.read_at_ns = read_at;
        summary.buffers += buffers.len() as u64;
        summary.bytes += buffers.iter().map(|buffer| buffer.size).sum::<u64>();
        summary.at_one_moment &= at_one_moment;
        summary.unknown_bytes += unknown_bytes;
    }

    fn snapshot_problems(&mut self, pid: u32, problems: Vec<String>) {
        for problem in &problems {
            let problem = problem.clone();
            self.listener
                .notice(&Notice::SnapshotProblem { pid, problem });
        }
        let facts = self.facts.get_mut(&self.ledger.id(pid));
        if let Some(summary) = facts.and_then(|facts| facts.attach_snapshot.as_mut()) {
            summary.problems.extend(problems);
        }
    }
}

impl<L: Listener> Sink for Accounts<L> {
    fn take(&mut self, item: Item) {
        self.enter(item);
    }

    fn flush(&mut self) {
        self.listener.flush();
    }
}
