//! What processes held before they were traced: read in threads of their own, while the events that
//! come in wait.

use std::{
    collections::HashSet,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::reading::Subject;
use crate::{
    baseline::Reading,
    ledger::Event,
    target::{self, FileId},
};

/// So long after the probes are on, whatever a thread was in the middle of then is over.
const SETTLED: Duration = Duration::from_millis(100);

/// What a process held.
pub struct Found {
    pub pid: u32,
    /// The processes that it descends from, its parent first.
    pub ancestors: Vec<u32>,
    pub early: Reading,
    pub late: Reading,
}

/// A process that is to be read.
struct Wanted {
    subject: Subject,
    since: Instant,
}

/// The readings that go on, and the events that wait for them.
#[derive(Default)]
pub struct Before {
    seen: HashSet<(u32, FileId)>,
    wanted: Vec<Wanted>,
    reading: Vec<JoinHandle<Found>>,
    waiting: Vec<Event>,
}

impl Before {
    /// A process that has this library mapped is to be read, once. Its probes are on.
    pub fn want(&mut self, subject: Subject) {
        if self.seen.insert((subject.file.pid, subject.file.file)) {
            self.wanted.push(Wanted {
                subject,
                since: Instant::now(),
            });
        }
    }

    /// A process has ended: its pid may come to mean another.
    pub fn forget(&mut self, pid: u32) {
        self.seen.retain(|(seen, _)| *seen != pid);
    }

    /// Begins what is wanted. From now on events wait.
    pub fn start(&mut self) {
        for wanted in self.wanted.drain(..) {
            self.reading.push(thread::spawn(move || wanted.read()));
        }
    }

    /// Keeps the event back while a reading goes on; gives it back otherwise.
    pub fn hold_back(&mut self, event: Event) -> Option<Event> {
        if self.wanted.is_empty() && self.reading.is_empty() {
            return Some(event);
        }
        self.waiting.push(event);
        None
    }

    /// Whether there were readings and all are over.
    pub fn is_over(&self) -> bool {
        !self.reading.is_empty() && self.reading.iter().all(JoinHandle::is_finished)
    }

    /// What was found, when all readings are over.
    pub fn wait(&mut self) -> Vec<Found> {
        self.wanted.clear();
        // A thread that panicked has said so; what it was to find stays unknown.
        self.reading
            .drain(..)
            .filter_map(|reading| reading.join().ok())
            .collect()
    }

    /// The events that waited.
    pub fn release(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.waiting)
    }
}

impl Wanted {
    fn read(self) -> Found {
        let Self { subject, since } = self;
        let pid = subject.file.pid;
        let readings = subject.read_by(|reader| {
            let is_settled = since.elapsed() >= SETTLED;
            let early = reader.read();
            // What is odd may be in the middle of something.
            if is_settled && early.survey.odd.is_empty() {
                return (early.clone(), early);
            }
            thread::sleep(SETTLED.saturating_sub(since.elapsed()));
            let late = reader.read_after(&early);
            if target::is_alive(pid) {
                (early, late)
            } else {
                // What was read is all that there will be; whatever it was in the middle of, it won't
                // end any more.
                let mut late = early.clone();
                late.survey.odd.clear();
                (early, late)
            }
        });
        let (early, late) = readings.unwrap_or_else(|problem| {
            let nothing = subject.nothing(problem);
            (nothing.clone(), nothing)
        });
        Found {
            pid,
            ancestors: target::ancestors(pid),
            early,
            late,
        }
    }
}
