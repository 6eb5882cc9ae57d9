//! One process and its buffers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::buffer_groups::{Failure, Leak, OriginTotal, Peak, StackSummary, Temporary};
use super::device::DeviceSummary;
use super::map::MapSummary;
use super::programs::ProgramMemory;
use super::since_mark::SinceMark;
use crate::{
    frame::StackId,
    ledger::{BufferType, DeviceKind, Exit, Layout, Nanoseconds},
    origin::Origin,
};

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProcessSummary {
    pub pid: u32,
    /// The traced process that forked it; `None` if its parent wasn't traced.
    pub parent_pid: Option<u32>,
    pub comm: String,
    pub command_line: Vec<String>,
    pub attached: Attached,
    /// How the process ended; `None` if it didn't end, or its exit status isn't known: `exited_at_ns`
    /// distinguishes the two.
    pub exit: Option<Exit>,
    pub exited_at_ns: Option<Nanoseconds>,
    /// The first of `libraries`; `None` if the process never loaded one.
    pub library: Option<Library>,
    /// Every TT-Metal library that the process loaded: it may have several copies.
    pub libraries: Vec<Library>,
    /// Meshes, then chips, each by id.
    pub devices: Vec<DeviceSummary>,
    /// What the process held at attach; `None` if it was traced from its start, or its memory wasn't
    /// read.
    #[serde(rename = "baseline")]
    pub attach_snapshot: Option<AttachSnapshotSummary>,
    /// Owning buffers by device, type and address.
    pub live_buffers: Vec<BufferSummary>,
    pub non_owning: NonOwning,
    /// The live owning buffers, grouped by stack; the largest group first.
    pub leaks: Vec<Leak>,
    /// The peak of each type of memory of each device; by device and type.
    pub peaks: Vec<Peak>,
    /// The blocks in the banks of each device; by device and type.
    pub maps: Vec<MapSummary>,
    pub temporary: Temporary,
    /// The live owning buffers, by origin.
    pub origins: Vec<OriginTotal>,
    /// The L1 that programs take; `None` if it can't be derived from the process's library.
    pub program_memory: Option<ProgramMemory>,
    /// The first allocations that failed; `failed_allocations` counts all.
    pub failures: Vec<Failure>,
    /// The changes since each mark that was set before the process ended.
    pub since_marks: Vec<SinceMark>,
    /// The stacks that `stack` fields refer to, by id.
    pub stacks: Vec<StackSummary>,
    pub bulk_frees: u64,
    pub failed_allocations: u64,
    pub unmatched_deallocations: u64,
    pub implied_deallocations: u64,
    pub hooked_allocations: u64,
    pub events_received: u64,
    pub events_after_exit: u64,
}

/// When in a process's life the tracer attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Attached {
    /// Before the process's first buffer.
    Start,
    /// While the process was running; it may have had buffers.
    Running,
}

/// A TT-Metal library that a process loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Library {
    pub path: String,
    /// In hexadecimal; `None` if the file has no build id.
    pub build_id: Option<String>,
    /// The release, such as `0.81.1`; `None` if it isn't known.
    pub release: Option<String>,
    /// Where each field of a buffer is read, such as `size` at `[[buffer+0x10]+0x8]`.
    pub fields: BTreeMap<String, String>,
}

/// What a process held when the tracer attached, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AttachSnapshotSummary {
    /// When the reading ended.
    pub read_at_ns: Nanoseconds,
    /// Owning buffers that were live at attach; those still live are among `live_buffers`.
    pub buffers: u64,
    /// Sum of their sizes; for buffers on a mesh, the size on each member.
    pub bytes: u64,
    /// Whether each allocator could be read in the state of one moment. Otherwise it was read several
    /// times, and the readings were checked against the events.
    pub at_one_moment: bool,
    /// Bytes that allocators count as allocated but that belong to no known buffer.
    pub unknown_bytes: u64,
    /// What couldn't be read, for a person.
    pub problems: Vec<String>,
}

impl AttachSnapshotSummary {
    /// Whether all that the process held could be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.problems.is_empty() && self.unknown_bytes == 0
    }
}

/// A buffer that is live, or was live when its process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BufferSummary {
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// How much of each bank the buffer takes; `None` if that isn't known, or the buffer takes no memory of
    /// its own.
    pub bytes_per_bank: Option<u64>,
    pub device_id: u32,
    /// A mesh and a chip may have the same id.
    pub device_kind: DeviceKind,
    pub unique_id: Option<u64>,
    pub owns_data: bool,
    pub before_attach: bool,
    /// `None` only if `before_attach`: the time isn't known.
    pub allocated_at_ns: Option<Nanoseconds>,
    /// The thread that allocated or created the buffer; `None` only if `before_attach`.
    pub tid: Option<u32>,
    /// That thread's stack; `None` if it wasn't captured.
    pub stack: Option<StackId>,
    pub origin: Origin,
}

/// Non-owning buffers: views of memory that another buffer owns. They are in no total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NonOwning {
    pub live: u64,
    pub created: u64,
    pub destroyed: u64,
    pub unmatched_destroys: u64,
    pub implied_destroys: u64,
    /// The live ones, by device, type and address.
    pub buffers: Vec<BufferSummary>,
}
