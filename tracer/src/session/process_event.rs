//! What processes do that a session may have to react to.

use super::Processes;

/// One thing that a process did.
#[derive(Debug)]
pub(super) struct ProcessEvent<P: Processes> {
    pub pid: u32,
    pub kind: ProcessEventKind,
    /// The kernel side has stopped the process. It goes on when this is dropped.
    pub stopped: Option<Stopped<P>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEventKind {
    /// It executed a program.
    Executed,
    /// Its dynamic linker is about to load libraries, or has loaded them.
    Linked,
    Ended,
}

/// A stopped process. Dropping this lets it go on, whatever path the program takes.
#[derive(Debug)]
pub(super) struct Stopped<P: Processes> {
    pid: u32,
    processes: P,
}

impl<P: Processes> Stopped<P> {
    /// A process that is stopped, or is about to be.
    pub(super) fn new(pid: u32, processes: P) -> Self {
        Self { pid, processes }
    }
}

impl<P: Processes> Drop for Stopped<P> {
    fn drop(&mut self) {
        self.processes.resume(self.pid);
    }
}
