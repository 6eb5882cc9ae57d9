//! The tracing engine: a trace from its first probe to its last record.
//!
//! A [`Session`] is given what to trace (a [`Scope`]), the kernel side ([`Kernel`]) and the machine's
//! processes ([`Processes`]), and hands out what happens, in order, as [`Item`]s to a [`Sink`]. It knows no
//! command line, no terminal and no files, and a recording of the kernel's records drives it as well as the
//! kernel does.
//!
//! * [`Session::begin`] puts on the first probes.
//! * [`Session::run`] drains the records until the scope is over, or somebody asks to stop; then it hands out
//!   what is still missing. On any error, too, recording ends and no process stays stopped.

mod error;
mod item;
mod kernel;
mod libraries;
mod linkers;
mod notice;
mod process_event;
mod process_facts;
mod process_table;
mod processes;
mod reactions;
mod records;
mod scope;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    ledger::{Event, EventKind, Exit, Nanoseconds},
    probe::Recording,
    snapshot::{AttachSnapshots, BankReader, RangeReader, Waiting},
    stack::{MeshFollowers, StackAssembler},
    stream::{Plausibility, Stream},
};
pub(crate) use error::{SessionError, causes};
pub(crate) use item::{Item, Mark, MarkRequest, ProcessFact, Request, Sink, TracedLibrary};
pub(crate) use kernel::Kernel;
pub(crate) use libraries::Libraries;
use linkers::Linkers;
pub(crate) use notice::{Notice, Severity};
use process_event::{ProcessEvent, ProcessEventKind, Stopped};
use process_table::ProcessTable;
pub(crate) use processes::{Machine, Processes};
pub(crate) use scope::Scope;

/// How often records are fetched: they don't ask for it, since a wake-up for each would cost the target more
/// than all the rest.
const FETCH: Duration = Duration::from_millis(10);

/// A trace.
pub(crate) struct Session<'a, K: Kernel, P: Processes> {
    scope: Scope,
    kernel: K,
    processes: P,
    sink: &'a mut dyn Sink,
    table: ProcessTable,
    libraries: Libraries,
    linkers: Linkers,
    snapshots: AttachSnapshots,
    banks: BankReader,
    ranges: RangeReader,
    stacks: StackAssembler,
    followers: MeshFollowers,
    stream: Stream,
    plausibility: Plausibility,
    clock: Clock,
    started_at: SystemTime,
    /// Whether a mark was set.
    has_marks: bool,
    /// Marks that are wanted and not set yet.
    wanted_marks: Vec<MarkRequest>,
    /// The processes of [`Scope::Processes`] that haven't ended.
    left: BTreeSet<u32>,
    /// Why a process of [`Scope::Command`] that should be traced can't be.
    failure: Option<SessionError>,
    /// When the program of each process was executed; processes that began before the trace have none.
    executed_at: HashMap<u32, Nanoseconds>,
    /// Counters of the kernel side, as they were last handed out.
    lost: u64,
    unfollowed: u64,
    /// Records that couldn't be read.
    unreadable: u64,
    is_stopped: bool,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// Its scope is over: the command, or the last of the processes, has ended.
    Over,
    /// It was asked to stop.
    Stopped,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub reason: EndReason,
    /// The wall clock's time at its beginning, where the items' times begin.
    pub started_at: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// Stacks that were skipped because too many waited.
    pub stacks_skipped: u64,
    /// Whether any library had probes.
    pub traced_anything: bool,
    /// Why a process that should be traced wasn't; the others were.
    pub failure: Option<SessionError>,
}

impl<'a, K: Kernel, P: Processes> Session<'a, K, P> {
    /// A session that records nothing yet. `captures_stacks`: whether the kernel side was loaded so that it
    /// sends stacks.
    pub(crate) fn new(
        scope: Scope,
        kernel: K,
        processes: P,
        libraries: Libraries,
        captures_stacks: bool,
        sink: &'a mut dyn Sink,
    ) -> Self {
        let started_ns = kernel.now_ns();
        Self {
            libraries,
            left: scope.pids(),
            scope,
            kernel,
            processes,
            sink,
            table: ProcessTable::default(),
            linkers: Linkers::default(),
            snapshots: AttachSnapshots::default(),
            banks: BankReader::default(),
            ranges: RangeReader::default(),
            stacks: StackAssembler::new(captures_stacks),
            followers: MeshFollowers::default(),
            stream: Stream::new(started_ns),
            plausibility: Plausibility::default(),
            clock: Clock { started_ns },
            started_at: SystemTime::now(),
            has_marks: false,
            wanted_marks: Vec::new(),
            failure: None,
            executed_at: HashMap::new(),
            lost: 0,
            unfollowed: 0,
            unreadable: 0,
            is_stopped: false,
        }
    }

    /// Traces until the scope is over or somebody asks to stop, and hands out everything that belongs to the
    /// trace. Probes stay on, without recording, until the session is dropped.
    ///
    /// # Errors
    /// When what was recorded can't be relied on, or the kernel side fails. Recording has ended then, and
    /// no process is stopped.
    pub(crate) async fn run(
        &mut self,
        requests: &mut UnboundedReceiver<Request>,
    ) -> Result<Ended, SessionError> {
        let result = match self.follow(requests).await {
            Ok(reason) => self.finish(reason),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // The first error is the one to report.
            self.stop().ok();
            self.sink.flush();
        }
        result
    }

    /// The loop: drains, reacts, and takes requests.
    async fn follow(
        &mut self,
        requests: &mut UnboundedReceiver<Request>,
    ) -> Result<EndReason, SessionError> {
        let mut fetch = interval(FETCH);
        fetch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over() {
            tokio::select! {
                _ = fetch.tick() => {}
                attention = self.kernel.attention() => attention?,
                request = requests.recv() => match request {
                    Some(Request::CommandEnded(exit)) => {
                        self.command_ended(exit)?;
                        return Ok(EndReason::Over);
                    }
                    Some(Request::Mark(mark)) => self.wanted_marks.push(mark),
                    Some(Request::Stop) | None => return Ok(EndReason::Stopped),
                },
            }
            let events = self.fetch()?;
            self.react(events)?;
            self.sink.flush();
        }
        Ok(EndReason::Over)
    }

    /// Drains both ring buffers, hands out the items, and returns the process events to react to, in order.
    fn fetch(&mut self) -> Result<Vec<ProcessEvent<P>>, SessionError> {
        self.report_searched();
        self.snapshots.start();
        for pid in self.stacks.pids_to_search_again() {
            self.find_interpreter(pid)?;
        }
        let mut events = Vec::new();
        if self.drain(&mut events)? {
            // The record of a process's end may be among those that were lost.
            let running = self.table.running().into_iter();
            let ended: Vec<u32> = running
                .filter(|pid| !self.processes.is_alive(*pid))
                .collect();
            self.drain(&mut events)?;
            for pid in ended {
                if self.table.is_running(pid) {
                    let exit = self.event_now(pid, pid, EventKind::Exit(None));
                    self.life_event(exit, &mut events)?;
                }
            }
        }
        let unfollowed = self.kernel.unfollowed()?;
        if unfollowed > self.unfollowed {
            let count = unfollowed - self.unfollowed;
            self.notice(Notice::Unfollowed { count });
            self.unfollowed = unfollowed;
        }
        for (pid, read_at, devices) in self.banks.read() {
            self.plausibility.add_banks(pid, &devices);
            self.fact(ProcessFact::Banks {
                pid,
                read_at,
                devices,
            });
        }
        if self.snapshots.is_over() {
            // What happened until then waits for the snapshot, too.
            self.drain(&mut events)?;
            self.enter_snapshots();
        }
        self.set_marks();
        Ok(events)
    }

    /// Hands out the snapshots that are complete, and then what happened meanwhile.
    fn enter_snapshots(&mut self) {
        let finished = self.snapshots.finish();
        for snapshot in finished.snapshots {
            let pid = snapshot.pid;
            self.plausibility.add_banks(pid, &snapshot.devices);
            for device in &snapshot.devices {
                let members = device.members.iter().copied();
                self.followers.know_members(pid, device.device, members);
            }
            if !self.table.is_running(pid) {
                self.introduce_if_possible(pid, false);
            }
            self.fact(ProcessFact::Snapshot(snapshot));
        }
        for waiting in finished.waiting {
            match waiting {
                Waiting::Memory(event) => self.enter(event),
                Waiting::Program(event) => self.sink.take(Item::Program(event)),
            }
        }
    }

    fn report_searched(&mut self) {
        for (pid, problem) in self.snapshots.searched() {
            self.fact(ProcessFact::NotSearched { pid, problem });
        }
    }

    /// Sets the marks that are wanted, unless a snapshot is being read: that belongs before them.
    fn set_marks(&mut self) {
        if self.snapshots.is_reading() || self.wanted_marks.is_empty() {
            return;
        }
        for MarkRequest { name, reply } in std::mem::take(&mut self.wanted_marks) {
            // Before the first mark nothing has changed that would need the names of stacks. Reading all symbols
            // takes time, in which the ring fills.
            if self.has_marks {
                self.hand_out_stacks();
            }
            self.has_marks = true;
            let at = self.now();
            self.sink.take(Item::Mark(Mark { name, at, reply }));
        }
        self.sink.flush();
    }

    fn hand_out_stacks(&mut self) {
        for stack in self.stacks.resolve_new() {
            self.sink.take(Item::Stack(stack));
        }
    }

    /// Notes the end of the command, unless a record has already said so.
    fn command_ended(&mut self, exit: Option<Exit>) -> Result<(), SessionError> {
        let mut events = self.fetch()?;
        if let Scope::Command { pid } = self.scope
            && self.table.is_running(pid)
        {
            let exit = self.event_now(pid, pid, EventKind::Exit(exit));
            self.life_event(exit, &mut events)?;
        }
        Ok(())
    }

    /// Stops recording, and lets every process go on that is stopped.
    fn stop(&mut self) -> Result<(), SessionError> {
        self.is_stopped = true;
        let mut held = Vec::new();
        let recording = self.kernel.record(Recording::Off);
        let let_go = self.kernel.let_all_go(&mut held);
        let fetched = self.fetch();
        // A process may be stopped whose record isn't drained yet. Nothing would resume it later.
        for pid in held {
            if self.processes.is_stopping(pid) {
                self.processes.resume(pid);
            }
        }
        recording?;
        let_go?;
        fetched.map(drop)
    }

    /// Stops recording and hands out what is still missing.
    fn finish(&mut self, reason: EndReason) -> Result<Ended, SessionError> {
        self.stop()?;
        while !self.snapshots.is_idle() {
            self.snapshots.start();
            self.enter_snapshots();
            self.snapshots.end_searches();
            self.report_searched();
        }
        self.set_marks();
        for (pid, ranges) in self.ranges.read_again() {
            self.fact(ProcessFact::Ranges { pid, ranges });
        }
        let duration = Duration::from_nanos(self.now().0);
        let stacks_skipped = self.kernel.stacks_skipped()?;
        self.hand_out_stacks();
        self.sink.flush();
        Ok(Ended {
            reason,
            started_at: self.started_at,
            duration,
            stacks_skipped,
            traced_anything: self.libraries.any(),
            failure: self.failure.take(),
        })
    }

    /// An event that has no record, at the current time.
    fn event_now(&self, pid: u32, tid: u32, kind: EventKind) -> Event {
        Event {
            pid,
            tid,
            time: self.now(),
            kind,
            stack: None,
        }
    }

    /// The time since the session began.
    fn now(&self) -> Nanoseconds {
        self.clock.at(self.kernel.now_ns())
    }

    fn fact(&mut self, fact: ProcessFact) {
        self.sink.take(Item::Process(fact));
    }

    fn notice(&mut self, notice: Notice) {
        self.sink.take(Item::Notice(notice));
    }
}

impl<K: Kernel, P: Processes> Drop for Session<'_, K, P> {
    fn drop(&mut self) {
        if !self.is_stopped {
            // Nobody is left to report an error to.
            self.stop().ok();
        }
    }
}
