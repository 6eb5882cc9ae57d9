//! Processes: which there are, what they have mapped, when they end. Reads `/proc` and nothing of
//! what the mapped files contain.

mod end;
mod error;
mod find;
mod mapping;

pub use end::Ended;
pub use error::TargetError;
pub use find::{Candidate, candidates, find_by_name};
pub use mapping::{LIBRARY, MappedFile, dynamic_linker, is_loaded, libraries, wheel_release};

use procfs::process::Process;

/// What is worth telling of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// `/proc/PID/cmdline`.
    pub command_line: Vec<String>,
}

impl Identity {
    /// Reads it from `/proc`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self, TargetError> {
        let process = process(pid)?;
        let stat = process
            .stat()
            .map_err(|source| TargetError::unreadable(pid, source))?;
        // A zombie has no command line any more.
        let command_line = process.cmdline().unwrap_or_default();
        Ok(Self {
            pid,
            comm: stat.comm,
            command_line,
        })
    }
}

/// Whether a process still runs: one that is about to end doesn't, nor one that ended but that its
/// parent didn't ask for yet.
pub fn is_alive(pid: u32) -> bool {
    /// `include/linux/sched.h`: set before a task gives up its memory.
    const PF_EXITING: u32 = 0x4;
    process(pid)
        .and_then(|process| {
            process
                .stat()
                .map_err(|source| TargetError::unreadable(pid, source))
        })
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x') && stat.flags & PF_EXITING == 0)
}

fn process(pid: u32) -> Result<Process, TargetError> {
    let number = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
    Process::new(number).map_err(|source| TargetError::unreadable(pid, source))
}
