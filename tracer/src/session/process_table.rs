//! The processes that a session has met, by pid, in the order in which their events are handed out.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use super::TracedLibrary;

/// What is known of each pid.
#[derive(Debug, Default)]
pub(super) struct ProcessTable {
    entries: HashMap<u32, Entry>,
    /// Children whose fork was handed out and that haven't ended, with their parents' libraries.
    forked: HashMap<u32, Vec<Rc<TracedLibrary>>>,
    /// Reasons that were already reported. Each is reported once, not for each process.
    reasons: HashSet<String>,
}

/// The process that a pid means now, or meant last.
#[derive(Debug, Default)]
struct Entry {
    is_running: bool,
    comm: String,
    /// Shared with its children.
    libraries: Vec<Rc<TracedLibrary>>,
    /// It has had an event of its own.
    has_events: bool,
}

impl ProcessTable {
    /// Whether a process has been introduced and hasn't ended.
    pub(super) fn is_running(&self, pid: u32) -> bool {
        self.entries.get(&pid).is_some_and(|entry| entry.is_running)
    }

    /// The processes that have been introduced and haven't ended.
    pub(super) fn running(&self) -> Vec<u32> {
        let running = self.entries.iter().filter(|(_, entry)| entry.is_running);
        running.map(|(pid, _)| *pid).collect()
    }

    /// Whether a process has a library; of one that has ended, whether it had one.
    pub(super) fn has_library(&self, pid: u32) -> bool {
        let entry = self.entries.get(&pid);
        entry.is_some_and(|entry| !entry.libraries.is_empty())
    }

    /// Whether it is known where a process has its library from: it loaded one, or its parent did.
    pub(super) fn is_explained(&self, pid: u32) -> bool {
        self.has_library(pid) || self.is_forked(pid)
    }

    /// Whether a process was forked by one that is traced.
    pub(super) fn is_forked(&self, pid: u32) -> bool {
        self.forked.contains_key(&pid)
    }

    /// What a process is called, as far as it is known.
    pub(super) fn comm(&self, pid: u32) -> &str {
        self.entries.get(&pid).map_or("", |entry| &entry.comm)
    }

    /// Introduces a process, or notes what it is called now. Returns whether it is a new one.
    pub(super) fn introduce(&mut self, pid: u32, comm: Option<&str>) -> bool {
        let is_new = !self.is_running(pid);
        if is_new {
            let libraries = self.forked.get(&pid).cloned().unwrap_or_default();
            let entry = Entry {
                is_running: true,
                libraries,
                ..Entry::default()
            };
            self.entries.insert(pid, entry);
        }
        if let (Some(comm), Some(entry)) = (comm, self.entries.get_mut(&pid)) {
            comm.clone_into(&mut entry.comm);
        }
        is_new
    }

    /// Adds a library to a process. Returns whether it is new there.
    pub(super) fn add_library(&mut self, pid: u32, library: &TracedLibrary) -> bool {
        let entry = self.entries.entry(pid).or_default();
        let is_new = !entry.libraries.iter().any(|known| **known == *library);
        if is_new {
            entry.libraries.push(Rc::new(library.clone()));
        }
        is_new
    }

    /// An event of a process is handed out.
    pub(super) fn note_event(&mut self, pid: u32) {
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.has_events = true;
        }
    }

    /// A process forked. Whatever had the child's pid has ended, unless it has no event yet: then it is
    /// this child, whose library was found while its fork waited for a snapshot.
    pub(super) fn reuse_pid(&mut self, child: u32) {
        if let Some(entry) = self.entries.get_mut(&child)
            && entry.has_events
        {
            entry.is_running = false;
        }
    }

    /// A traced process forked this child.
    pub(super) fn fork(&mut self, parent: u32, child: u32) {
        let libraries = self.entries.get(&parent).map(|of| of.libraries.clone());
        self.forked.insert(child, libraries.unwrap_or_default());
    }

    /// A process has ended.
    pub(super) fn end(&mut self, pid: u32) {
        self.forked.remove(&pid);
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.is_running = false;
        }
    }

    /// Whether this reason for not tracing a process is new.
    pub(super) fn is_new_reason(&mut self, reason: &str) -> bool {
        self.reasons.insert(reason.to_owned())
    }
}
