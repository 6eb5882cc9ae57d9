//! The L1 that programs take, from the ledger.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    frame::{Stack, StackId},
    ledger::{
        ProcessPrograms,
        programs::{
            Allocated, L1Account, Layout, Program, ProgramBuffer, ProgramKey, ProgramSemaphore,
        },
    },
    operation::operation,
    report::summary::{
        CoreSummary, DevicePrograms, ProgramBufferSummary, ProgramMemory, ProgramSummary,
        RegionsSummary, SemaphoreSummary,
    },
};

/// The L1 that the programs of a process take.
pub(super) fn program_memory(
    programs: &ProcessPrograms,
    stacks: &BTreeMap<StackId, Stack>,
) -> ProgramMemory {
    let counters = programs.counters();
    // Also the devices that programs were only laid out for.
    let devices: BTreeSet<_> = programs
        .accounts()
        .keys()
        .copied()
        .chain(programs.programs().iter().filter_map(|of| of.layout.device))
        .collect();
    let nothing = L1Account::default();
    ProgramMemory {
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
