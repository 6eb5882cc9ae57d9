//! What is known of each process: its account in the ledger, and the facts that no event tells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    before::Found,
    failure::Failure,
    output::{Output, table_options},
    spaces::Learnt,
};
use crate::{
    baseline::{Reading, reconcile, unexplained},
    ledger::{
        Buffer, Effect, Event, EventKind, Ledger, Mark, Nanoseconds, ObjectPointer, Process,
        ProcessId, ProgramEvent,
    },
    report::{self, Attached, Baseline, Capacity, Library, ProcessFacts, Untraced},
    stack::{Stack, StackId},
    target::{self, Identity, TargetError},
};

/// Of a process whose allocations fail again and again, so many failures are told as they come.
const MOST_FAILURES_TOLD: u64 = 5;

/// The accounts of all processes, and where events are written down.
pub struct Books {
    pub output: Output,
    pub ledger: Ledger,
    facts: BTreeMap<ProcessId, ProcessFacts>,
    /// Whom the pids mean that have facts: those that run.
    running: HashSet<u32>,
    /// What those that run held before they were traced.
    held: HashMap<u32, BTreeMap<ObjectPointer, Buffer>>,
    untraced: BTreeMap<u32, Untraced>,
    /// Why some can't be traced, as it was said: of each process anew it would drown the rest.
    told: HashSet<String>,
}

/// What the summary is made of.
pub struct Closed {
    pub output: Output,
    pub ledger: Ledger,
    pub facts: Vec<ProcessFacts>,
    pub untraced: Vec<Untraced>,
}

impl Books {
    /// `temporary`: as for [`Ledger::new`].
    pub fn new(output: Output, temporary: u64) -> Self {
        Self {
            output,
            ledger: Ledger::new(temporary),
            facts: BTreeMap::new(),
            running: HashSet::new(),
            held: HashMap::new(),
            untraced: BTreeMap::new(),
            told: HashSet::new(),
        }
    }

    /// Lists a process that can't be traced, and says so once for each reason. The others go on.
    pub fn cannot_trace(&mut self, pid: u32, failure: &Failure) {
        let comm = Identity::of(pid).map(|identity| identity.comm);
        let comm = comm.unwrap_or_default();
        let reason = failure.to_string();
        if self.told.insert(reason.clone()) {
            self.output
                .warn(&format!("{comm} (pid {pid}) goes on untraced: {reason}"));
        }
        self.untraced.insert(pid, Untraced { pid, comm, reason });
    }

    /// Takes a process into the summary, whether or not it ever does anything. Of one that is in it,
    /// learns anew what it is called.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn introduce(&mut self, pid: u32, attached: Attached) -> Result<(), Failure> {
        Ok(self.learn(pid, attached)?)
    }

    fn learn(&mut self, pid: u32, attached: Attached) -> Result<(), TargetError> {
        let identity = Identity::of(pid)?;
        let facts = self.enlist(pid, attached);
        facts.comm = identity.comm;
        facts.command_line = identity.command_line;
        Ok(())
    }

    /// The facts of the process that `pid` means now; new ones if it is none of those known.
    fn enlist(&mut self, pid: u32, attached: Attached) -> &mut ProcessFacts {
        if self.running.insert(pid) {
            // A forked child has its account already.
            let forked = self
                .ledger
                .process(pid)
                .filter(|child| child.end().is_none());
            let parent = forked.and_then(|child| child.parent());
            let id = if parent.is_some() {
                self.ledger.id(pid)
            } else {
                self.ledger.begin(pid)
            };
            let known = parent.and_then(|parent| self.facts.get(&parent)).cloned();
            let facts = known.unwrap_or_else(|| ProcessFacts::unknown(pid));
            self.facts.insert(
                id,
                ProcessFacts {
                    id,
                    attached: if parent.is_some() {
                        facts.attached
                    } else {
                        attached
                    },
                    ..facts
                },
            );
        }
        let id = self.ledger.id(pid);
        self.facts.entry(id).or_insert_with(|| ProcessFacts {
            id,
            ..ProcessFacts::unknown(pid)
        })
    }

    /// Notes, and says, that a process has a library with so many probes. `attached`: since when it
    /// is traced. `programs`: whether these tell of programs, too.
    pub fn has_library(
        &mut self,
        pid: u32,
        attached: Attached,
        library: Library,
        probes: usize,
        programs: bool,
    ) {
        if !self.running.contains(&pid) {
            // Whose name can't be read any more has ended; its library is worth telling all the same.
            let _ = self.learn(pid, attached);
        }
        let facts = self.enlist(pid, attached);
        if facts.libraries.contains(&library) {
            return;
        }
        if attached == Attached::Running {
            facts.attached = attached;
        }
        let named = library
            .release
            .as_deref()
            .map(|release| format!("ttnn {release}, "))
            .unwrap_or_default();
        let build_id = library
            .build_id
            .as_deref()
            .map_or("without build id", |id| id.get(..12).unwrap_or(id));
        let line = format!(
            "tracing {} (pid {pid}): {named}{} {build_id}, {probes} probes",
            facts.comm,
            target::LIBRARY,
        );
        facts.libraries.push(library);
        facts.tells_programs |= programs;
        self.output.say(&line);
    }

    /// Whether nobody knows what library a process has: neither it nor a parent that forked it.
    pub fn is_unexplained(&self, pid: u32) -> bool {
        let forked = |process: &Process| process.end().is_none() && process.parent().is_some();
        !self.has_any_library(pid) && !self.ledger.process(pid).is_some_and(forked)
    }

    /// Whether a process has a library.
    pub fn has_any_library(&self, pid: u32) -> bool {
        let facts = self.facts.get(&self.ledger.id(pid));
        facts.is_some_and(|facts| !facts.libraries.is_empty())
    }

    /// Whether a process is in the summary and hasn't ended.
    pub fn is_running(&self, pid: u32) -> bool {
        self.running.contains(&pid)
    }

    /// The processes that are in the summary and haven't ended.
    pub fn running(&self) -> Vec<u32> {
        self.running.iter().copied().collect()
    }

    /// Enters an event of whatever kind.
    pub fn apply(&mut self, event: &Event) {
        match event.kind {
            kind if kind.is_of_life() => self.life(event),
            // Nobody knows whose were lost.
            EventKind::Lost(_) => self.enter(event),
            _ => self.memory(event),
        }
    }

    /// Enters an event of a program.
    pub fn apply_to_programs(&mut self, event: &ProgramEvent) {
        let effect = self.ledger.apply_to_programs(event);
        let process = self.ledger.process(event.pid);
        let program = |key| process?.programs().program(key);
        self.output.program_event(event, effect, program);
    }

    /// Enters what processes held before they were traced. `events`: what happened since the probes
    /// were on, of all processes.
    pub fn settle(&mut self, found: &[Found], events: &[Event]) {
        // Parents first: what a child has in common with its parent is the parent's.
        let mut found: Vec<&Found> = found.iter().collect();
        found.sort_by_key(|found| found.ancestors.len());
        for found in found {
            let Found {
                pid, early, late, ..
            } = found;
            let pid = *pid;
            let own: Vec<Event> = events
                .iter()
                .filter(|event| event.pid == pid)
                .copied()
                .collect();
            let mut buffers = reconcile(early, late, &own);
            let unexplained = unexplained(early, late, &own);
            let of_ancestors: Vec<_> = found
                .ancestors
                .iter()
                .filter_map(|pid| self.held.get(pid))
                .collect();
            buffers.retain(|object, buffer| {
                let copied = of_ancestors
                    .iter()
                    .any(|theirs| theirs.get(object) == Some(buffer));
                if copied {
                    self.ledger.inherit(pid, *object);
                }
                !copied
            });
            // What made its own event before its device was found.
            let known = self.ledger.process(pid);
            buffers.retain(|object, _| !known.is_some_and(|process| process.has(*object)));
            let at = late.until;
            for device in &late.survey.devices {
                self.ledger
                    .join(pid, device.device, device.members.iter().copied());
            }
            for ((allocator, buffer_type), map) in &late.survey.maps {
                self.ledger
                    .know_range(pid, *allocator, *buffer_type, map.range);
            }
            for buffer in buffers.values() {
                let surveys = [&late.survey, &early.survey].into_iter();
                let bytes_per_bank = surveys.filter_map(|survey| survey.block(buffer)).next();
                self.memory(&Event {
                    pid,
                    tid: pid,
                    time: at,
                    kind: EventKind::Found(Buffer {
                        bytes_per_bank,
                        ..*buffer
                    }),
                    stack: None,
                });
            }
            self.note(found, &buffers, unexplained);
            self.held.entry(pid).or_default().extend(buffers);
        }
    }

    /// Notes which banks the devices of a process have.
    pub fn has_banks(&mut self, pid: u32, read: &Reading) {
        let Some(facts) = self.facts.get_mut(&self.ledger.id(pid)) else {
            return;
        };
        for state in &read.survey.devices {
            for (buffer_type, banks) in &state.banks {
                facts.capacity.insert(
                    (state.device, *buffer_type),
                    Capacity {
                        banks: banks.count,
                        bytes_per_bank: banks.bytes,
                        allocated_per_bank: banks.allocated,
                        free_per_bank: banks.free,
                        largest_free_per_bank: banks.largest_free,
                        read_at_ns: read.until,
                    },
                );
            }
        }
    }

    /// Notes what was learnt of an allocator of a process.
    pub fn has_ranges(&mut self, pid: u32, learnt: &Learnt) {
        for (buffer_type, range) in &learnt.ranges {
            self.ledger
                .know_range(pid, learnt.allocator, *buffer_type, *range);
        }
        if learnt.lengths_are_wrong {
            self.ledger.forget_lengths(pid);
            self.output.warn(&format!(
                "how much of each bank the buffers of process {pid} take can't be told: its allocators \
                 take something else than what is recorded"
            ));
        }
    }

    /// Notes what was read of a process, and says what is worth a person's while.
    fn note(
        &mut self,
        found: &Found,
        buffers: &BTreeMap<ObjectPointer, Buffer>,
        unexplained: usize,
    ) {
        let pid = found.pid;
        let Reading { survey, until } = &found.late;
        self.has_banks(pid, &found.late);
        let mut problems = survey.problems.clone();
        if unexplained > 0 {
            problems.push(format!(
                "allocators list {unexplained} objects that aren't live owning buffers"
            ));
        }
        let facts = self.enlist(pid, Attached::Running);
        let bytes: u64 = buffers.values().map(|buffer| buffer.size).sum();
        let baseline = facts.baseline.get_or_insert(Baseline {
            read_at_ns: *until,
            buffers: 0,
            bytes: 0,
            at_one_moment: true,
            unknown_bytes: 0,
            problems: Vec::new(),
        });
        baseline.read_at_ns = *until;
        baseline.buffers += buffers.len() as u64;
        baseline.bytes += bytes;
        baseline.at_one_moment &= survey.at_one_moment;
        if unexplained > 0 {
            baseline.unknown_bytes += survey.unknown_bytes;
        }
        if !problems.is_empty() {
            self.ledger.misses_some(pid);
        }
        self.has_problems(pid, problems);
        if found.by_search && buffers.is_empty() {
            return;
        }
        self.output.say(&format!(
            "process {pid} held {}{} from before, {}",
            match buffers.len() {
                0 => "no buffers".to_owned(),
                1 => "1 buffer".to_owned(),
                several => format!("{several} buffers"),
            },
            if found.by_search { " more" } else { "" },
            humansize::format_size(bytes, humansize::BINARY)
        ));
    }

    /// Notes, and says, that a process may have devices from before that weren't found.
    pub fn not_searched(&mut self, pid: u32, problem: String) {
        let problem =
            format!("devices were looked for only where the library's data leads: {problem}");
        self.has_problems(pid, vec![problem]);
    }

    fn has_problems(&mut self, pid: u32, problems: Vec<String>) {
        for problem in &problems {
            self.output.warn(&format!(
                "what process {pid} held before can't all be read: {problem}"
            ));
        }
        let facts = self.facts.get_mut(&self.ledger.id(pid));
        if let Some(baseline) = facts.and_then(|facts| facts.baseline.as_mut()) {
            baseline.problems.extend(problems);
        }
    }

    /// Enters an event about device memory.
    fn memory(&mut self, event: &Event) {
        if !self.running.contains(&event.pid) {
            // The first sign of a process: it was forked, or nobody has seen it load the library yet.
            if self.learn(event.pid, Attached::Start).is_err() {
                self.enlist(event.pid, Attached::Start);
            }
        }
        self.enter(event);
    }

    /// Enters an event about a process's life. Of processes that have nothing to do with device
    /// memory nothing is kept.
    fn life(&mut self, event: &Event) {
        let known = self.running.contains(&event.pid);
        if !matches!(event.kind, EventKind::Fork { .. }) {
            self.held.remove(&event.pid);
        }
        let concerned = known && self.has_any_library(event.pid);
        match event.kind {
            EventKind::Fork { child } => {
                // Whoever had that number has ended, seen or not. One that has no event yet is this
                // child: its library may be found while the fork waits for a reading of memory.
                let heard = |process: &Process| process.counters().received > 0;
                if self.ledger.process(child).is_some_and(heard) {
                    self.running.remove(&child);
                }
                if concerned {
                    self.enter(event);
                }
            }
            _ if !known => self.ledger.forget(event.pid),
            EventKind::Exec => {
                if concerned {
                    self.enter(event);
                }
                // What it is called now; unless it has ended since.
                let _ = self.learn(event.pid, Attached::Start);
            }
            _ => {
                self.enter(event);
                self.running.remove(&event.pid);
            }
        }
    }

    /// The way of every event into the ledger and the log.
    fn enter(&mut self, event: &Event) {
        let outcome = self.ledger.apply(event);
        self.output.event(event, &outcome);
        if let (EventKind::Failed(_), Effect::Failed) = (event.kind, outcome.effect) {
            self.tell_failure(event.pid);
        }
    }

    /// Says at once that an allocation failed; of many in one process only the first ones.
    fn tell_failure(&self, pid: u32) {
        let Some(process) = self.ledger.process(pid) else {
            return;
        };
        let failed = process.failed_allocations();
        let Some(last) = failed
            .last()
            .filter(|_| process.counters().failed_allocations <= MOST_FAILURES_TOLD)
        else {
            return;
        };
        let facts = self.facts.get(&self.ledger.id(pid));
        let comm = facts.map_or("process", |facts| facts.comm.as_str());
        self.output.say(&report::out_of_memory(comm, pid, last));
    }

    /// Marks a moment, and says so.
    pub fn mark(&mut self, name: Option<String>, at: Nanoseconds) -> String {
        let mark = self.ledger.mark(name, at).clone();
        self.output.mark(&mark);
        report::mark_set(&mark, &self.ledger)
    }

    /// The mark before the last one.
    fn previous_mark(&self) -> Option<&Mark> {
        self.ledger.marks().iter().nth_back(1)
    }

    /// The stacks that [`Self::change_at_last_mark`] names.
    pub fn stacks_since_last_mark(&self) -> BTreeSet<StackId> {
        let Some(mark) = self.previous_mark() else {
            return BTreeSet::new();
        };
        let processes = self.ledger.processes().values();
        processes
            .flat_map(|process| report::stacks_since(process, mark.number))
            .collect()
    }

    /// What has changed between the last two marks, for a person; empty if there is only one.
    pub fn change_at_last_mark(&self, stacks: &BTreeMap<StackId, Stack>) -> String {
        let Some(mark) = self.previous_mark() else {
            return String::new();
        };
        let processes = self.ledger.processes().iter();
        processes
            .filter_map(|(id, process)| {
                let comm = self.facts.get(id).map_or("", |facts| facts.comm.as_str());
                report::changed_since(comm, id.pid, process, mark, stacks, table_options())
            })
            .collect()
    }

    /// All that is known.
    pub fn close(self) -> Closed {
        Closed {
            output: self.output,
            ledger: self.ledger,
            facts: self.facts.into_values().collect(),
            untraced: self.untraced.into_values().collect(),
        }
    }
}
