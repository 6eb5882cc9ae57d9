//! Searches of whole heaps for devices that no pointer of the library leads to.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::target_library::TargetLibrary;
use crate::target;

/// How long the end of a trace waits for searches.
const MAX_WAIT_AT_END: Duration = Duration::from_secs(1);

/// How often the end of a trace checks whether they are over.
const POLL: Duration = Duration::from_millis(5);

/// The addresses of devices; `None` if the search was stopped.
type SearchResult = Result<Option<Vec<u64>>, String>;

/// The search of one process's heap.
struct Search {
    library: TargetLibrary,
    ancestors: Vec<u32>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<SearchResult>,
}

/// The searches that go on, each in a thread of its own.
#[derive(Default)]
pub(super) struct HeapSearches(Vec<Search>);

/// What finished searches have found.
#[derive(Default)]
pub(super) struct Searched {
    /// Processes with devices that weren't known, and the addresses of these.
    pub(super) found: Vec<(TargetLibrary, Vec<u64>)>,
    /// Processes whose heap couldn't be searched to its end, and why.
    pub(super) problems: Vec<(u32, String)>,
}

impl HeapSearches {
    /// Searches a process for devices that aren't at the `known` addresses.
    pub(super) fn start(&mut self, library: TargetLibrary, ancestors: Vec<u32>, known: Vec<u64>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (searched, stopped) = (library.clone(), Arc::clone(&stop));
        let thread =
            thread::spawn(move || searched.search(&known, || !stopped.load(Ordering::Relaxed)));
        self.0.push(Search {
            library,
            ancestors,
            stop,
            thread,
        });
    }

    /// Whether no search goes on.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the searches that are over, a child's not before those of its ancestors.
    pub(super) fn take_finished(&mut self) -> Searched {
        let going_on = self.0.iter().filter(|search| !search.thread.is_finished());
        let busy: HashSet<u32> = going_on.map(|search| search.library.pid()).collect();
        let (over, going_on) = mem::take(&mut self.0).into_iter().partition(|search| {
            search.thread.is_finished() && !search.ancestors.iter().any(|pid| busy.contains(pid))
        });
        self.0 = going_on;
        let mut searched = Searched::default();
        for Search {
            library, thread, ..
        } in over
        {
            let pid = library.pid();
            let problem = match thread.join() {
                Ok(Ok(Some(addresses))) => {
                    if !addresses.is_empty() {
                        searched.found.push((library, addresses));
                    }
                    continue;
                }
                Ok(Ok(None)) => "there was no time to search it all".into(),
                Ok(Err(_)) if !target::is_alive(pid) => continue,
                Ok(Err(problem)) => problem,
                Err(_) => "the search failed".into(),
            };
            searched.problems.push((pid, problem));
        }
        searched
    }

    /// Waits a second for the searches that go on, then stops them.
    pub(super) fn end(&self) {
        let begun = Instant::now();
        while self.0.iter().any(|search| !search.thread.is_finished()) {
            if begun.elapsed() > MAX_WAIT_AT_END {
                for search in &self.0 {
                    search.stop.store(true, Ordering::Relaxed);
                }
            }
            thread::sleep(POLL);
        }
    }
}
