//! The banks of the devices of processes that are traced from their start: read once, soon after the
//! first buffer.

use std::{
    collections::HashMap,
    mem,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::reading::{Places, Subject};
use crate::{
    baseline::Reading,
    ledger::{Event, EventKind},
};

/// So long after its first buffer a process has opened its devices, most likely.
const OPENED: Duration = Duration::from_millis(100);

/// A process whose banks are to be read.
struct Later {
    subject: Subject,
    /// When; `None` before its first buffer.
    due: Option<Instant>,
}

/// The readings that are to come and those that go on.
#[derive(Default)]
pub struct Banks {
    later: HashMap<u32, Later>,
    reading: Vec<JoinHandle<(u32, Reading)>>,
}

impl Banks {
    /// A process is to be read when it has made a buffer.
    pub fn want(&mut self, subject: Subject) {
        let later = Later { subject, due: None };
        self.later.entry(later.subject.file.pid).or_insert(later);
    }

    /// Takes note of an event: a first buffer, or the end of a process.
    pub fn look(&mut self, event: &Event) {
        match event.kind {
            EventKind::Exit(_) | EventKind::Exec => drop(self.later.remove(&event.pid)),
            EventKind::Allocate(_) => {
                if let Some(later) = self.later.get_mut(&event.pid) {
                    later.due.get_or_insert_with(|| Instant::now() + OPENED);
                }
            }
            _ => {}
        }
    }

    /// Begins the readings that are due, and returns those that are over.
    pub fn read(&mut self) -> Vec<(u32, Reading)> {
        let now = Instant::now();
        let is_due = |_: &u32, later: &mut Later| later.due.is_some_and(|due| due <= now);
        for (pid, Later { subject, .. }) in self.later.extract_if(is_due) {
            self.reading.push(thread::spawn(move || {
                let reading = subject.read_by(&Places::Reachable, |reader| reader.read());
                (
                    pid,
                    reading.unwrap_or_else(|problem| subject.nothing(problem)),
                )
            }));
        }
        let (over, going_on) = mem::take(&mut self.reading)
            .into_iter()
            .partition(JoinHandle::is_finished);
        self.reading = going_on;
        over.into_iter()
            .filter_map(|reading: JoinHandle<_>| reading.join().ok())
            .collect()
    }
}
