//! The JSON summary, version 1, as types. `schemas/summary-v1.schema.json` says what each field
//! means to a reader; within version 1, fields may be added but never changed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Change, Failure, Leak, MapSummary, MarkSummary, OriginTotal, Peak, ProgramMemory, SinceMark,
    StackSummary, Temporary,
};
use crate::{
    ledger::{BufferType, DeviceKind, Exit, Layout, Nanoseconds},
    origin::Origin,
    stack::StackId,
};

/// The version of the JSON's shape.
pub const SCHEMA_VERSION: u32 = 1;

/// What a whole trace found. Sizes in bytes, times in nanoseconds since `started_at`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub schema_version: u32,
    pub tool: Tool,
    pub host: Host,
    /// RFC 3339, in UTC.
    pub started_at: String,
    /// How long the trace lasted.
    pub duration_ns: u64,
    pub events: Events,
    /// The moments that somebody marked, in order.
    pub marks: Vec<MarkSummary>,
    /// By pid; those that had the same pid one after another in that order.
    pub processes: Vec<ProcessSummary>,
    /// Those that couldn't be traced, by pid.
    pub untraced: Vec<Untraced>,
    /// What has changed since an earlier trace; `None` if none was given.
    pub change: Option<Change>,
}

/// A process that couldn't be traced, though it was meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Untraced {
    pub pid: u32,
    pub comm: String,
    /// Why, for a person.
    pub reason: String,
}

/// Who wrote the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
}

/// Where the trace was made: what `uname` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    pub hostname: String,
    pub kernel: String,
    pub arch: String,
}

/// How complete the trace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Events {
    /// About memory and processes' lives.
    pub received: u64,
    /// About programs.
    pub of_programs: u64,
    pub lost: u64,
    /// Stacks that weren't kept, since too many came at once.
    pub stacks_skipped: u64,
    /// Nothing says that an event is missing.
    pub exact: bool,
}

/// Since when the tracer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attached {
    /// From the process's first buffer on.
    Start,
    /// The process was already running, and may have had buffers.
    Running,
}

/// The TT-Metal library that a process loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    pub path: String,
    /// In hexadecimal; `None` for a library that has none.
    pub build_id: Option<String>,
    /// The release, such as `0.81.1`, where it is known.
    pub release: Option<String>,
    /// Where each field of a buffer was read, such as `size` at `[[buffer+0x10]+0x8]`.
    pub fields: BTreeMap<String, String>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessSummary {
    pub pid: u32,
    /// The traced process that forked it; `None` if that wasn't traced.
    pub parent_pid: Option<u32>,
    pub comm: String,
    pub command_line: Vec<String>,
    pub attached: Attached,
    /// How it ended; `None` if it didn't, or nobody knows how: `exited_at_ns` tells which.
    pub exit: Option<Exit>,
    pub exited_at_ns: Option<Nanoseconds>,
    /// The first of `libraries`; `None` if it never loaded one.
    pub library: Option<Library>,
    /// All that it loaded: a process may have several copies.
    pub libraries: Vec<Library>,
    /// Meshes, then chips, each by id.
    pub devices: Vec<DeviceSummary>,
    /// What was there before the tracer came; `None` if the process was traced from its start, or
    /// its memory wasn't read.
    pub baseline: Option<Baseline>,
    /// Owning buffers by device, type and address.
    pub live_buffers: Vec<BufferSummary>,
    pub non_owning: NonOwning,
    /// What is live, by where it was allocated, the largest first.
    pub leaks: Vec<Leak>,
    /// What lay on each device when most did; by device and type.
    pub peaks: Vec<Peak>,
    /// What lies where in the banks of each device; by device and type.
    pub maps: Vec<MapSummary>,
    pub temporary: Temporary,
    /// What is live, by what it is for.
    pub origins: Vec<OriginTotal>,
    /// What its programs take of L1; `None` if that can't be told of its library.
    pub program_memory: Option<ProgramMemory>,
    /// The first allocations that failed; `failed_allocations` counts all.
    pub failures: Vec<Failure>,
    /// What has changed since each mark that it hadn't ended by.
    pub since_marks: Vec<SinceMark>,
    /// What others refer to by `stack`, by id.
    pub stacks: Vec<StackSummary>,
    pub bulk_frees: u64,
    pub failed_allocations: u64,
    pub unmatched_deallocations: u64,
    pub implied_deallocations: u64,
    pub hooked_allocations: u64,
    pub events_received: u64,
    pub events_after_exit: u64,
}

impl ProcessSummary {
    /// Bytes that the application may have forgotten to free: those live at the process's end that
    /// aren't known to be the runtime's. 0 while it runs.
    pub fn leaked_bytes(&self) -> u64 {
        if self.exited_at_ns.is_none() {
            return 0;
        }
        let groups = self.leaks.iter().map(|leak| &leak.placed.group);
        groups
            .filter(|group| group.origin.may_leak())
            .fold(0, |sum, group| sum.saturating_add(group.bytes))
    }
}

/// What was there before the tracer came, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Baseline {
    /// When the reading was over.
    pub read_at_ns: Nanoseconds,
    /// Owning buffers that were there; those that are live still are among `live_buffers`.
    pub buffers: u64,
    /// Their sizes' sum; of those on a mesh, on each member.
    pub bytes: u64,
    /// Whether each allocator could be read as it was at one moment. Otherwise it was asked several
    /// times, and what it said was held against the events.
    pub at_one_moment: bool,
    /// Bytes that allocators count as allocated and no buffer accounts for.
    pub unknown_bytes: u64,
    /// What couldn't be read, for a person.
    pub problems: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceSummary {
    pub id: u32,
    pub kind: DeviceKind,
    /// A mesh's chips, as far as they are known; empty for a chip.
    pub members: Vec<u32>,
    pub memory: MemorySummary,
}

/// Use of each type of memory: of what lies on the device, or, for a mesh, on *each* member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub struct MemorySummary {
    pub dram: Usage,
    pub l1: Usage,
    pub l1_small: Usage,
    pub trace: Usage,
    pub system_memory: Usage,
}

impl MemorySummary {
    /// Each type with its use, in the order in which they are shown.
    pub fn iter(&self) -> impl Iterator<Item = (BufferType, &Usage)> {
        BufferType::ALL
            .into_iter()
            .map(|buffer_type| (buffer_type, self.of(buffer_type)))
    }

    /// Whether the same lies on both devices and has been through the same.
    pub fn is_used_like(&self, other: &Self) -> bool {
        let use_of = |usage: &Usage| Usage {
            capacity: None,
            ..*usage
        };
        self.iter()
            .zip(other.iter())
            .all(|((_, own), (_, other))| use_of(own) == use_of(other))
    }

    /// The use of one type.
    pub fn of(&self, buffer_type: BufferType) -> &Usage {
        match buffer_type {
            BufferType::Dram => &self.dram,
            BufferType::L1 => &self.l1,
            BufferType::L1Small => &self.l1_small,
            BufferType::Trace => &self.trace,
            BufferType::SystemMemory => &self.system_memory,
        }
    }
}

/// Use of one type of memory, by owning buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub live_bytes: u64,
    pub live_buffers: u64,
    pub peak_bytes: u64,
    /// When the peak was first reached; 0 if there was none.
    pub peak_at_ns: Nanoseconds,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
    pub allocations: u64,
    pub deallocations: u64,
    /// What the device has of it, by the allocator's own word; `None` if it wasn't asked.
    pub capacity: Option<Capacity>,
}

/// The banks of one type of memory, as `ttnn.get_memory_view` tells of them. Bytes are those of one
/// bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    pub banks: u64,
    pub bytes_per_bank: u64,
    pub allocated_per_bank: u64,
    pub free_per_bank: u64,
    pub largest_free_per_bank: u64,
    /// When it was read.
    pub read_at_ns: Nanoseconds,
}

impl Capacity {
    /// All banks together.
    pub fn bytes(&self) -> u64 {
        self.banks.saturating_mul(self.bytes_per_bank)
    }
}

impl Usage {
    /// Whether this type of memory was ever in use.
    pub fn is_used(&self) -> bool {
        self.live_buffers > 0 || self.allocations > 0 || self.deallocations > 0
    }
}

/// One buffer that is live, or was when its process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BufferSummary {
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// How much of each bank it takes; `None` if that isn't known, or it takes nothing of its own.
    pub bytes_per_bank: Option<u64>,
    pub device_id: u32,
    /// A mesh and a chip may have the same id.
    pub device_kind: DeviceKind,
    pub unique_id: Option<u64>,
    pub owns_data: bool,
    pub before_attach: bool,
    /// `None` only if `before_attach`: nobody knows.
    pub allocated_at_ns: Option<Nanoseconds>,
    /// The thread that made it; `None` only if `before_attach`.
    pub tid: Option<u32>,
    /// Where that thread was; `None` if that wasn't captured.
    pub stack: Option<StackId>,
    pub origin: Origin,
}

/// Buffers that stand for memory which others own: in no total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NonOwning {
    pub live: u64,
    pub created: u64,
    pub destroyed: u64,
    pub unmatched_destroys: u64,
    pub implied_destroys: u64,
    /// The live ones, by device, type and address.
    pub buffers: Vec<BufferSummary>,
}
