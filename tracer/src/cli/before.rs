//! What processes held before they were traced: read in threads of their own, while the events of
//! these processes wait.
//!
//! First what the library's own data leads to, which takes no longer in a large process than in a
//! small one. Then, without haste and while events go their way again, the whole heap is searched for
//! devices that nothing led to; if there are any, they are read like the first ones.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::reading::{Places, Subject};
use crate::{
    baseline::Reading,
    ledger::{Event, EventKind, ProgramEvent},
    target::{self, FileId, Threads},
};

/// So long after the probes are on, whatever a thread was in the middle of then is over; unless it was
/// kept waiting for a processor.
const SETTLED: Duration = Duration::from_millis(100);

/// Nobody is waited for longer than that.
const SETTLED_AT_LAST: Duration = Duration::from_secs(3);

/// So long the end of a trace waits for the heap to be searched.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How often it looks.
const LOOK: Duration = Duration::from_millis(5);

/// What a process held.
pub struct Found {
    pub pid: u32,
    /// The processes that it descends from, its parent first.
    pub ancestors: Vec<u32>,
    pub early: Reading,
    pub late: Reading,
    /// Whether this is what nothing led to.
    pub by_search: bool,
    subject: Subject,
    places: Vec<u64>,
}

/// A process that is to be read.
struct Wanted {
    subject: Subject,
    places: Places,
    since: Instant,
    /// That ran then.
    threads: Threads,
}

/// A heap that is searched.
struct Search {
    subject: Subject,
    ancestors: Vec<u32>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Searched>,
}

/// Devices that nothing led to; `None` when the search was stopped.
type Searched = Result<Option<Vec<u64>>, String>;

/// The readings that go on, and the events that wait for them.
#[derive(Default)]
pub struct Before {
    seen: HashSet<(u32, FileId)>,
    /// To be read when those that go on are over: parents and children are best told apart when they
    /// are read together.
    next: Vec<Wanted>,
    reading: Vec<JoinHandle<Found>>,
    searching: Vec<Search>,
    /// Whose events wait.
    held: HashSet<u32>,
    waiting: Vec<Event>,
    /// Those of programs.
    waiting_programs: Vec<ProgramEvent>,
}

impl Before {
    /// A process that has this library mapped is to be read, once. Its probes are on.
    pub fn want(&mut self, subject: Subject) {
        if self.seen.insert((subject.file.pid, subject.file.file)) {
            self.read_next(subject, Places::Reachable);
        }
    }

    /// A process was traced with this library from its start: there was nothing before.
    pub fn needs_no_reading(&mut self, subject: &Subject) {
        self.seen.insert((subject.file.pid, subject.file.file));
    }

    fn read_next(&mut self, subject: Subject, places: Places) {
        self.held.insert(subject.file.pid);
        self.next.push(Wanted {
            threads: Threads::of(subject.file.pid),
            subject,
            places,
            since: Instant::now(),
        });
    }

    /// A process has ended: its pid may come to mean another.
    pub fn forget(&mut self, pid: u32) {
        self.seen.retain(|(seen, _)| *seen != pid);
    }

    /// Begins what is wanted, unless something goes on.
    pub fn start(&mut self) {
        if self.reading.is_empty() {
            let next = self.next.drain(..);
            self.reading = next
                .map(|wanted| thread::spawn(move || wanted.read()))
                .collect();
        }
    }

    /// Keeps the event back while its process is read, or waits to be; gives it back otherwise.
    pub fn hold_back(&mut self, event: Event) -> Option<Event> {
        if !self.held.contains(&event.pid) {
            return Some(event);
        }
        if let EventKind::Fork { child } = event.kind {
            self.held.insert(child);
        }
        self.waiting.push(event);
        None
    }

    /// Likewise an event of a program.
    pub fn hold_back_program(&mut self, event: ProgramEvent) -> Option<ProgramEvent> {
        if !self.held.contains(&event.pid) {
            return Some(event);
        }
        self.waiting_programs.push(event);
        None
    }

    /// Whether there were readings and all are over.
    pub fn is_over(&self) -> bool {
        !self.reading.is_empty() && self.reading.iter().all(JoinHandle::is_finished)
    }

    /// What was found, when the readings that go on are over.
    pub fn wait(&mut self) -> Vec<Found> {
        // A thread that panicked has said so; what it was to find stays unknown.
        self.reading
            .drain(..)
            .filter_map(|reading| reading.join().ok())
            .collect()
    }

    /// The events that waited for them. Those of processes that only wait to be read go on waiting.
    pub fn release(&mut self) -> Vec<Event> {
        let next: HashSet<u32> = self.next.iter().map(|next| next.subject.file.pid).collect();
        let (mut still, mut held) = (Vec::new(), next);
        let mut released = Vec::new();
        for event in self.waiting.drain(..) {
            if !held.contains(&event.pid) {
                released.push(event);
                continue;
            }
            if let EventKind::Fork { child } = event.kind {
                held.insert(child);
            }
            still.push(event);
        }
        self.waiting = still;
        self.held = held;
        released
    }

    /// Likewise the events of programs, after [`Self::release`].
    pub fn release_programs(&mut self) -> Vec<ProgramEvent> {
        let held = &self.held;
        let released = self
            .waiting_programs
            .extract_if(.., |event| !held.contains(&event.pid));
        released.collect()
    }

    /// Has the whole heap of a process searched that was read.
    pub fn search(&mut self, found: Found) {
        if found.by_search || !target::is_alive(found.pid) {
            return;
        }
        let Found {
            subject,
            ancestors,
            places,
            ..
        } = found;
        let stop = Arc::new(AtomicBool::new(false));
        let (searched, stopped) = (subject.clone(), Arc::clone(&stop));
        let thread =
            thread::spawn(move || searched.search(&places, || !stopped.load(Ordering::Relaxed)));
        self.searching.push(Search {
            subject,
            ancestors,
            stop,
            thread,
        });
    }

    /// Notes what searches have found that are over, a child's not before its parents'. Returns the
    /// processes whose heap can't be searched to its end, and why.
    pub fn searched(&mut self) -> Vec<(u32, String)> {
        let going_on = self.searching.iter().filter(|on| !on.thread.is_finished());
        let busy: HashSet<u32> = going_on.map(|on| on.subject.file.pid).collect();
        let (over, going_on) =
            std::mem::take(&mut self.searching)
                .into_iter()
                .partition(|search| {
                    search.thread.is_finished()
                        && !search.ancestors.iter().any(|pid| busy.contains(pid))
                });
        self.searching = going_on;
        let mut problems = Vec::new();
        for Search {
            subject, thread, ..
        } in over
        {
            let pid = subject.file.pid;
            match thread.join() {
                Ok(Ok(Some(places))) if places.is_empty() => {}
                Ok(Ok(Some(places))) => self.read_next(subject, Places::At(places)),
                Ok(Ok(None)) => problems.push((pid, "there was no time to search it all".into())),
                Ok(Err(_)) if !target::is_alive(pid) => {}
                Ok(Err(problem)) => problems.push((pid, problem)),
                Err(_) => problems.push((pid, "the search failed".into())),
            }
        }
        problems
    }

    /// Waits until the searches that go on are over, for some time; then stops them.
    pub fn end_searches(&self) {
        let begun = Instant::now();
        let go_on = || self.searching.iter().any(|on| !on.thread.is_finished());
        while go_on() {
            if begun.elapsed() > LAST_WAIT {
                for search in &self.searching {
                    search.stop.store(true, Ordering::Relaxed);
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Whether what a process held is being read, or is to be.
    pub fn is_reading(&self) -> bool {
        !self.next.is_empty() || !self.reading.is_empty()
    }

    /// Whether nothing goes on and nothing is wanted.
    pub fn is_idle(&self) -> bool {
        self.next.is_empty() && self.reading.is_empty() && self.searching.is_empty()
    }
}

impl Wanted {
    fn read(self) -> Found {
        let Self {
            subject,
            places,
            since,
            threads,
        } = self;
        let pid = subject.file.pid;
        let have_gone_on = || since.elapsed() >= SETTLED_AT_LAST || threads.have_gone_on(pid);
        let readings = subject.read_by(&places, |reader| {
            let is_settled = since.elapsed() >= SETTLED && have_gone_on();
            let early = reader.read();
            // What is odd may be in the middle of something.
            if is_settled && early.survey.odd.is_empty() {
                return (early.clone(), early, reader.places().to_vec());
            }
            thread::sleep(SETTLED.saturating_sub(since.elapsed()));
            while !have_gone_on() {
                thread::sleep(LOOK);
            }
            let late = reader.read_after(&early);
            let late = if target::is_alive(pid) {
                late
            } else {
                // What was read is all that there will be; whatever it was in the middle of, it won't
                // end any more.
                let mut late = early.clone();
                late.survey.odd.clear();
                late
            };
            (early, late, reader.places().to_vec())
        });
        let (early, late, at) = readings.unwrap_or_else(|problem| {
            let nothing = subject.nothing(problem);
            (nothing.clone(), nothing, Vec::new())
        });
        Found {
            pid,
            ancestors: target::ancestors(pid),
            early,
            late,
            by_search: matches!(places, Places::At(_)),
            subject,
            places: at,
        }
    }
}
