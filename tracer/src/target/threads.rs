//! How far a process's threads have come since some moment.

use std::collections::HashMap;

/// So much of a processor takes a thread through whatever it was in the middle of, in nanoseconds: a call
/// of the allocator takes some microseconds.
const ENOUGH_NS: u64 = 1_000_000;

/// The threads that were running, or ready to, at one moment, and how long each had run.
#[derive(Clone, Debug, Default)]
pub struct Threads(HashMap<i32, u64>);

impl Threads {
    /// Those of a process now; none if it can't be read.
    pub fn of(pid: u32) -> Self {
        Self(running(pid))
    }

    /// Whether each of them has run enough since, or has waited or ended. With too few processors for
    /// all, one may be kept waiting for long.
    pub fn have_gone_on(&self, pid: u32) -> bool {
        let now = running(pid);
        self.0.iter().all(|(tid, before)| {
            let now = now.get(tid);
            now.is_none_or(|now| now.saturating_sub(*before) >= ENOUGH_NS)
        })
    }
}

/// For how long each thread has run that runs or is ready to (`/proc/PID/task/TID/schedstat`), in
/// nanoseconds.
fn running(pid: u32) -> HashMap<i32, u64> {
    let process = super::process(pid).ok();
    let tasks = process.and_then(|process| process.tasks().ok());
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter(|task| task.stat().is_ok_and(|stat| stat.state == 'R'))
        .filter_map(|task| Some((task.tid, task.schedstat().ok()?.sum_exec_runtime)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    fn own() -> u32 {
        std::process::id()
    }

    #[test]
    fn a_thread_that_runs_has_gone_on_once_it_has_run_enough() {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&stop);
        let thread = thread::spawn(move || while !busy.load(Ordering::Relaxed) {});
        let mut threads = Threads::of(own());
        while threads.0.is_empty() {
            threads = Threads::of(own());
        }
        // As if it had run for another hour by now.
        let ahead = threads
            .0
            .iter()
            .map(|(tid, ran)| (*tid, ran + 3_600_000_000_000));
        assert!(!Threads(ahead.collect()).have_gone_on(own()));
        let begun = Instant::now();
        while !threads.have_gone_on(own()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it runs");
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn one_that_has_ended_has_gone_on() {
        let threads = Threads(HashMap::from([(i32::MAX, 0)]));
        assert!(threads.have_gone_on(own()));
        assert!(Threads::of(u32::MAX >> 1).have_gone_on(own()));
    }
}
