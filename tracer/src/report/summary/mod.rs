//! The JSON summary, version 1, as types. `schemas/summary-v1.schema.json` says what each field means to
//! a reader. Within version 1, fields may be added but never changed.

mod buffer_groups;
mod change;
mod device;
mod map;
mod process;
mod programs;
mod since_mark;

use std::io;

use serde::Serialize;

pub(crate) use buffer_groups::{
    Failure, Group, Leak, MemoryGroup, OriginTotal, Peak, StackSummary, Temporary,
};
pub(crate) use change::{Change, Compared, Difference, GroupChange, MemoryChange, ProcessChange};
pub(crate) use device::{Capacity, DeviceMemory, DeviceSummary, MemorySummary, Usage};
pub(crate) use map::{Block, BlockBuffer, MapSummary, SpaceSummary};
pub(crate) use process::{
    AttachSnapshotSummary, Attached, BufferSummary, Library, NonOwning, ProcessSummary,
};
pub(crate) use programs::{
    CoreSummary, DevicePrograms, ProgramBufferSummary, ProgramMemory, ProgramSummary,
    RegionsSummary, SemaphoreSummary,
};
pub(crate) use since_mark::{MarkSummary, MemorySince, SinceMark};

/// The version of the JSON's shape.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// The result of a whole trace. Sizes in bytes, times in nanoseconds since `started_at`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub schema_version: u32,
    pub tool: Tool,
    pub host: Host,
    /// RFC 3339, in UTC.
    pub started_at: String,
    /// How long the trace lasted.
    pub duration_ns: u64,
    pub events: Events,
    /// The marks that users set, in order.
    pub marks: Vec<MarkSummary>,
    /// By pid. Processes that had the same pid one after another are in that order.
    pub processes: Vec<ProcessSummary>,
    /// The processes that couldn't be traced, by pid.
    pub untraced: Vec<Untraced>,
    /// The comparison with the summary of an earlier trace; `None` without a baseline.
    pub change: Option<Change>,
}

impl Summary {
    /// Writes the summary as indented JSON, ended by a newline.
    ///
    /// # Errors
    /// The errors of `writer`.
    pub(crate) fn write_json(&self, mut writer: impl io::Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut writer, self)?;
        writer.write_all(b"\n")
    }
}

/// A process that couldn't be traced although the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Untraced {
    pub pid: u32,
    pub comm: String,
    /// Why, for a person.
    pub reason: String,
}

/// The program that wrote the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tool {
    pub name: String,
    pub version: String,
}

/// The machine that the trace ran on, from `uname(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Host {
    pub hostname: String,
    pub kernel: String,
    pub arch: String,
}

/// How complete the trace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Events {
    /// Events about memory and about the lives of processes.
    pub received: u64,
    /// Events about programs.
    pub of_programs: u64,
    pub lost: u64,
    /// Stacks that weren't kept because too many came at once.
    pub stacks_skipped: u64,
    /// Whether no event is known to be missing.
    pub exact: bool,
}
