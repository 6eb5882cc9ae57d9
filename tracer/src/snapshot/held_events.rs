//! The events of processes that are being read: held back until it is known what was there before them.

use std::collections::HashSet;

use crate::ledger::{Event, EventKind, ProgramEvent};

/// An event that was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// About device memory or the process itself.
    Memory(Event),
    /// About a program.
    Program(ProgramEvent),
}

/// Processes whose events are held back, and these events.
#[derive(Default)]
pub(super) struct HeldEvents {
    pids: HashSet<u32>,
    events: Vec<Event>,
    program_events: Vec<ProgramEvent>,
}

/// Events that are held back no more, each kind in order of time.
pub(super) struct Released {
    pub(super) events: Vec<Event>,
    pub(super) program_events: Vec<ProgramEvent>,
}

impl HeldEvents {
    /// Holds back the events of a process from now on.
    pub(super) fn hold(&mut self, pid: u32) {
        self.pids.insert(pid);
    }

    /// Keeps the event if its process is held; returns it otherwise. A child forked by a held process is
    /// held like it.
    pub(super) fn hold_back(&mut self, event: Event) -> Option<Event> {
        if !self.pids.contains(&event.pid) {
            return Some(event);
        }
        if let EventKind::Fork { child } = event.kind {
            self.pids.insert(child);
        }
        self.events.push(event);
        None
    }

    /// Likewise an event of a program.
    pub(super) fn hold_back_program(&mut self, event: ProgramEvent) -> Option<ProgramEvent> {
        if !self.pids.contains(&event.pid) {
            return Some(event);
        }
        self.program_events.push(event);
        None
    }

    /// Releases all events but those of the processes in `still_held` and of the children that these
    /// have forked.
    pub(super) fn release(&mut self, still_held: HashSet<u32>) -> Released {
        self.pids = still_held;
        let (mut events, mut kept) = (Vec::new(), Vec::new());
        for event in self.events.drain(..) {
            if !self.pids.contains(&event.pid) {
                events.push(event);
                continue;
            }
            if let EventKind::Fork { child } = event.kind {
                self.pids.insert(child);
            }
            kept.push(event);
        }
        self.events = kept;
        let pids = &self.pids;
        let program_events = self
            .program_events
            .extract_if(.., |event| !pids.contains(&event.pid))
            .collect();
        Released {
            events,
            program_events,
        }
    }
}

impl Released {
    /// All events in order of time. A program's event comes before another event of the same time.
    pub(super) fn in_order(self) -> Vec<Waiting> {
        let mut program_events = self.program_events.into_iter().peekable();
        let mut all = Vec::new();
        for event in self.events {
            while let Some(earlier) = program_events.next_if(|program| program.time <= event.time) {
                all.push(Waiting::Program(earlier));
            }
            all.push(Waiting::Memory(event));
        }
        all.extend(program_events.map(Waiting::Program));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{
            Nanoseconds, ObjectPointer,
            programs::{ProgramEventKind, ProgramPointer},
        },
        snapshot::fixture::{PID, event},
    };

    fn freed(time: u64) -> Event {
        event(time, EventKind::Deallocate(ObjectPointer(1)))
    }

    fn program_event(time: u64) -> ProgramEvent {
        ProgramEvent {
            pid: PID,
            tid: PID,
            time: Nanoseconds(time),
            kind: ProgramEventKind::Ended(ProgramPointer(1)),
            stack: None,
        }
    }

    #[test]
    fn only_events_of_held_processes_are_held_back() {
        let mut held = HeldEvents::default();
        assert_eq!(held.hold_back(freed(1)), Some(freed(1)));
        let program = program_event(2);
        assert_eq!(
            held.hold_back_program(program.clone()),
            Some(program.clone())
        );
        held.hold(PID);
        assert_eq!(held.hold_back(freed(3)), None);
        assert_eq!(held.hold_back_program(program), None);
    }

    #[test]
    fn both_kinds_are_released_in_order_of_time() {
        let mut held = HeldEvents::default();
        held.hold(PID);
        for time in [10, 30] {
            assert_eq!(held.hold_back(freed(time)), None);
        }
        for time in [5, 30, 40] {
            assert_eq!(held.hold_back_program(program_event(time)), None);
        }
        let expected = [
            Waiting::Program(program_event(5)),
            Waiting::Memory(freed(10)),
            // A program's event comes before another event of the same time.
            Waiting::Program(program_event(30)),
            Waiting::Memory(freed(30)),
            Waiting::Program(program_event(40)),
        ];
        assert_eq!(held.release(HashSet::new()).in_order(), expected);
        assert_eq!(held.hold_back(freed(50)), Some(freed(50)));
    }

    #[test]
    fn a_child_of_a_process_that_stays_held_stays_held() {
        let child = PID + 1;
        let mut held = HeldEvents::default();
        held.hold(PID);
        let fork = event(10, EventKind::Fork { child });
        let of_child = Event {
            pid: child,
            ..freed(20)
        };
        assert_eq!(held.hold_back(fork), None);
        assert_eq!(held.hold_back(of_child), None);
        assert_eq!(held.release(HashSet::from([PID])).in_order(), []);
        assert_eq!(held.hold_back(of_child), None);
        let expected = [fork, of_child, of_child].map(Waiting::Memory);
        assert_eq!(held.release(HashSet::new()).in_order(), expected);
    }
}
