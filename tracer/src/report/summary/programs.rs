//! The L1 that programs take, beside the buffers that the allocator gives. Bytes are those on all cores,
//! unless said otherwise; for a mesh, on each member.

use serde::Serialize;

use crate::{
    frame::StackId,
    ledger::{
        DeviceKind, Nanoseconds,
        programs::{Backing, CoreRange, ProgramBufferKind, Region, RegionKind},
    },
};

/// The L1 that the programs of a process take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProgramMemory {
    /// The devices that programs were laid out for or dispatched to.
    pub devices: Vec<DevicePrograms>,
    /// The programs that still exist, in the order of their first layout.
    pub programs: Vec<ProgramSummary>,
    /// The number of programs that were laid out.
    pub laid_out: u64,
    /// The number of dispatches of programs.
    pub dispatches: u64,
    /// The number of programs that were laid out and then destroyed.
    pub ended: u64,
    /// Layouts that arrived incomplete: such programs may take more than the summary says.
    pub incomplete: u64,
    /// Dispatches whose program or device isn't known.
    pub unknown_dispatches: u64,
}

/// The programs of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DevicePrograms {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    /// What the program that was dispatched last on each core takes there, summed over the cores.
    pub live_bytes: u64,
    pub peak_bytes: u64,
    /// When the peak was first reached.
    pub peak_at_ns: Nanoseconds,
    /// How many of `programs` are laid out for this device and take memory.
    pub laid_out_programs: u64,
    /// What these programs were laid out to take, whether it is in use or not; on each core the union of
    /// their addresses.
    pub laid_out_bytes: u64,
    /// The same for circular buffers alone, as TT-Metal's shared-memory statistics count it.
    pub laid_out_circular_buffer_bytes: u64,
    /// By row, then column.
    pub cores: Vec<CoreSummary>,
}

/// One core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CoreSummary {
    pub x: u32,
    pub y: u32,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    /// The `number` of the program that was dispatched last; `None` if it was destroyed.
    pub program: Option<u64>,
}

/// A program that still exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProgramSummary {
    /// Unique among the programs of the process.
    pub number: u64,
    /// TT-Metal's own number, as in its messages. Other programs may have had it before.
    pub id: u64,
    /// The number of the operation that the program was last laid out for.
    pub runtime_id: u64,
    /// `None` if the device isn't known.
    pub device_kind: Option<DeviceKind>,
    /// `None` if the device isn't known.
    pub device_id: Option<u32>,
    /// The operation, such as `Matmul`, by the functions on the program's stack.
    pub operation: Option<String>,
    /// The stack of the thread at the first layout.
    pub stack: Option<StackId>,
    pub laid_out_at_ns: Nanoseconds,
    pub dispatches: u64,
    pub dispatched_at_ns: Option<Nanoseconds>,
    /// The L1 that the program takes when it is dispatched.
    pub bytes: u64,
    /// The number of cores that it takes memory on.
    pub cores: u64,
    /// The addresses that it takes, on each core of a range.
    pub regions: Vec<RegionsSummary>,
    /// Its circular and dataflow buffers. Their sizes are those on each core, and don't add up to
    /// `bytes`: some lie in allocated buffers, and scratchpads are not among them. `None` if they can't be
    /// read in this release.
    pub buffers: Option<Vec<ProgramBufferSummary>>,
    /// Its semaphores. They lie below all allocated addresses and are in no total. `None` if they can't be
    /// read in this release.
    pub semaphores: Option<Vec<SemaphoreSummary>>,
    /// Whether the whole layout arrived.
    pub complete: bool,
}

/// Addresses that a program takes on each core of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RegionsSummary {
    pub kind: RegionKind,
    pub cores: CoreRange,
    pub ranges: Vec<Region>,
}

/// A circular or dataflow buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProgramBufferSummary {
    pub kind: ProgramBufferKind,
    pub address: Option<u64>,
    /// On each core.
    pub size: u64,
    pub cores: Vec<CoreRange>,
    /// The memory that it lies in.
    pub backing: Backing,
}

/// A semaphore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SemaphoreSummary {
    pub id: u32,
    pub initial_value: u32,
    pub cores: Vec<CoreRange>,
}
