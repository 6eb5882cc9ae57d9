//! Accounting: [`Event`]s in, what each process holds out. Pure: no I/O, no clock, no aya.
//!
//! [`Ledger::apply`] takes the events in the order in which they happened and returns what each of them
//! meant. The rules:
//!
//! * Only owning buffers hold memory. Non-owning ones are listed and counted, and are in no total.
//! * A mesh's owning buffer lies, in its full size, on each member chip. The ledger recognises members by
//!   the non-owning buffers that TT-Metal creates on them right after the mesh's allocation. A chip's memory
//!   is that of its own buffers and of the buffers of all its meshes.
//! * If a buffer ends that the ledger doesn't know, no total changes; the end counts as unmatched. If a buffer
//!   begins where the ledger still has a live one, the end of the live one was not seen: it ends then, and
//!   its end counts as implied.
//! * A bulk free ends every live owning buffer of its allocator.
//! * A buffer of the attach snapshot counts as live, but never as allocated.
//! * A fork gives the child copies of its parent's objects. They hold no memory of the child, so nothing
//!   counts twice.
//! * Executing a program (`execve`) ends all that the process held.
//! * When a process ends, its state stays as it was: what is live then was freed by the end. If another
//!   process gets the same pid, it has accounts of its own.
//! * The memory on a device is broken down by where it was allocated, now and at the peak.
//! * A mark is a moment in the order of events. For each process the ledger knows what it allocated after a
//!   mark, and what was live at the mark and has ended since.
//! * What programs take of L1 is accounted separately: see [`programs`].
//! * Lost events are counted, and make the ledger inexact ([`Ledger::is_exact`]).

mod account;
mod composition;
mod devices;
mod event;
mod failed;
mod group;
mod live_buffer;
mod marks;
mod outcome;
mod process;
pub(crate) mod programs;
mod space;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

pub(crate) use account::Account;
pub(crate) use devices::DeviceAccount;
pub(crate) use event::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};
pub(crate) use failed::FailedAllocation;
pub(crate) use group::{Count, GroupKey, Source};
pub(crate) use live_buffer::LiveBuffer;
pub(crate) use marks::Mark;
pub(crate) use outcome::{Effect, Outcome};
pub(crate) use process::{Process, ProcessId};
pub(crate) use programs::{ProcessPrograms, ProgramEffect, ProgramEvent};
pub(crate) use space::{BankRange, FreeSpace, Space, UsedBlock};

/// What every traced process has done with device memory, and what each holds.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    processes: BTreeMap<ProcessId, Process>,
    received: u64,
    lost: u64,
    temporary: u64,
    marks: Vec<Mark>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(Self::TEMPORARY)
    }
}

impl Ledger {
    /// The default of [`Ledger::temporary`], as in memray.
    pub(crate) const TEMPORARY: u64 = 1;

    /// A ledger without events. `temporary`: see [`Ledger::temporary`].
    pub(crate) fn new(temporary: u64) -> Self {
        Self {
            processes: BTreeMap::new(),
            received: 0,
            lost: 0,
            temporary,
            marks: Vec::new(),
        }
    }

    /// An owning buffer counts as temporary if its process makes at most this many other allocations before
    /// it frees the buffer.
    pub(crate) fn temporary(&self) -> u64 {
        self.temporary
    }

    /// Applies an event and returns what it did. Events of one process come in the order in which they
    /// happened.
    pub(crate) fn apply(&mut self, event: &Event) -> Outcome {
        // The process that reports a loss need not be the one whose events were lost.
        if let EventKind::Lost(count) = event.kind {
            self.lost = self.lost.saturating_add(count);
            self.processes.values_mut().for_each(Process::after_loss);
            return Effect::Lost(count).into();
        }
        // A buffer of the attach snapshot was read, not received as an event.
        if !matches!(event.kind, EventKind::Found(_)) {
            self.received = self.received.saturating_add(1);
        }
        let id = self.id(event.pid);
        if let EventKind::Fork { child } = event.kind {
            let process = Process::forked(self.processes.entry(id).or_default(), id);
            let child = self.begin(child);
            self.processes.insert(child, process);
        }
        let temporary = self.temporary;
        self.processes
            .entry(id)
            .or_default()
            .apply(event, temporary)
    }

    /// Applies an event of a program. After its process's end it has no effect.
    pub(crate) fn apply_to_programs(&mut self, event: &ProgramEvent) -> ProgramEffect {
        self.current_process(event.pid).apply_to_programs(event)
    }

    /// The process that a pid stands for: the last one that was traced, or else the first one that may be.
    pub(crate) fn id(&self, pid: u32) -> ProcessId {
        let all = ProcessId { pid, generation: 0 }..=ProcessId {
            pid,
            generation: u32::MAX,
        };
        let last = self.processes.range(all).next_back();
        last.map_or(ProcessId { pid, generation: 0 }, |(id, _)| *id)
    }

    /// A process with this pid began. From now on the pid stands for the new process, even if another process
    /// had it before.
    pub(crate) fn begin(&mut self, pid: u32) -> ProcessId {
        let mut id = self.id(pid);
        if let Some(process) = self.processes.get(&id) {
            // The reused pid proves that the earlier process has ended, even if its end was not seen.
            if process.counters().received > 0 {
                id.generation += 1;
            }
        }
        self.processes.insert(id, Process::default());
        id
    }

    /// Sets member chips of a process's mesh.
    pub(crate) fn add_members(
        &mut self,
        pid: u32,
        mesh: Device,
        chips: impl IntoIterator<Item = u32>,
    ) {
        self.current_process(pid).add_members(mesh, chips);
    }

    /// Sets the addresses that an allocator of a process can give.
    pub(crate) fn set_bank_range(
        &mut self,
        pid: u32,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        let process = self.current_process(pid);
        process.set_bank_range(allocator, buffer_type, range);
    }

    /// The process may hold buffers that the ledger doesn't know. So what is free in its banks is unknown.
    pub(crate) fn expect_unknown_buffers(&mut self, pid: u32) {
        self.current_process(pid).expect_unknown_buffers();
    }

    /// Discards how much of each bank a process's buffers take, because these lengths were wrong.
    pub(crate) fn forget_lengths(&mut self, pid: u32) {
        self.current_process(pid).forget_lengths();
    }

    /// A process's object is the copy of its parent's object that a fork made before the tracer attached. It
    /// holds no memory of the process.
    pub(crate) fn inherit(&mut self, pid: u32, object: ObjectPointer) {
        self.current_process(pid).inherit(object);
    }

    /// Sets a mark after all events that were applied so far.
    pub(crate) fn mark(&mut self, name: Option<String>, at: Nanoseconds) -> &Mark {
        let number = self.marks.last().map_or(1, |last| last.number + 1);
        for process in self.processes.values_mut() {
            process.mark(number);
        }
        let position = self.marks.len();
        self.marks.push(Mark { number, name, at });
        &self.marks[position]
    }

    /// The marks, in order.
    pub(crate) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Removes a process that still runs and has had no event about device memory.
    pub(crate) fn forget(&mut self, pid: u32) {
        let id = self.id(pid);
        let idle = |process: &Process| process.is_silent() && process.end().is_none();
        if self.processes.get(&id).is_some_and(idle) {
            self.processes.remove(&id);
        }
    }

    /// The process that a pid stands for now, if the ledger knows it.
    pub(crate) fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&self.id(pid))
    }

    /// Every process that the ledger knows.
    pub(crate) fn processes(&self) -> &BTreeMap<ProcessId, Process> {
        &self.processes
    }

    /// How many events were applied, of every kind but [`EventKind::Lost`] and [`EventKind::Found`].
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// How many events were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether, as far as the ledger can know, no event is missing: none was reported as lost, and no end of
    /// a buffer is implied.
    pub(crate) fn is_exact(&self) -> bool {
        self.lost == 0 && !self.processes.values().any(Process::has_implied_ends)
    }

    fn current_process(&mut self, pid: u32) -> &mut Process {
        self.processes.entry(self.id(pid)).or_default()
    }
}
