//! The L1 that programs take.

use std::cmp::Reverse;

use super::format::{bytes, count, number};
use super::labels::Labels;
use super::rows::{Row, device_name, shown};
use crate::{
    ledger::DeviceKind,
    report::summary::{DevicePrograms, ProcessSummary, ProgramMemory, ProgramSummary},
};

/// The most programs that are shown.
const MAX_PROGRAMS: usize = 8;

/// The notes on the L1 of programs: one for each device that programs were dispatched to or laid out for,
/// and one for each kind of incomplete figure. Members of a shown mesh are left out.
pub(super) fn program_notes(memory: &ProgramMemory) -> Vec<String> {
    let used = |device: &&DevicePrograms| device.peak_bytes > 0 || device.laid_out_bytes > 0;
    let of_kind = |kind| {
        let devices = memory.devices.iter().filter(used);
        devices.filter(move |device| device.device_kind == kind)
    };
    // A mesh's members have the same figures as the mesh. Chips alone are shown only without a mesh.
    let mut devices: Vec<&DevicePrograms> = of_kind(DeviceKind::Mesh).collect();
    if devices.is_empty() {
        devices = of_kind(DeviceKind::Chip).collect();
    }
    let devices = devices.into_iter();
    let mut notes: Vec<String> = devices
        .map(|device| device_note(device, memory.dispatches > 0))
        .collect();
    if memory.unknown_dispatches > 0 {
        notes.push(format!(
            "{} of an unknown program or to an unknown device: not counted here",
            match memory.unknown_dispatches {
                1 => "1 dispatch".to_owned(),
                dispatches => format!("{} dispatches", number(dispatches)),
            }
        ));
    }
    if memory.incomplete > 0 {
        notes.push(format!(
            "{} arrived incomplete: these figures may be too low",
            count(memory.incomplete, "layout")
        ));
    }
    notes
}

fn device_note(device: &DevicePrograms, saw_dispatches: bool) -> String {
    let name = device_name(device.device_kind, &[device.device_id]);
    let busy = device.cores.iter().filter(|core| core.live_bytes > 0);
    let largest = busy.clone().map(|core| core.live_bytes).max();
    let in_use = match largest {
        _ if !saw_dispatches => {
            format!("no dispatch to {name} was seen: the use of its L1 isn't known")
        }
        Some(largest) => format!(
            "{} of L1 on {} of {name}, {} on one at most",
            bytes(device.live_bytes),
            count(busy.count() as u64, "core"),
            bytes(largest),
        ),
        None => format!("no L1 on {name}"),
    };
    let peak = match saw_dispatches {
        true => format!("; peak {}", bytes(device.peak_bytes)),
        false => String::new(),
    };
    let laid_out = match device.laid_out_programs {
        0 => String::new(),
        programs => format!(
            "; {} laid out over {}",
            count(programs, "program"),
            bytes(device.laid_out_bytes)
        ),
    };
    format!("{in_use}{peak}{laid_out}")
}

/// The programs that take the most L1, whether it is in use or not.
pub(super) fn program_rows(process: &ProcessSummary, labels: &Labels) -> Vec<Row> {
    let Some(memory) = &process.program_memory else {
        return Vec::new();
    };
    let mut programs: Vec<&ProgramSummary> = memory
        .programs
        .iter()
        .filter(|program| program.bytes > 0)
        .collect();
    programs.sort_by_key(|program| (Reverse(program.bytes), program.number));
    let others = programs.split_off(shown(programs.len(), MAX_PROGRAMS));
    let mut rows: Vec<Row> = programs
        .into_iter()
        .map(|program| {
            let mut cores = memory.devices.iter().flat_map(|device| &device.cores);
            let in_use = cores.any(|core| core.program == Some(program.number));
            let label = labels.stack(program.stack);
            Row {
                size: bytes(program.bytes),
                count: count(program.cores, "core"),
                memory: if in_use { "in use" } else { "laid out" }.to_owned(),
                time: format!("{}×", number(program.dispatches)),
                label: match &program.operation {
                    Some(operation) => format!("{operation}: {label}"),
                    None => label,
                },
            }
        })
        .collect();
    if !others.is_empty() {
        rows.push(Row {
            size: bytes(others.iter().map(|program| program.bytes).sum()),
            label: format!("{} other programs", number(others.len() as u64)),
            ..Row::default()
        });
    }
    rows
}
