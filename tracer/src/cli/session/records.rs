//! The kernel's records, on their way into the books.

use anyhow::anyhow;

use super::{
    super::{
        clock::monotonic_ns,
        deed::{Deed, What},
        failure::{Failure, Kind},
        spaces::Learnt,
    },
    Session,
};
use crate::{
    ledger::{Event, EventKind, ProgramEvent},
    report::Attached,
    stream::{self, Decoded, Implausible, StackState},
};

/// Records stand in the ring in nearly the order of their times: never so far from it.
const SKEW_NS: u64 = 1_000_000;

/// Undecodable records that are told one by one; the rest is only counted.
const MOST_TOLD: u64 = 5;

impl Session {
    /// Says whether something was lost since the last time.
    pub(super) fn drain(&mut self, deeds: &mut Vec<Deed>) -> Result<bool, Failure> {
        let mut unread = 0;
        let mut last = None;
        let mut implausible = None;
        // First the events, then the stacks: that of an event was sent before it. Of either only what is
        // there by now: with busy targets there would be no end to it, and the other ring fills.
        let Self {
            kernel,
            stream,
            stacks,
            spaces,
            ..
        } = self;
        let mut records = Vec::new();
        let until = monotonic_ns() + SKEW_NS;
        kernel.drain(|record| {
            let mut decoded = stream.decode(record);
            // Before all else: a process may be about to end.
            let learnt = match &mut decoded {
                Ok(Decoded::Memory(event)) => spaces.look(event),
                _ => None,
            };
            records.push((
                decoded,
                stream::point(record),
                stream::stack_state(record),
                learnt,
            ));
            stream::time_ns(record).is_none_or(|time| time < until)
        });
        let until = monotonic_ns() + SKEW_NS;
        kernel.drain_stacks(|record| {
            if let Some(record) = stream::stack(record) {
                stacks.take(&record);
            }
            stream::time_ns(record).is_none_or(|time| time < until)
        });
        for (decoded, point, stack, learnt) in records {
            match decoded {
                Ok(Decoded::Memory(event)) => {
                    last = Some((event.pid, event.tid));
                    if let Err(error) = self.memory(event, point, stack, learnt.as_ref())? {
                        implausible.get_or_insert((event.pid, error));
                    }
                }
                Ok(Decoded::Program(event)) => {
                    last = Some((event.pid, event.tid));
                    self.program(event, stack);
                }
                Ok(Decoded::Part) => {}
                Ok(Decoded::Life(event)) => self.life(event, deeds)?,
                Ok(Decoded::Executed { event, stopped }) => {
                    self.executed(event)?;
                    deeds.push(Deed::of(event.pid, What::Executed, stopped));
                }
                Ok(Decoded::Linked { pid, stopped }) => {
                    deeds.push(Deed::of(pid, What::Linked, stopped));
                }
                Err(error) => {
                    unread += 1;
                    if self.undecodable + unread <= MOST_TOLD {
                        tracing::warn!("a record can't be read and counts as lost: {error}");
                    }
                }
            }
        }
        self.undecodable += unread;
        let lost = self.kernel.lost()?;
        let newly = lost.saturating_sub(self.lost) + unread;
        self.lost = lost;
        if newly > 0 {
            let (pid, tid) = last.unwrap_or_default();
            self.enter(pid, tid, EventKind::Lost(newly));
        }
        if let Some((pid, error)) = implausible {
            return Err(Failure::new(
                Kind::Library,
                anyhow!(error).context(format!(
                    "what process {pid} says of its buffers can't be true, so its library's \
                     fields were derived wrongly: please report this release of TT-Metal with \
                     what `tt-memtrace check --pid {pid} --excerpt FILE` writes"
                )),
            ));
        }
        Ok(newly > 0)
    }

    /// An event about device memory, which may prove that its library is misunderstood. `point`: whose
    /// probe told of it. `learnt`: what its allocator said, if it was asked.
    fn memory(
        &mut self,
        event: Event,
        point: Option<u32>,
        stack: StackState,
        learnt: Option<&Learnt>,
    ) -> Result<Result<(), Implausible>, Failure> {
        let event = Event {
            stack: self.stacks.of(&event, stack),
            ..event
        };
        self.meshes
            .look(&event, &self.stream, &mut self.kernel, &self.books.ledger)?;
        self.banks.look(&event);
        let plausible = self.witness.look(&event);
        // Its probe tells the library of a process that may have ended by now.
        if self.books.is_unexplained(event.pid)
            && let Some(known) = point.and_then(|at| self.libraries.of_point(at))
        {
            let began = self.began.get(&event.pid);
            let from_start = began.is_some_and(|at| *at > known.since);
            let attached = if from_start {
                Attached::Start
            } else {
                Attached::Running
            };
            self.books.has_library(
                event.pid,
                attached,
                known.library.clone(),
                known.probes,
                known.programs,
            );
        }
        if let Some(learnt) = learnt {
            self.books.has_ranges(event.pid, learnt);
        }
        self.apply(event);
        Ok(plausible)
    }

    /// An event of a program.
    fn program(&mut self, event: ProgramEvent, stack: StackState) {
        let stack = self.stacks.of_program(&event, stack);
        let event = ProgramEvent { stack, ..event };
        if let Some(event) = self.before.hold_back_program(event) {
            self.books.apply_to_programs(&event);
        }
    }

    /// A process has forked or ended.
    fn life(&mut self, event: Event, deeds: &mut Vec<Deed>) -> Result<(), Failure> {
        match event.kind {
            EventKind::Fork { child } => {
                if let Some(at) = self.began.get(&event.pid).copied() {
                    self.began.insert(child, at);
                } else {
                    self.began.remove(&child);
                }
            }
            _ => drop(self.began.remove(&event.pid)),
        }
        self.apply(event);
        self.banks.look(&event);
        if let EventKind::Exit(_) = event.kind {
            self.forget(event.pid)?;
            deeds.push(Deed::of(event.pid, What::Ended, false));
        }
        Ok(())
    }

    /// A process has executed a program.
    fn executed(&mut self, event: Event) -> Result<(), Failure> {
        self.banks.look(&event);
        self.forget(event.pid)?;
        self.began.insert(event.pid, event.time);
        self.apply(event);
        Ok(())
    }

    /// What was known of a process's program holds no more.
    fn forget(&mut self, pid: u32) -> Result<(), Failure> {
        self.before.forget(pid);
        self.spaces.forget(pid);
        self.witness.forget(pid);
        self.stacks.close(pid);
        Ok(self.meshes.forget(&mut self.kernel, pid)?)
    }

    /// Enters something that no record tells of.
    pub(super) fn enter(&mut self, pid: u32, tid: u32, kind: EventKind) {
        let event = Event {
            pid,
            tid,
            time: self.clock.now(),
            kind,
            stack: None,
        };
        self.apply(event);
    }

    fn apply(&mut self, event: Event) {
        if let Some(event) = self.before.hold_back(event) {
            self.books.apply(&event);
        }
    }
}
