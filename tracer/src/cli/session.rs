//! One trace, from the first probe to the summary.

mod marks;
mod records;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    args::{self, Tracing},
    banks::Banks,
    before::Before,
    books::{Books, Closed},
    clock::Clock,
    deed::{Deed, What, go_on},
    failure::Failure,
    host,
    libraries::Libraries,
    linker::Linkers,
    marks::MarkRequest,
    meshes::Meshes,
    output::Output,
    reading::Subject,
    spaces::Spaces,
    stacks::Stacks,
};
use crate::{
    ledger::{EventKind, Exit, Nanoseconds},
    probe::{Kernel, Recording, Scope},
    report::{Attached, Facts, Library, Summary, Tool},
    stream::{Stream, Witness},
    target,
};

/// How often records are fetched: they don't ask for it, since waking a reader for each would cost
/// the target more than all the rest.
pub const FETCH: Duration = Duration::from_millis(10);

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
    /// The moments that are to be marked.
    marks: Vec<MarkRequest>,
    started_at: SystemTime,
    clock: Clock,
    /// When the program of each process was executed; not of those that began before the trace.
    began: HashMap<u32, Nanoseconds>,
    /// Records that the kernel side had no room for, as far as the ledger knows.
    lost: u64,
    undecodable: u64,
    unfollowed: u64,
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
        let lists = host::can_send_lists();
        if let Err(why) = &lists {
            output.warn(why);
        }
        let kernel = Kernel::load(options.ring_size, stacks.into(), lists.is_ok())?;
        let clock = Clock::starting_now();
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
            stream: Stream::new(clock.started_ns),
            witness: Witness::default(),
            marks: Vec::new(),
            started_at: SystemTime::now(),
            clock,
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
                    if let Some(why) = &traced.no_programs {
                        // The code is for whoever reports it.
                        let why = why.lines().next().unwrap_or_default();
                        self.books.output.warn(&format!(
                            "what programs of process {pid} take of L1 isn't told: {why}"
                        ));
                    }
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
                        .has_library(pid, attached, library, traced.probes, traced.programs);
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
        self.set_marks();
        Ok(deeds)
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
        let mut programs = self.before.release_programs().into_iter().peekable();
        for event in &events {
            // In the order in which they happened.
            while let Some(earlier) = programs.next_if(|program| program.time <= event.time) {
                self.books.apply_to_programs(&earlier);
            }
            self.books.apply(event);
        }
        for program in programs {
            self.books.apply_to_programs(&program);
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
        self.set_marks();
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
            every_stack: output.has_events(),
            stacks_skipped,
        };
        drop(probes);
        output.finish(Summary::new(&ledger, &facts))
    }
}
