//! What `/proc` says about one process, and which processes there are.

use procfs::process::{Process, Stat};

use super::{Identity, TargetError};

impl Identity {
    /// Reads it from `/proc`.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn from_pid(pid: u32) -> Result<Self, TargetError> {
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

/// The process that a thread belongs to. `id`: a thread's number, or a process's, which is that of its first
/// thread; `/proc/ID` exists for both.
///
/// # Errors
/// When there is no such thread.
pub(crate) fn process_of(id: u32) -> Result<u32, TargetError> {
    let status = process(id)?
        .status()
        .map_err(|source| TargetError::unreadable(id, source))?;
    Ok(status.tgid.unsigned_abs())
}

/// Whether a process still runs. It doesn't when its last thread is exiting, nor when it has ended and
/// its parent hasn't waited for it yet.
pub(crate) fn is_alive(pid: u32) -> bool {
    /// `include/linux/sched.h`: set before a task gives up its memory.
    const PF_EXITING: u32 = 0x4;
    let runs = |stat: Stat| !matches!(stat.state, 'Z' | 'X' | 'x') && stat.flags & PF_EXITING == 0;
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
pub(crate) fn ancestors(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = process(pid).ok()?.stat().ok()?;
        u32::try_from(stat.ppid).ok().filter(|parent| *parent > 1)
    };
    std::iter::successors(parent(pid), |pid| parent(*pid))
        .take(64)
        .collect()
}

/// Whether a process is stopped by a signal, or has a SIGSTOP pending.
pub(crate) fn is_stopping(pid: u32) -> bool {
    const SIGSTOP: u64 = 1 << (19 - 1);
    process(pid).is_ok_and(|process| {
        process.status().is_ok_and(|status| {
            status.state.starts_with('T') || (status.sigpnd | status.shdpnd) & SIGSTOP != 0
        })
    })
}

/// The pids of all processes but this one. Some of them may have ended by the time they are used.
///
/// # Errors
/// When `/proc` can't be read.
pub(crate) fn all() -> Result<Vec<u32>, TargetError> {
    let own = std::process::id();
    let processes =
        procfs::process::all_processes().map_err(|source| TargetError::unreadable(own, source))?;
    Ok(processes
        .flatten()
        .map(|process| process.pid().unsigned_abs())
        .filter(|pid| *pid != own)
        .collect())
}

/// Opens a process's directory in `/proc`.
pub(super) fn process(pid: u32) -> Result<Process, TargetError> {
    let number = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
    Process::new(number).map_err(|source| TargetError::unreadable(pid, source))
}
