//! Whether a process's threads have run since some moment.

use std::collections::HashMap;

use super::process::process;

/// After this much processor time a thread has finished whatever it was in the middle of, in nanoseconds:
/// a call of the allocator takes some microseconds.
const ENOUGH_NS: u64 = 1_000_000;

/// The threads of a process that were running or ready to run at one moment, by thread id, with the
/// processor time that each had used, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningThreads(HashMap<i32, u64>);

impl RunningThreads {
    /// The threads that run now; none if the process can't be read.
    pub(crate) fn from_pid(pid: u32) -> Self {
        Self(running(pid))
    }

    /// Whether each of them has since run for a millisecond, gone to sleep or ended. Where there are fewer
    /// processors than threads, a thread may have to wait for long.
    pub(crate) fn have_progressed(&self, pid: u32) -> bool {
        let now = running(pid);
        self.0.iter().all(|(tid, before)| {
            let now = now.get(tid);
            now.is_none_or(|now| now.saturating_sub(*before) >= ENOUGH_NS)
        })
    }
}

/// The processor time of each thread that runs or is ready to run, in nanoseconds
/// (`/proc/PID/task/TID/schedstat`).
fn running(pid: u32) -> HashMap<i32, u64> {
    let process = process(pid).ok();
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
    fn a_running_thread_has_progressed_once_it_has_run_enough() {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&stop);
        let thread = thread::spawn(move || while !busy.load(Ordering::Relaxed) {});
        let mut threads = RunningThreads::from_pid(own());
        while threads.0.is_empty() {
            threads = RunningThreads::from_pid(own());
        }
        // As if it had run for another hour by now.
        let ahead = threads
            .0
            .iter()
            .map(|(tid, ran)| (*tid, ran + 3_600_000_000_000));
        assert!(!RunningThreads(ahead.collect()).have_progressed(own()));
        let begun = Instant::now();
        while !threads.have_progressed(own()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the thread runs");
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn an_ended_thread_has_progressed() {
        let threads = RunningThreads(HashMap::from([(i32::MAX, 0)]));
        assert!(threads.have_progressed(own()));
        assert!(RunningThreads::from_pid(u32::MAX >> 1).have_progressed(own()));
    }
}
