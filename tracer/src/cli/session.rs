//! One trace, from the first probe to the summary.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::{
    args::{self, Tracing},
    banks::Banks,
    before::Before,
    books::{Books, Closed},
    failure::{Failure, Kind},
    host,
    libraries::Libraries,
    linker::Linkers,
    meshes::Meshes,
    output::Output,
    reading::Subject,
    spaces::Spaces,
    stacks::Stacks,
};
use crate::{
    ledger::{Event, EventKind, Exit, Nanoseconds},
    probe::{Kernel, Recording, Scope},
    report::{Attached, Facts, Library, Summary, Tool},
    stream::{self, Decoded, Stream, Witness},
    target,
};

/// How often records are fetched: they don't ask for it, since waking a reader for each would cost
/// the target more than all the rest.
pub const FETCH: Duration = Duration::from_millis(10);

/// Records stand in the ring in nearly the order of their times: never so far from it.
const SKEW_NS: u64 = 1_000_000;

/// Undecodable records that are told one by one; the rest is only counted.
const MOST_TOLD: u64 = 5;

/// A trace that is going on.
pub struct Session {
    pub kernel: Kernel,
    pub books: Books,
    pub linkers: Linkers,
    libraries: Libraries,
    before: Before,
    banks: Banks,
    spaces: Spaces,
    stacks: Stacks,
    meshes: Meshes,
    stream: Stream,
    witness: Witness,
    started_at: SystemTime,
    clock: Clock,
    /// When the program of each process was executed; not of those that began before the trace.
    began: HashMap<u32, Nanoseconds>,
    /// Records that the kernel side had no room for, as far as the ledger knows.
    lost: u64,
    undecodable: u64,
    unfollowed: u64,
}

/// The time since the trace's start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_ns: u64,
}

impl Clock {
    pub fn now(self) -> Nanoseconds {
        Nanoseconds(monotonic_ns().saturating_sub(self.started_ns))
    }
}

/// What a process did that its tracer may want to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    pub pid: u32,
    pub what: What,
    /// The kernel's side has stopped the process: [`Self::answer`] is due.
    pub stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Executed,
    Linked,
    Ended,
}

impl Deed {
    fn of(pid: u32, what: What, stopped: bool) -> Self {
        Self { pid, what, stopped }
    }

    /// Lets the process go on, if it is stopped.
    pub fn answer(self) {
        if self.stopped {
            go_on(self.pid);
        }
    }
}

impl Session {
    /// Loads the kernel's side. Nothing is recorded yet. `pids`: who will be traced for certain.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(options: &Tracing, output: Output, pids: &BTreeSet<u32>) -> Result<Self, Failure> {
        let libraries = Libraries::of(pids);
        let mut stacks = options.stacks;
        if stacks != args::Stacks::None
            && let Err(why) = host::can_capture_stacks()
        {
            output.warn(&why);
            stacks = args::Stacks::None;
        }
        let kernel = Kernel::load(options.ring_size, stacks.into())?;
        let started_ns = monotonic_ns();
        Ok(Self {
            kernel,
            books: Books::new(output, options.temporary),
            linkers: Linkers::default(),
            libraries,
            before: Before::default(),
            banks: Banks::default(),
            spaces: Spaces::default(),
            stacks: Stacks::new(stacks),
            meshes: Meshes::default(),
            stream: Stream::new(started_ns),
            witness: Witness::default(),
            started_at: SystemTime::now(),
            clock: Clock { started_ns },
            began: HashMap::new(),
            lost: 0,
            undecodable: 0,
            unfollowed: 0,
        })
    }

    /// Puts probes on each TT-Metal library of a process, for those whom `scope` names, and tells
    /// whether it has any. `stopped`: nothing of a library that is found now has run yet.
    ///
    /// # Errors
    /// When a library can't be read or traced; the others are traced all the same.
    pub fn trace_libraries(
        &mut self,
        pid: u32,
        scope: Scope,
        stopped: bool,
    ) -> Result<bool, Failure> {
        let mut result = Ok(false);
        let files = target::libraries(pid)?;
        if !files.is_empty() {
            self.look_at_stacks_of(pid)?;
        }
        for file in files {
            let traced =
                self.libraries
                    .trace(&mut self.kernel, &mut self.stream, &file, scope, self.clock);
            match traced {
                Ok(traced) => {
                    let began = self.began.get(&pid);
                    let from_start = stopped || began.is_some_and(|at| *at > traced.since);
                    let attached = if from_start {
                        Attached::Start
                    } else {
                        Attached::Running
                    };
                    let library = Library {
                        path: file.path.display().to_string(),
                        ..traced.library.clone()
                    };
                    let subject = Subject {
                        file: file.clone(),
                        code: Arc::clone(traced.code),
                        clock: self.clock,
                    };
                    self.spaces.want(subject.clone());
                    match attached {
                        Attached::Running => self.before.want(subject),
                        Attached::Start => {
                            self.before.needs_no_reading(&subject);
                            self.banks.want(subject);
                        }
                    }
                    self.books
                        .has_library(pid, attached, library, traced.probes);
                    result = result.map(|_| true);
                }
                Err(failure) => result = Err(failure),
            }
        }
        result
    }

    /// Has the stacks of a process understood from now on.
    fn look_at_stacks_of(&mut self, pid: u32) -> Result<(), Failure> {
        match self.stacks.open(pid) {
            Ok(Some(walk)) => self.kernel.walk_python(pid, walk)?,
            Ok(None) => {}
            Err(problem) => self.books.output.warn(&format!(
                "the Python frames of process {pid} can't be shown: {problem}"
            )),
        }
        Ok(())
    }

    /// Fetches all records that wait, brings them into the books, and returns what processes did
    /// besides, in order.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub fn fetch(&mut self) -> Result<Vec<Deed>, Failure> {
        self.take_searched();
        self.before.start();
        for pid in self.stacks.want_a_look() {
            self.look_at_stacks_of(pid)?;
        }
        let mut deeds = Vec::new();
        if self.drain(&mut deeds)? {
            // The record of a process's end may be among those that were lost.
            let running = self.books.running().into_iter();
            let ended: Vec<u32> = running.filter(|pid| !target::is_alive(*pid)).collect();
            self.drain(&mut deeds)?;
            for pid in ended {
                if self.books.is_running(pid) {
                    self.enter(pid, pid, EventKind::Exit(None));
                    deeds.push(Deed::of(pid, What::Ended, false));
                }
            }
        }
        let unfollowed = self.kernel.unfollowed()?;
        if unfollowed > self.unfollowed {
            self.books.output.warn(&format!(
                "too many processes at once: {} of them can't be traced",
                unfollowed - self.unfollowed
            ));
            self.unfollowed = unfollowed;
        }
        for (pid, reading) in self.banks.read() {
            self.witness.know_banks(pid, &reading.survey.devices);
            self.books.has_banks(pid, &reading);
        }
        if self.before.is_over() {
            // Whatever happened until then is to wait, too.
            self.drain(&mut deeds)?;
            self.settle();
        }
        Ok(deeds)
    }

    /// Says whether something was lost since the last time.
    fn drain(&mut self, deeds: &mut Vec<Deed>) -> Result<bool, Failure> {
        let Self {
            kernel,
            stream,
            witness,
            books,
            before,
            banks,
            spaces,
            began,
            libraries,
            stacks,
            meshes,
            undecodable,
            ..
        } = self;
        let mut unread = 0;
        let mut last = None;
        let mut implausible = None;
        // First the events, then the stacks: that of an event was sent before it. Of either only what is
        // there by now: with busy targets there would be no end to it, and the other ring fills.
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
                    let event = Event {
                        stack: stacks.of(&event, stack),
                        ..event
                    };
                    meshes.look(&event, stream, kernel, &books.ledger)?;
                    last = Some((event.pid, event.tid));
                    banks.look(&event);
                    if let Err(error) = witness.look(&event) {
                        implausible.get_or_insert((event.pid, error));
                    }
                    // Its probe tells the library of a process that may have ended by now.
                    if books.is_unexplained(event.pid)
                        && let Some(known) = point.and_then(|at| libraries.of_point(at))
                    {
                        let began = began.get(&event.pid);
                        let from_start = began.is_some_and(|at| *at > known.since);
                        let attached = if from_start {
                            Attached::Start
                        } else {
                            Attached::Running
                        };
                        books.has_library(event.pid, attached, known.library.clone(), known.probes);
                    }
                    if let Some(learnt) = learnt {
                        books.has_ranges(event.pid, &learnt);
                    }
                    if let Some(event) = before.hold_back(event) {
                        books.apply(&event);
                    }
                }
                Ok(Decoded::Life(event)) => {
                    match event.kind {
                        EventKind::Fork { child } => {
                            if let Some(at) = began.get(&event.pid).copied() {
                                began.insert(child, at);
                            } else {
                                began.remove(&child);
                            }
                        }
                        _ => drop(began.remove(&event.pid)),
                    }
                    if let Some(event) = before.hold_back(event) {
                        books.apply(&event);
                    }
                    banks.look(&event);
                    if let EventKind::Exit(_) = event.kind {
                        before.forget(event.pid);
                        witness.forget(event.pid);
                        stacks.close(event.pid);
                        spaces.forget(event.pid);
                        meshes.forget(kernel, event.pid)?;
                        deeds.push(Deed::of(event.pid, What::Ended, false));
                    }
                }
                Ok(Decoded::Executed { event, stopped }) => {
                    banks.look(&event);
                    before.forget(event.pid);
                    witness.forget(event.pid);
                    stacks.close(event.pid);
                    spaces.forget(event.pid);
                    meshes.forget(kernel, event.pid)?;
                    began.insert(event.pid, event.time);
                    if let Some(event) = before.hold_back(event) {
                        books.apply(&event);
                    }
                    deeds.push(Deed::of(event.pid, What::Executed, stopped));
                }
                Ok(Decoded::Linked { pid, stopped }) => {
                    deeds.push(Deed::of(pid, What::Linked, stopped));
                }
                Ok(Decoded::Part) => {}
                Err(error) => {
                    unread += 1;
                    if *undecodable + unread <= MOST_TOLD {
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
            self.stream.after_loss();
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

    fn enter(&mut self, pid: u32, tid: u32, kind: EventKind) {
        let event = Event {
            pid,
            tid,
            time: self.clock.now(),
            kind,
            stack: None,
        };
        if let Some(event) = self.before.hold_back(event) {
            self.books.apply(&event);
        }
    }

    /// Enters what was there before, and then what happened meanwhile.
    fn settle(&mut self) {
        let found = self.before.wait();
        for found in &found {
            self.witness
                .know_banks(found.pid, &found.late.survey.devices);
        }
        let events = self.before.release();
        self.books.settle(&found, &events);
        for event in &events {
            self.books.apply(event);
        }
        for found in found {
            self.before.search(found);
        }
    }

    fn take_searched(&mut self) {
        for (pid, problem) in self.before.searched() {
            self.books.not_searched(pid, problem);
        }
    }

    /// Enters all that is still being read.
    fn settle_all(&mut self) {
        while !self.before.is_idle() {
            self.before.start();
            self.settle();
            self.before.end_searches();
            self.take_searched();
        }
    }

    /// Notes the end of a process that somebody knows of, unless the kernel's side has told of it.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub fn ended(&mut self, pid: u32, how: Option<Exit>) -> Result<(), Failure> {
        self.fetch()?;
        if self.books.is_running(pid) {
            self.enter(pid, pid, EventKind::Exit(how));
        }
        Ok(())
    }

    /// Whether any library has probes.
    pub fn traces_anything(&self) -> bool {
        self.libraries.any()
    }

    /// Stops recording, and lets whoever is held go on, whatever comes of it.
    fn stop(&mut self) -> Result<(), Failure> {
        self.kernel.record(Recording::Off)?;
        let held = self.kernel.let_all_go()?;
        let deeds = self.fetch();
        // Whose stop isn't told yet will find nobody to let them go on.
        for pid in held {
            if target::is_stopping(pid) {
                go_on(pid);
            }
        }
        for deed in deeds? {
            deed.answer();
        }
        Ok(())
    }

    /// Ends the trace without a summary: what was recorded isn't to be trusted.
    pub fn abandon(mut self, failure: &Failure) {
        let warning = format!("the trace ends here, and the command goes on: {failure}");
        self.books.output.warn(&warning);
        // It has failed already.
        let _ = self.stop();
    }

    /// Stops recording, writes and shows the summary, and takes the probes off.
    ///
    /// # Errors
    /// When a result can't be written; the probes are off then all the same.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.stop()?;
        self.settle_all();
        for (pid, learnt) in self.spaces.look_again() {
            self.books.has_ranges(pid, &learnt);
        }
        let duration = Duration::from_nanos(self.clock.now().0);
        let mut probes = self.libraries.into_probes();
        probes.append(self.linkers.into_probes());
        let Closed {
            output,
            ledger,
            facts: mut processes,
            untraced,
        } = self.books.close();
        let stacks_skipped = self.kernel.stacks_skipped()?;
        let stacks = self.stacks.resolve();
        for process in &mut processes {
            process.stacks = stacks.get(&process.id.pid).cloned().unwrap_or_default();
        }
        let facts = Facts {
            tool: Tool {
                name: "tt-memtrace".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            host: host::describe(),
            started_at: self.started_at,
            duration,
            processes,
            untraced,
            stacks_skipped,
        };
        drop(probes);
        output.finish(&Summary::new(&ledger, &facts))
    }
}

/// Lets a process go on that the kernel's side has stopped.
pub fn go_on(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have been killed meanwhile; then there is nothing to go on.
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// `CLOCK_MONOTONIC`, which the kernel side stamps records with (`bpf_ktime_get_ns`).
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}
