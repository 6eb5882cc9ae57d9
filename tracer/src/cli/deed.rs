//! What processes do that their tracer may want to answer.

use rustix::process::{Pid, Signal, kill_process};

/// One thing that a process did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    pub pid: u32,
    pub what: What,
    /// The kernel's side has stopped the process: [`Self::answer`] is due.
    pub stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Executed,
    Linked,
    Ended,
}

impl Deed {
    pub fn of(pid: u32, what: What, stopped: bool) -> Self {
        Self { pid, what, stopped }
    }

    /// Lets the process go on, if it is stopped.
    pub fn answer(self) {
        if self.stopped {
            go_on(self.pid);
        }
    }
}

/// Lets a process go on that the kernel's side has stopped.
pub fn go_on(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have been killed meanwhile; then there is nothing to go on.
        let _ = kill_process(pid, Signal::CONT);
    }
}
