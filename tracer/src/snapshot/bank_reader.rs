//! Reads the banks of processes that are traced from their start: once each, soon after the first buffer.

use std::{
    collections::HashMap,
    mem,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    heap_reading::DeviceState,
    target_library::{DevicesToRead, TargetLibrary},
};
use crate::ledger::{Event, EventKind, Nanoseconds};

/// How long after its first buffer a process has most likely opened all its devices.
const DEVICES_OPEN: Duration = Duration::from_millis(100);

/// A process whose banks are to be read.
struct Pending {
    library: TargetLibrary,
    /// When they are to be read; `None` before the process's first buffer.
    due: Option<Instant>,
}

/// A process, when its banks were read, and its devices.
type BankReading = (u32, Nanoseconds, Vec<DeviceState>);

/// Reads banks in threads of their own.
#[derive(Default)]
pub(crate) struct BankReader {
    pending: HashMap<u32, Pending>,
    reading: Vec<JoinHandle<BankReading>>,
}

impl BankReader {
    /// Has the banks of a process read once it has made a buffer.
    pub(crate) fn want(&mut self, library: TargetLibrary) {
        let pid = library.pid();
        let pending = Pending { library, due: None };
        self.pending.entry(pid).or_insert(pending);
    }

    /// Takes note of an event: a first buffer makes a reading due, the end of a process cancels it.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event.kind {
            EventKind::Exit(_) | EventKind::Exec => drop(self.pending.remove(&event.pid)),
            EventKind::Allocate(_) => {
                if let Some(pending) = self.pending.get_mut(&event.pid) {
                    pending
                        .due
                        .get_or_insert_with(|| Instant::now() + DEVICES_OPEN);
                }
            }
            _ => {}
        }
    }

    /// Begins the readings that are due, and returns those that are over: the process, the time of the
    /// reading, and the devices.
    pub(crate) fn read(&mut self) -> Vec<BankReading> {
        let now = Instant::now();
        let is_due = |_: &u32, pending: &mut Pending| pending.due.is_some_and(|due| due <= now);
        for (pid, Pending { library, .. }) in self.pending.extract_if(is_due) {
            self.reading.push(thread::spawn(move || {
                let reading = library
                    .read_devices(&DevicesToRead::Reachable, |devices| devices.read())
                    .unwrap_or_else(|problem| library.failed_reading(problem));
                (pid, reading.read_until, reading.heap.devices)
            }));
        }
        let (over, reading) = mem::take(&mut self.reading)
            .into_iter()
            .partition(JoinHandle::is_finished);
        self.reading = reading;
        over.into_iter()
            .filter_map(|reading: JoinHandle<_>| reading.join().ok())
            .collect()
    }
}
