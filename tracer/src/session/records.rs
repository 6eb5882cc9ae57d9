//! From the kernel's records to items, in order.

use super::{
    Item, Kernel, Notice, ProcessEvent, ProcessEventKind, ProcessFact, Processes, Session,
    SessionError, Stopped, process_facts::is_from_start,
};
use crate::{
    ledger::{Event, EventKind, ProgramEvent},
    snapshot::AllocatorRanges,
    stream::{self, DecodeError, Decoded, Implausible, StackState},
};

/// Records stand in the ring nearly in the order of their times: they are never further out of it.
const SKEW_NS: u64 = 1_000_000;

/// Unreadable records that are reported one by one; all are counted.
const MAX_REPORTED: u64 = 5;

/// A record that was taken out of the ring, with what has to be read of it at once.
struct Taken {
    decoded: Result<Decoded, DecodeError>,
    point: Option<u32>,
    stack: StackState,
    /// What its allocator answered, if it was asked.
    ranges: Option<AllocatorRanges>,
}

impl<K: Kernel, P: Processes> Session<'_, K, P> {
    /// Takes all records that wait. Returns whether some were lost since the last time.
    pub(super) fn drain(
        &mut self,
        events: &mut Vec<ProcessEvent<P>>,
    ) -> Result<bool, SessionError> {
        let taken = self.take_records();
        self.take_stacks();
        let mut unreadable = 0;
        let mut last = None;
        let mut implausible = None;
        for record in taken {
            match record.decoded {
                Ok(Decoded::Memory(event)) => {
                    last = Some((event.pid, event.tid));
                    let checked =
                        self.memory_event(event, record.point, record.stack, record.ranges)?;
                    if let Err(source) = checked {
                        implausible.get_or_insert((event.pid, source));
                    }
                }
                Ok(Decoded::Program(event)) => {
                    last = Some((event.pid, event.tid));
                    self.program_event(event, record.stack);
                }
                Ok(Decoded::Part) => {}
                Ok(Decoded::Life(event)) => self.life_event(event, events)?,
                Ok(Decoded::Executed { event, stopped }) => {
                    self.executed(event)?;
                    self.push(events, event.pid, ProcessEventKind::Executed, stopped);
                }
                Ok(Decoded::Linked { pid, stopped }) => {
                    self.push(events, pid, ProcessEventKind::Linked, stopped);
                }
                Err(error) => {
                    unreadable += 1;
                    if self.unreadable + unreadable <= MAX_REPORTED {
                        let why = error.to_string();
                        self.notice(Notice::UnreadableRecord { why });
                    }
                }
            }
        }
        self.unreadable += unreadable;
        let lost = self.kernel.lost()?;
        let newly_lost = lost.saturating_sub(self.lost) + unreadable;
        self.lost = lost;
        if newly_lost > 0 {
            let (pid, tid) = last.unwrap_or_default();
            let event = self.event_now(pid, tid, EventKind::Lost(newly_lost));
            self.follow_meshes(&event)?;
            self.enter_or_hold(event);
        }
        match implausible {
            Some((pid, source)) => Err(SessionError::Implausible { pid, source }),
            None => Ok(newly_lost > 0),
        }
    }

    /// Takes the records that are there by now. With busy targets there would be no end to those that come
    /// meanwhile, and the ring of stacks fills.
    fn take_records(&mut self) -> Vec<Taken> {
        let mut taken = Vec::new();
        let until = self.kernel.now_ns() + SKEW_NS;
        let (stream, ranges) = (&mut self.stream, &mut self.ranges);
        self.kernel.drain(&mut |record| {
            let mut decoded = stream.decode(record);
            // Before all else: a process may be about to end.
            let ranges = match &mut decoded {
                Ok(Decoded::Memory(event)) => ranges.observe(event),
                _ => None,
            };
            taken.push(Taken {
                decoded,
                point: stream::point(record),
                stack: stream::stack_state(record),
                ranges,
            });
            stream::time_ns(record).is_none_or(|time| time < until)
        });
        taken
    }

    /// Takes the stack records, after the records: the stack of an event was sent before it.
    fn take_stacks(&mut self) {
        let until = self.kernel.now_ns() + SKEW_NS;
        let stacks = &mut self.stacks;
        self.kernel.drain_stacks(&mut |record| {
            if let Some(record) = stream::stack(record) {
                stacks.take(&record);
            }
            stream::time_ns(record).is_none_or(|time| time < until)
        });
    }

    /// An event about device memory, which may show that its library is misunderstood. `point`: the probe
    /// point that sent it.
    fn memory_event(
        &mut self,
        event: Event,
        point: Option<u32>,
        stack: StackState,
        ranges: Option<AllocatorRanges>,
    ) -> Result<Result<(), Implausible>, SessionError> {
        let event = Event {
            stack: self.stacks.stack_of(&event, stack),
            ..event
        };
        let pid = event.pid;
        self.follow_meshes(&event)?;
        self.banks.observe(&event);
        let plausible = self.plausibility.check(&event);
        // The probe point names the library of a process that may have ended by now.
        if !self.table.is_explained(pid)
            && let Some(probed) = point.and_then(|at| self.libraries.of_point(at))
        {
            let from_start = is_from_start(&self.executed_at, pid, probed.since);
            let library = probed.library.clone();
            let (probes, programs) = (probed.probes, probed.programs);
            self.add_library(pid, from_start, library, probes, programs);
        }
        if let Some(ranges) = ranges {
            self.fact(ProcessFact::Ranges { pid, ranges });
        }
        self.enter_or_hold(event);
        Ok(plausible)
    }

    fn program_event(&mut self, event: ProgramEvent, stack: StackState) {
        let stack = self.stacks.stack_of_program(stack);
        let event = ProgramEvent { stack, ..event };
        if let Some(event) = self.snapshots.hold_back_program(event) {
            self.sink.take(Item::Program(event));
        }
    }

    /// A process has forked or ended.
    pub(super) fn life_event(
        &mut self,
        event: Event,
        events: &mut Vec<ProcessEvent<P>>,
    ) -> Result<(), SessionError> {
        match event.kind {
            EventKind::Fork { child } => {
                if let Some(at) = self.executed_at.get(&event.pid).copied() {
                    self.executed_at.insert(child, at);
                } else {
                    self.executed_at.remove(&child);
                }
            }
            _ => drop(self.executed_at.remove(&event.pid)),
        }
        self.follow_meshes(&event)?;
        self.enter_or_hold(event);
        self.banks.observe(&event);
        if let EventKind::Exit(_) = event.kind {
            self.forget(event.pid);
            self.push(events, event.pid, ProcessEventKind::Ended, false);
        }
        Ok(())
    }

    /// A process has executed a program.
    fn executed(&mut self, event: Event) -> Result<(), SessionError> {
        self.banks.observe(&event);
        self.follow_meshes(&event)?;
        self.forget(event.pid);
        self.executed_at.insert(event.pid, event.time);
        self.enter_or_hold(event);
        Ok(())
    }

    /// What was known of a process's program no longer holds.
    fn forget(&mut self, pid: u32) {
        self.snapshots.forget(pid);
        self.ranges.forget(pid);
        self.plausibility.forget(pid);
        self.stacks.close(pid);
    }

    /// Sets for the kernel side which buffers follow those on meshes, as far as the event changes that.
    fn follow_meshes(&mut self, event: &Event) -> Result<(), SessionError> {
        let (stream, pid) = (&self.stream, event.pid);
        let follows = self
            .followers
            .after(event, |mesh| stream.pointers_to(pid, mesh).collect());
        for follow in follows {
            self.kernel
                .set_followers(follow.pid, follow.object, follow.followers)?;
        }
        Ok(())
    }

    fn push(
        &self,
        events: &mut Vec<ProcessEvent<P>>,
        pid: u32,
        kind: ProcessEventKind,
        stopped: bool,
    ) {
        events.push(ProcessEvent {
            pid,
            kind,
            stopped: stopped.then(|| Stopped::new(pid, self.processes.clone())),
        });
    }

    /// Enters an event, unless it has to wait for a snapshot of its process.
    pub(super) fn enter_or_hold(&mut self, event: Event) {
        if let Some(event) = self.snapshots.hold_back(event) {
            self.enter(event);
        }
    }

    /// Hands out an event. Of processes that have nothing to do with device memory nothing is handed out.
    pub(super) fn enter(&mut self, event: Event) {
        let pid = event.pid;
        match event.kind {
            kind if kind.is_process_event() => return self.enter_life(event),
            // It isn't known whose records were lost.
            EventKind::Lost(_) => {}
            _ => {
                if !self.table.is_running(pid) {
                    // The first event of a process: it was forked, or its library hasn't been found yet.
                    self.introduce_if_possible(pid, true);
                }
                self.table.note_event(pid);
            }
        }
        self.sink.take(Item::Event(event));
    }

    fn enter_life(&mut self, event: Event) {
        let pid = event.pid;
        let is_known = self.table.is_running(pid);
        let is_concerned = is_known && self.table.has_library(pid);
        match event.kind {
            EventKind::Fork { child } => {
                self.table.reuse_pid(child);
                if is_concerned {
                    self.table.fork(pid, child);
                    self.table.note_event(pid);
                    self.sink.take(Item::Event(event));
                }
            }
            _ if !is_known => {
                if self.table.is_forked(pid) {
                    self.fact(ProcessFact::Forgotten { pid });
                    self.table.end(pid);
                }
            }
            EventKind::Exec => {
                if is_concerned {
                    self.table.note_event(pid);
                    self.sink.take(Item::Event(event));
                }
                // It may have ended since; then it keeps its name.
                self.introduce(pid, true).ok();
            }
            _ => {
                self.sink.take(Item::Event(event));
                self.table.end(pid);
            }
        }
    }
}
