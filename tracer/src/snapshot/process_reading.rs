//! The two readings of one process after its probes went on.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    heap_reading::ReadingPair,
    target_library::{DevicesToRead, TargetLibrary},
};
use crate::target::{self, RunningThreads};

/// How long after the probes went on every thread has finished whatever it was in the middle of then,
/// unless it had to wait for a processor.
const SETTLING_TIME: Duration = Duration::from_millis(100);

/// How long after the probes went on a thread that waits for a processor is waited for.
const MAX_SETTLING_TIME: Duration = Duration::from_secs(3);

/// How often it is checked meanwhile whether the threads have run.
const POLL: Duration = Duration::from_millis(5);

/// A process that is to be read.
pub(super) struct ReadingRequest {
    library: TargetLibrary,
    devices: DevicesToRead,
    /// When the probes were on.
    since: Instant,
    /// The threads that ran then.
    threads: RunningThreads,
}

/// Why a reading may lack something, for a person.
const ENDED: &str = "the process ended while it was being read";

/// What was read of a process.
pub(super) struct ProcessReading {
    pub(super) library: TargetLibrary,
    /// The processes that it descends from, its parent first.
    pub(super) ancestors: Vec<u32>,
    /// Addresses of devices that were read.
    pub(super) addresses: Vec<u64>,
    /// Whether these devices were found by the search of the heap.
    pub(super) by_search: bool,
    pub(super) readings: ReadingPair,
}

impl ReadingRequest {
    /// To be called when the process's probes are on.
    pub(super) fn new(library: TargetLibrary, devices: DevicesToRead) -> Self {
        Self {
            threads: RunningThreads::from_pid(library.pid()),
            library,
            devices,
            since: Instant::now(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.library.pid()
    }

    /// Reads the process twice, or only once if the first reading is late enough and leaves nothing in
    /// doubt.
    pub(super) fn read(self) -> ProcessReading {
        let Self {
            library,
            devices,
            since,
            threads,
        } = self;
        let pid = library.pid();
        let have_progressed =
            || since.elapsed() >= MAX_SETTLING_TIME || threads.have_progressed(pid);
        let read = library.read_devices(&devices, |devices| {
            let addresses = devices.addresses().to_vec();
            let has_settled = since.elapsed() >= SETTLING_TIME && have_progressed();
            let mut first = devices.read();
            // Of a process that has ended, the memory may be gone before anything was found in it.
            if !target::is_alive(pid) {
                first.heap.unrecognized.clear();
                first.heap.problems.push(ENDED.to_owned());
                return (first.into(), addresses);
            }
            // A thread may be in the middle of creating or freeing an unrecognized object.
            if has_settled && first.heap.unrecognized.is_empty() {
                return (first.into(), addresses);
            }
            thread::sleep(SETTLING_TIME.saturating_sub(since.elapsed()));
            while !have_progressed() {
                thread::sleep(POLL);
            }
            let mut second = devices.read_after(&first);
            if !target::is_alive(pid) {
                // No thread will ever finish with the unrecognized objects, and nothing more can be read.
                second = first.clone();
                second.heap.unrecognized.clear();
                if !second.heap.at_one_moment {
                    second.heap.problems.push(ENDED.to_owned());
                }
            }
            (ReadingPair { first, second }, addresses)
        });
        let (readings, addresses) =
            read.unwrap_or_else(|problem| (library.failed_reading(problem).into(), Vec::new()));
        ProcessReading {
            ancestors: target::ancestors(pid),
            library,
            addresses,
            by_search: matches!(devices, DevicesToRead::At(_)),
            readings,
        }
    }
}
