//! The facts of a trace that are in no event.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::{
    frame::{Stack, StackId},
    ledger::{BufferType, Device, ProcessId},
    report::summary::{AttachSnapshotSummary, Attached, Capacity, Host, Library, Tool, Untraced},
};

/// The facts of a trace that are in no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub tool: Tool,
    pub host: Host,
    /// The wall-clock time at which the events' nanoseconds start.
    pub started_at: SystemTime,
    /// How long the trace lasted.
    pub duration: Duration,
    /// One for each traced process, in any order. If two have the same id, the first is used.
    pub processes: Vec<ProcessFacts>,
    /// The processes that couldn't be traced, in any order.
    pub untraced: Vec<Untraced>,
    /// Whether the summary lists every known stack, also those that only lines of the event log refer to.
    pub every_stack: bool,
    /// Stacks that the kernel side skipped because too many were waiting.
    pub stacks_skipped: u64,
}

/// The facts of one process that are in no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessFacts {
    pub id: ProcessId,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// `/proc/PID/cmdline`; empty if it could not be read.
    pub command_line: Vec<String>,
    pub attached: Attached,
    /// In the order in which they were found; empty if the process never loaded one.
    pub libraries: Vec<Library>,
    /// Whether the L1 of programs is traced in at least one of the libraries.
    pub traces_programs: bool,
    pub attach_snapshot: Option<AttachSnapshotSummary>,
    pub capacity: BTreeMap<(Device, BufferType), Capacity>,
    /// The stacks that the process's events refer to.
    pub stacks: BTreeMap<StackId, Stack>,
}

impl ProcessFacts {
    /// The facts of a process of which only the pid is known. They don't claim that it was traced from its
    /// start.
    pub(crate) fn unknown(pid: u32) -> Self {
        Self {
            id: ProcessId { pid, generation: 0 },
            comm: String::new(),
            command_line: Vec::new(),
            attached: Attached::Running,
            libraries: Vec::new(),
            traces_programs: false,
            attach_snapshot: None,
            capacity: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }
}
