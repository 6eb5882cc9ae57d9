//! Processes: which there are, what they have mapped, when they end. Reads `/proc` and nothing of
//! what the mapped files contain.

mod error;
mod find;
mod mapping;
mod memory;
mod pagemap;
mod reach;
mod search;
mod threads;

pub use error::TargetError;
pub use find::{Candidate, candidates, find_by_name};
pub use mapping::{
    FileId, LIBRARY, MappedCode, MappedFile, code, dynamic_linker, is_loaded, libraries,
    wheel_release,
};
pub use memory::ProcessMemory;
pub use threads::Threads;

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

/// Whether a process still runs: one whose last thread is about to end doesn't, nor one that ended
/// but that its parent didn't ask for yet.
pub fn is_alive(pid: u32) -> bool {
    /// `include/linux/sched.h`: set before a task gives up its memory.
    const PF_EXITING: u32 = 0x4;
    let runs = |stat: procfs::process::Stat| {
        !matches!(stat.state, 'Z' | 'X' | 'x') && stat.flags & PF_EXITING == 0
    };
    let Ok(process) = process(pid) else {
        return false;
    };
    // The first thread may end before the others.
    process.stat().is_ok_and(runs)
        || process
            .tasks()
            .is_ok_and(|tasks| tasks.flatten().any(|task| task.stat().is_ok_and(runs)))
}

/// The processes that a process descends from, its parent first.
pub fn ancestors(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = process(pid).ok()?.stat().ok()?;
        u32::try_from(stat.ppid).ok().filter(|parent| *parent > 1)
    };
    std::iter::successors(parent(pid), |pid| parent(*pid))
        .take(64)
        .collect()
}

/// Whether a process is stopped by a signal, or is about to be.
pub fn is_stopping(pid: u32) -> bool {
    const SIGSTOP: u64 = 1 << (19 - 1);
    process(pid).is_ok_and(|process| {
        process.status().is_ok_and(|status| {
            status.state.starts_with('T') || (status.sigpnd | status.shdpnd) & SIGSTOP != 0
        })
    })
}

/// All processes, by their pids. Some of them may have ended when they are looked at.
///
/// # Errors
/// When `/proc` can't be read.
pub fn all() -> Result<Vec<u32>, TargetError> {
    let own = std::process::id();
    let processes =
        procfs::process::all_processes().map_err(|source| TargetError::unreadable(own, source))?;
    Ok(processes
        .flatten()
        .map(|process| process.pid().unsigned_abs())
        .filter(|pid| *pid != own)
        .collect())
}

fn process(pid: u32) -> Result<Process, TargetError> {
    let number = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
    Process::new(number).map_err(|source| TargetError::unreadable(pid, source))
}
