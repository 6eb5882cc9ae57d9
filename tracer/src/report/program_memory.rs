//! The part of the JSON summary that tells what programs take of L1, as types and from the ledger. Bytes
//! are those on all cores, unless said otherwise; of a mesh, on each member.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    ledger::{
        DeviceKind, Nanoseconds, ProcessPrograms,
        programs::{
            Allocated, Backing, CoreRange, L1Account, Layout, Program, ProgramBuffer,
            ProgramBufferKind, ProgramKey, ProgramSemaphore, Region, RegionKind,
        },
    },
    operation::operation,
    stack::{Stack, StackId},
};

/// What the programs of a process take of L1, beside the buffers that the allocator gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramMemory {
    /// Those that programs were dispatched to.
    pub devices: Vec<DevicePrograms>,
    /// Those that have not ended, in the order in which they were first laid out.
    pub programs: Vec<ProgramSummary>,
    /// Programs that were laid out.
    pub laid_out: u64,
    /// How often programs were dispatched.
    pub dispatches: u64,
    /// Programs that were laid out and have ended.
    pub ended: u64,
    /// Layouts of which not all came: they may take more than is told here.
    pub incomplete: u64,
    /// Dispatches of which the program or the device isn't known.
    pub unknown_dispatches: u64,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DevicePrograms {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    /// What lies on the cores for those that were dispatched there last.
    pub live_bytes: u64,
    pub peak_bytes: u64,
    /// When the peak was first reached.
    pub peak_at_ns: Nanoseconds,
    /// How many of `programs` are laid out for the device and take anything.
    pub laid_out_programs: u64,
    /// What all of these were laid out to take, whether it is in use or not: on each core the union.
    pub laid_out_bytes: u64,
    /// The same of circular buffers alone: what TT-Metal's shared-memory statistics show.
    pub laid_out_circular_buffer_bytes: u64,
    /// By row, then column.
    pub cores: Vec<CoreSummary>,
}

/// One core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoreSummary {
    pub x: u32,
    pub y: u32,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    /// The `number` of the program that it is for.
    pub program: Option<u64>,
}

/// A program that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramSummary {
    /// Tells it from all others of the process.
    pub number: u64,
    /// TT-Metal's own number, as in its messages. Others may have had it.
    pub id: u64,
    /// The number of the operation that it was last laid out for.
    pub runtime_id: u64,
    /// `None` if that isn't known, as of `device_id`.
    pub device_kind: Option<DeviceKind>,
    pub device_id: Option<u32>,
    /// Which operation it is, such as `Matmul`, by the functions on its stack.
    pub operation: Option<String>,
    /// Where the thread was that had it laid out first.
    pub stack: Option<StackId>,
    pub laid_out_at_ns: Nanoseconds,
    pub dispatches: u64,
    pub dispatched_at_ns: Option<Nanoseconds>,
    /// What it takes of L1 when it is dispatched.
    pub bytes: u64,
    /// On how many cores.
    pub cores: u64,
    /// What it takes, on each core of a range.
    pub regions: Vec<RegionsSummary>,
    /// Its circular and dataflow buffers. Their sizes are those on each core, and don't add up to
    /// `bytes`: some lie in buffers, and scratchpads are no buffers. `None` if they can't be told of the
    /// release.
    pub buffers: Option<Vec<ProgramBufferSummary>>,
    /// They lie below all that is allocated, and count as nothing. `None` likewise.
    pub semaphores: Option<Vec<SemaphoreSummary>>,
    /// All of it came.
    pub complete: bool,
}

/// Regions on each core of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionsSummary {
    pub kind: RegionKind,
    pub cores: CoreRange,
    pub ranges: Vec<Region>,
}

/// A circular or dataflow buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramBufferSummary {
    pub kind: ProgramBufferKind,
    pub address: Option<u64>,
    /// On each core.
    pub size: u64,
    pub cores: Vec<CoreRange>,
    /// Whose memory it lies in.
    pub backing: Backing,
}

/// A semaphore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SemaphoreSummary {
    pub id: u32,
    pub initial_value: u32,
    pub cores: Vec<CoreRange>,
}

impl ProgramMemory {
    pub fn of(programs: &ProcessPrograms, stacks: &BTreeMap<StackId, Stack>) -> Self {
        let counters = programs.counters();
        // Chips, then meshes, as everywhere; those that nothing was dispatched to but laid out for, too.
        let devices: BTreeSet<_> = programs
            .accounts()
            .keys()
            .copied()
            .chain(programs.programs().iter().filter_map(|of| of.layout.device))
            .collect();
        let nothing = L1Account::default();
        Self {
            devices: devices
                .into_iter()
                .map(|device| {
                    let account = programs.accounts().get(&device).unwrap_or(&nothing);
                    let laid_out = programs.laid_out(device);
                    let mut cores: Vec<CoreSummary> = account
                        .cores
                        .iter()
                        .map(|(core, of)| CoreSummary {
                            x: core.x,
                            y: core.y,
                            live_bytes: of.live_bytes,
                            peak_bytes: of.peak_bytes,
                            program: of.program.map(|ProgramKey(number)| number),
                        })
                        .collect();
                    cores.sort_by_key(|core| (core.y, core.x));
                    DevicePrograms {
                        device_kind: device.kind,
                        device_id: device.id,
                        live_bytes: account.live_bytes,
                        peak_bytes: account.peak_bytes,
                        peak_at_ns: account.peak_at,
                        laid_out_programs: laid_out.programs,
                        laid_out_bytes: laid_out.bytes,
                        laid_out_circular_buffer_bytes: laid_out.circular_buffer_bytes,
                        cores,
                    }
                })
                .collect(),
            programs: programs
                .programs()
                .into_iter()
                .map(|program| summary(program, stacks))
                .collect(),
            laid_out: counters.laid_out,
            dispatches: counters.dispatched,
            ended: counters.ended,
            incomplete: counters.incomplete,
            unknown_dispatches: counters.unknown_dispatches,
        }
    }
}

fn summary(program: &Program, stacks: &BTreeMap<StackId, Stack>) -> ProgramSummary {
    let Layout {
        program: _,
        id,
        runtime_id,
        device,
        allocated,
        buffers,
        semaphores,
        complete,
    } = &program.layout;
    let ProgramKey(number) = program.key();
    let stack = program.stack.and_then(|id| stacks.get(&id));
    ProgramSummary {
        number,
        id: *id,
        runtime_id: *runtime_id,
        device_kind: device.map(|device| device.kind),
        device_id: device.map(|device| device.id),
        operation: stack.and_then(operation),
        stack: program.stack,
        laid_out_at_ns: program.first_laid_out_at,
        dispatches: program.dispatches,
        dispatched_at_ns: program.dispatched_at,
        bytes: program.bytes(),
        cores: program.cores(),
        regions: allocated.iter().map(regions).collect(),
        buffers: buffers.as_ref().map(|all| all.iter().map(buffer).collect()),
        semaphores: semaphores
            .as_ref()
            .map(|all| all.iter().map(semaphore).collect()),
        complete: *complete,
    }
}

fn regions(allocated: &Allocated) -> RegionsSummary {
    let Allocated {
        kind,
        cores,
        regions,
    } = allocated;
    RegionsSummary {
        kind: *kind,
        cores: *cores,
        ranges: regions.clone(),
    }
}

fn buffer(buffer: &ProgramBuffer) -> ProgramBufferSummary {
    let ProgramBuffer {
        kind,
        address,
        size,
        cores,
        backing,
    } = buffer;
    ProgramBufferSummary {
        kind: *kind,
        address: *address,
        size: *size,
        cores: cores.clone(),
        backing: *backing,
    }
}

fn semaphore(semaphore: &ProgramSemaphore) -> SemaphoreSummary {
    let ProgramSemaphore {
        id,
        initial_value,
        cores,
    } = semaphore;
    SemaphoreSummary {
        id: *id,
        initial_value: *initial_value,
        cores: cores.clone(),
    }
}
