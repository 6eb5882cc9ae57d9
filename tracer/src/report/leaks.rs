//! Leaks, and the policy of `--fail-on-leak`.

use std::fmt;

use thiserror::Error;

use super::summary::{Group, ProcessSummary, Summary};

/// A process that ended while it held more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeakingProcess {
    pub pid: u32,
    pub comm: String,
    /// The bytes that it leaked; with a baseline, those beyond the baseline's.
    pub bytes: u64,
}

impl fmt::Display for LeakingProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = humansize::format_size(self.bytes, humansize::BINARY);
        write!(f, "{} (pid {}) {size}", self.comm, self.pid)
    }
}

/// Processes leaked more than they may.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("held until the end: {}{}", join(.processes), beyond(.baseline))]
pub(crate) struct LeakError {
    pub processes: Vec<LeakingProcess>,
    /// The file of the baseline, if there was one.
    pub baseline: Option<String>,
}

fn join(processes: &[LeakingProcess]) -> String {
    let processes: Vec<String> = processes.iter().map(ToString::to_string).collect();
    processes.join(", ")
}

fn beyond(baseline: &Option<String>) -> String {
    let baseline = baseline.as_ref();
    baseline.map_or_else(String::new, |path| format!(", beyond {path}"))
}

/// Checks that no process leaked more than `limit` bytes or, with a baseline, that much more than the
/// baseline's process.
///
/// # Errors
/// If a process did.
pub(crate) fn check_leaks(summary: &Summary, limit: u64) -> Result<(), LeakError> {
    let leaked = leaked_bytes(summary).filter(|(_, bytes)| *bytes > limit);
    let processes: Vec<LeakingProcess> = leaked
        .map(|(process, bytes)| LeakingProcess {
            pid: process.pid,
            comm: process.comm.clone(),
            bytes,
        })
        .collect();
    if processes.is_empty() {
        return Ok(());
    }
    Err(LeakError {
        processes,
        baseline: summary.change.as_ref().map(|change| change.path.clone()),
    })
}

/// Each process with the bytes that it leaked; with a baseline, those beyond the baseline's.
pub(super) fn leaked_bytes(summary: &Summary) -> impl Iterator<Item = (&ProcessSummary, u64)> {
    let changes = summary.change.as_ref();
    let changes = changes.map_or(&[][..], |change| change.processes.as_slice());
    let processes = summary.processes.iter().enumerate();
    processes.map(|(position, process)| {
        // A change lists the summary's processes first, in the same order.
        let baseline = changes
            .get(position)
            .map_or(0, |change| change.baseline_leaked_bytes);
        let leaked = process_leaked_bytes(process);
        (process, leaked.saturating_sub(baseline))
    })
}

/// Bytes that the application may have forgotten to free: buffers live at the process's end that aren't
/// known to be the runtime's own. 0 while the process runs.
pub(super) fn process_leaked_bytes(process: &ProcessSummary) -> u64 {
    match process.exited_at_ns {
        Some(_) => may_leak_bytes(process.leaks.iter().map(|leak| &leak.held.group)),
        None => 0,
    }
}

/// The bytes of the groups that aren't known to be the runtime's own.
pub(super) fn may_leak_bytes<'a>(groups: impl Iterator<Item = &'a Group>) -> u64 {
    groups
        .filter(|group| group.origin.may_leak())
        .fold(0, |sum, group| sum.saturating_add(group.bytes))
}
