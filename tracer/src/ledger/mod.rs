//! Accounting: [`Event`]s in, who owns what out. Pure: no I/O, no clock, no aya.
//!
//! [`Ledger::apply`] takes the events in the order in which they happened and returns what each one
//! turned out to mean. The rules:
//!
//! * Only owning buffers hold memory. Non-owning ones are listed and counted, and enter no total.
//! * A mesh's owning buffer lies, in its full size, on each member chip. Members show themselves by
//!   the non-owning buffers that TT-Metal makes for them right after the mesh's allocation; a chip's
//!   memory is that of its own buffers and of all meshes that it belongs to.
//! * An end without a known birth changes no total and is counted as unmatched. A birth where the
//!   ledger still has something live proves that an end was never seen: the old buffer ends then,
//!   and that is counted as implied.
//! * A bulk free ends every live owning buffer of its allocator.
//! * What is found in a process's memory was there before the tracer came. It counts as live, and
//!   never as allocated.
//! * A fork gives the child copies of its parent's objects. They hold no memory of the child's, and
//!   nothing counts twice.
//! * A program that is executed ends all that the process held.
//! * A process's end leaves the state as it was: what is live then is what the end freed. Its pid may
//!   come to mean another process, with accounts of its own.
//! * What lies on a device is told apart by where it was allocated, now and at the peak.
//! * A mark is a moment in the order of events. Of each process it is known what is new since and what
//!   was live then and is gone.
//! * What programs take of L1 is apart from all of this: see [`programs`].
//! * Lost events are counted, and make the ledger inexact ([`Ledger::is_exact`]).

mod account;
mod composition;
mod devices;
mod event;
mod failed;
mod mark;
mod outcome;
mod process;
pub mod programs;
mod space;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

pub use account::{Account, ByType, Memory};
pub use composition::{Composition, Source, Tally};
pub use devices::DeviceAccount;
pub use event::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};
pub use failed::FailedAllocation;
pub use mark::{Mark, Since};
pub use outcome::{Birth, Effect, LiveBuffer, Outcome};
pub use process::{Counters, End, Kin, Process};
pub use programs::{ProcessPrograms, ProgramEffect, ProgramEvent};
pub use space::{BankRange, Free, Space, Used};

/// One process: a pid may mean several, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub pid: u32,
    /// How many processes with this pid were traced before.
    pub generation: u32,
}

/// What every traced process has done with device memory, and what each holds.
#[derive(Clone, Debug)]
pub struct Ledger {
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
    /// With so many others in between an allocation that is freed counts as temporary, unless somebody
    /// says otherwise: as with memray.
    pub const TEMPORARY: u64 = 1;

    /// A ledger in which nothing has happened. `temporary`: an allocation that is freed with at most
    /// so many others of its process in between counts as temporary.
    pub fn new(temporary: u64) -> Self {
        Self {
            processes: BTreeMap::new(),
            received: 0,
            lost: 0,
            temporary,
            marks: Vec::new(),
        }
    }

    /// With how many others in between an allocation that is freed counts as temporary.
    pub fn temporary(&self) -> u64 {
        self.temporary
    }

    /// Enters an event and says what it did. Events of one process come in the order in which they
    /// happened.
    pub fn apply(&mut self, event: &Event) -> Outcome {
        // Whoever reports a loss has no say in whose events were lost.
        if let EventKind::Lost(count) = event.kind {
            self.lost = self.lost.saturating_add(count);
            self.processes.values_mut().for_each(Process::after_loss);
            return Outcome {
                implied: Vec::new(),
                effect: Effect::Lost(count),
            };
        }
        // What was found is no event that came.
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

    /// Enters an event of a program. A process that has ended has none.
    pub fn apply_to_programs(&mut self, event: &ProgramEvent) -> ProgramEffect {
        let id = self.id(event.pid);
        let process = self.processes.entry(id).or_default();
        process.apply_to_programs(event)
    }

    /// The process that a pid means: the last that was traced, or the first that may be.
    pub fn id(&self, pid: u32) -> ProcessId {
        let all = ProcessId { pid, generation: 0 }..=ProcessId {
            pid,
            generation: u32::MAX,
        };
        let last = self.processes.range(all).next_back();
        last.map_or(ProcessId { pid, generation: 0 }, |(id, _)| *id)
    }

    /// A process with that pid began. From now on the pid means that one, even if another had it.
    pub fn begin(&mut self, pid: u32) -> ProcessId {
        let mut id = self.id(pid);
        if let Some(process) = self.processes.get(&id) {
            // Its end was never seen, if there is none: the pid proves it all the same.
            if process.counters().received > 0 {
                id.generation += 1;
            }
        }
        self.processes.insert(id, Process::default());
        id
    }

    /// A process's mesh is known to have these chips.
    pub fn join(&mut self, pid: u32, mesh: Device, chips: impl IntoIterator<Item = u32>) {
        let id = self.id(pid);
        self.processes.entry(id).or_default().join(mesh, chips);
    }

    /// Which addresses an allocator of a process can give.
    pub fn know_range(
        &mut self,
        pid: u32,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        let process = self.processes.entry(self.id(pid)).or_default();
        process.know_range(allocator, buffer_type, range);
    }

    /// Not all that a process holds is known: what is free of its banks isn't, then.
    pub fn misses_some(&mut self, pid: u32) {
        let process = self.processes.entry(self.id(pid)).or_default();
        process.misses_some();
    }

    /// How much of each bank a process's buffers take turned out to be something else.
    pub fn forget_lengths(&mut self, pid: u32) {
        let process = self.processes.entry(self.id(pid)).or_default();
        process.forget_lengths();
    }

    /// A process's object is the copy that a fork made of its parent's, before the tracer came: it
    /// holds no memory of its own.
    pub fn inherit(&mut self, pid: u32, object: ObjectPointer) {
        let id = self.id(pid);
        self.processes.entry(id).or_default().inherit(object);
    }

    /// Marks a moment: everything that was entered belongs before it.
    pub fn mark(&mut self, name: Option<String>, at: Nanoseconds) -> &Mark {
        let number = self.marks.last().map_or(1, |last| last.number + 1);
        for process in self.processes.values_mut() {
            process.mark(number);
        }
        let position = self.marks.len();
        self.marks.push(Mark { number, name, at });
        &self.marks[position]
    }

    /// The moments that were marked, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Takes a process out that runs and did nothing to device memory.
    pub fn forget(&mut self, pid: u32) {
        let id = self.id(pid);
        let idle = |process: &Process| process.is_silent() && process.end().is_none();
        if self.processes.get(&id).is_some_and(idle) {
            self.processes.remove(&id);
        }
    }

    /// The process that a pid means now, if it is there.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&self.id(pid))
    }

    /// Every process that an event came from.
    pub fn processes(&self) -> &BTreeMap<ProcessId, Process> {
        &self.processes
    }

    /// How many events came, of every kind but [`EventKind::Lost`].
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many events were lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether nothing says that an event is missing: none was reported lost, and no end of a
    /// buffer had to be inferred.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && !self.processes.values().any(Process::proves_loss)
    }
}
