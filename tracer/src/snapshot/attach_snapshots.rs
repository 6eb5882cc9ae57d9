//! Reads what processes held when the tracer attached to them, in threads of their own, while the events
//! of these processes are held back.
//!
//! First it reads the devices that the library's own variables lead to, which takes no longer in a large
//! process than in a small one. Then, at low priority and without holding events back, it searches the
//! whole heap for other devices. If there are any, they are read like the first ones.

use std::{
    collections::{HashMap, HashSet},
    thread::{self, JoinHandle},
};

use super::{
    attach_snapshot::AttachSnapshot,
    heap_search::{HeapSearches, Searched},
    held_events::{HeldEvents, Waiting},
    process_reading::{ProcessReading, ReadingRequest},
    target_library::{DevicesToRead, TargetLibrary},
};
use crate::{
    ledger::{Buffer, Event, EventKind, ObjectPointer, ProgramEvent},
    target::{self, FileId},
};

/// Readings that are over.
pub(crate) struct Finished {
    /// What the processes held, parents before their children.
    pub snapshots: Vec<AttachSnapshot>,
    /// The events that were held back for these readings, in order of time. They happened after the
    /// probes went on, so they come after the snapshots.
    pub waiting: Vec<Waiting>,
}

/// Takes the attach snapshots of all processes.
///
/// Readings go in rounds: [`Self::want`] requests one, [`Self::start`] begins all requested ones, and
/// [`Self::finish`] returns what they found.
#[derive(Default)]
pub(crate) struct AttachSnapshots {
    /// Processes and libraries that were read, or needn't be.
    seen: HashSet<(u32, FileId)>,
    /// Requests for the next round. A child's copies of its parent's objects are recognized for certain if
    /// both are read in one round.
    requests: Vec<ReadingRequest>,
    readings: Vec<JoinHandle<ProcessReading>>,
    searches: HeapSearches,
    events: HeldEvents,
    /// What each running process held when its probes went on: a child's buffers are compared with it.
    buffers_at_attach: HashMap<u32, HashMap<ObjectPointer, Buffer>>,
}

impl AttachSnapshots {
    /// Has a process read by the rules of this library, unless it was read before. Its probes are on.
    pub(crate) fn want(&mut self, library: TargetLibrary) {
        if self.seen.insert((library.pid(), library.file.file)) {
            self.request(library, DevicesToRead::Reachable);
        }
    }

    /// A process was traced with this library from its start, so that there is nothing to read.
    pub(crate) fn needs_no_reading(&mut self, library: &TargetLibrary) {
        self.seen.insert((library.pid(), library.file.file));
    }

    fn request(&mut self, library: TargetLibrary, devices: DevicesToRead) {
        self.events.hold(library.pid());
        self.requests.push(ReadingRequest::new(library, devices));
    }

    /// A process has ended: another process may get its pid.
    pub(crate) fn forget(&mut self, pid: u32) {
        self.seen.retain(|(seen, _)| *seen != pid);
    }

    /// Begins the requested readings, unless others go on.
    pub(crate) fn start(&mut self) {
        if self.readings.is_empty() {
            let requests = self.requests.drain(..);
            self.readings = requests
                .map(|request| thread::spawn(move || request.read()))
                .collect();
        }
    }

    /// Keeps an event while its process is read, or waits for it; returns it otherwise.
    pub(crate) fn hold_back(&mut self, event: Event) -> Option<Event> {
        let event = self.events.hold_back(event)?;
        self.forget_buffers_at_end(&event);
        Some(event)
    }

    /// Likewise an event of a program.
    pub(crate) fn hold_back_program(&mut self, event: ProgramEvent) -> Option<ProgramEvent> {
        self.events.hold_back_program(event)
    }

    /// Whether there are readings and all of them are over.
    pub(crate) fn is_over(&self) -> bool {
        !self.readings.is_empty() && self.readings.iter().all(JoinHandle::is_finished)
    }

    /// Whether a process is being read, or waits for it.
    pub(crate) fn is_reading(&self) -> bool {
        !self.requests.is_empty() || !self.readings.is_empty()
    }

    /// Whether nothing goes on and nothing is requested.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_reading() && self.searches.is_empty()
    }

    /// Waits for the readings that go on, and begins to search the heaps of the processes that were read.
    /// Events of processes that only wait to be read are held back further.
    pub(crate) fn finish(&mut self) -> Finished {
        // A thread that panicked has printed why; what it was to read stays unknown.
        let readings = self
            .readings
            .drain(..)
            .filter_map(|reading| reading.join().ok());
        let mut readings: Vec<ProcessReading> = readings.collect();
        // What a child has in common with its parent is the parent's.
        readings.sort_by_key(|reading| reading.ancestors.len());
        let waiting_to_be_read = self.requests.iter().map(ReadingRequest::pid).collect();
        let released = self.events.release(waiting_to_be_read);
        let mut snapshots = Vec::with_capacity(readings.len());
        for reading in readings {
            let snapshot = AttachSnapshot::new(
                reading.library.pid(),
                reading.by_search,
                &reading.readings,
                &released.events,
                |buffer| self.is_of_any(&reading.ancestors, buffer),
            );
            self.buffers_at_attach
                .entry(snapshot.pid)
                .or_default()
                .extend(
                    snapshot
                        .buffers
                        .iter()
                        .map(|buffer| (buffer.object, *buffer)),
                );
            snapshots.push(snapshot);
            self.search(reading);
        }
        for event in &released.events {
            self.forget_buffers_at_end(event);
        }
        Finished {
            snapshots,
            waiting: released.in_order(),
        }
    }

    /// Whether one of these processes held the same buffer.
    fn is_of_any(&self, pids: &[u32], buffer: &Buffer) -> bool {
        let mut held = pids
            .iter()
            .filter_map(|pid| self.buffers_at_attach.get(pid)?.get(&buffer.object));
        held.any(|held| held.is_same_as(buffer))
    }

    fn forget_buffers_at_end(&mut self, event: &Event) {
        if let EventKind::Exec | EventKind::Exit(_) = event.kind {
            self.buffers_at_attach.remove(&event.pid);
        }
    }

    /// Searches the heap of a process, unless that has been done.
    fn search(&mut self, reading: ProcessReading) {
        if reading.by_search || !target::is_alive(reading.library.pid()) {
            return;
        }
        self.searches
            .start(reading.library, reading.ancestors, reading.addresses);
    }

    /// Requests readings of the devices that finished searches have found. Returns the processes whose
    /// heap couldn't be searched to its end, and why.
    pub(crate) fn searched(&mut self) -> Vec<(u32, String)> {
        let Searched { found, problems } = self.searches.take_finished();
        for (library, addresses) in found {
            self.request(library, DevicesToRead::At(addresses));
        }
        problems
    }

    /// Waits a second for the searches that go on, then stops them.
    pub(crate) fn end_searches(&self) {
        self.searches.end();
    }
}
