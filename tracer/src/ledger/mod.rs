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
//! * A process's end leaves the state as it was: what is live then is what the end freed.
//! * Lost events are counted, and make the ledger inexact ([`Ledger::is_exact`]).

mod account;
mod devices;
mod event;
mod outcome;
mod process;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

pub use account::{Account, Memory};
pub use devices::DeviceAccount;
pub use event::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};
pub use outcome::{Effect, LiveBuffer, Origin, Outcome};
pub use process::{Counters, End, Process};

/// What every traced process has done with device memory, and what each holds.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    processes: BTreeMap<u32, Process>,
    received: u64,
    lost: u64,
}

impl Ledger {
    /// A ledger in which nothing has happened.
    pub fn new() -> Self {
        Self::default()
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
        self.received = self.received.saturating_add(1);
        self.processes.entry(event.pid).or_default().apply(event)
    }

    /// Every process that an event came from, by its pid.
    pub fn processes(&self) -> &BTreeMap<u32, Process> {
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
