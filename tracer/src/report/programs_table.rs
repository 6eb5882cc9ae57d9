//! What programs take of L1, as a person reads it.

use std::cmp::Reverse;

use super::sections::{Places, Row, device_name};
use super::words::{bytes, count, number};
use super::{DevicePrograms, ProcessSummary, ProgramMemory, ProgramSummary};
use crate::ledger::DeviceKind;

/// So many programs are shown.
const MOST_PROGRAMS: usize = 8;

/// What lies in L1 for programs, a line a device: those that nothing was dispatched to, or that are
/// members of a shown one, are left out.
pub fn in_l1(memory: &ProgramMemory) -> Vec<String> {
    let used = |device: &&DevicePrograms| device.peak_bytes > 0 || device.laid_out_bytes > 0;
    let of_kind = |kind| {
        let devices = memory.devices.iter().filter(used);
        devices.filter(move |device| device.device_kind == kind)
    };
    // A mesh's members have the same; a program is laid out for one that is a mesh of its own.
    let mut shown: Vec<&DevicePrograms> = of_kind(DeviceKind::Mesh).collect();
    if shown.is_empty() {
        shown = of_kind(DeviceKind::Chip).collect();
    }
    let mut lines: Vec<String> = shown
        .into_iter()
        .map(|device| {
            let name = device_name(device.device_kind, &[device.device_id]);
            let busy = device.cores.iter().filter(|core| core.live_bytes > 0);
            let largest = busy.clone().map(|core| core.live_bytes).max();
            let in_use = match largest {
                Some(largest) => format!(
                    "{} of L1 on {} of {name}, {} on one at most",
                    bytes(device.live_bytes),
                    count(busy.count() as u64, "core"),
                    bytes(largest),
                ),
                None => format!("no L1 on {name}"),
            };
            let laid_out = match device.laid_out_programs {
                0 => String::new(),
                programs => format!(
                    "; {} laid out over {}",
                    count(programs, "program"),
                    bytes(device.laid_out_bytes)
                ),
            };
            format!("{in_use}; peak {}{laid_out}", bytes(device.peak_bytes))
        })
        .collect();
    if memory.unknown_dispatches > 0 {
        lines.push(format!(
            "dispatched {}, unknown programs or to an unknown device: in no figure",
            count(memory.unknown_dispatches, "time")
        ));
    }
    if memory.incomplete > 0 {
        lines.push(format!(
            "{} didn't come whole: these figures may be too low",
            count(memory.incomplete, "layout")
        ));
    }
    lines
}

/// The programs that take most, whether it is in use or not.
pub(super) fn rows(process: &ProcessSummary, places: &Places) -> Vec<Row> {
    let Some(memory) = &process.program_memory else {
        return Vec::new();
    };
    let mut programs: Vec<&ProgramSummary> = memory
        .programs
        .iter()
        .filter(|program| program.bytes > 0)
        .collect();
    programs.sort_by_key(|program| (Reverse(program.bytes), program.number));
    // A single one left over would have a row anyway.
    let shown = if programs.len() == MOST_PROGRAMS + 1 {
        programs.len()
    } else {
        MOST_PROGRAMS.min(programs.len())
    };
    let others = programs.split_off(shown);
    let mut rows: Vec<Row> = programs
        .into_iter()
        .map(|program| {
            let cores = memory.devices.iter().flat_map(|device| &device.cores);
            let in_use = cores
                .clone()
                .any(|core| core.program == Some(program.number));
            let place = places.of_stack_alone(program.stack);
            Row {
                size: bytes(program.bytes),
                count: count(program.cores, "core"),
                memory: if in_use { "in use" } else { "laid out" }.to_owned(),
                time: format!("{}×", number(program.dispatches)),
                place: match &program.operation {
                    Some(operation) => format!("{operation}: {place}"),
                    None => place,
                },
            }
        })
        .collect();
    if !others.is_empty() {
        rows.push(Row {
            size: bytes(others.iter().map(|program| program.bytes).sum()),
            place: format!("{} other programs", number(others.len() as u64)),
            ..Row::default()
        });
    }
    rows
}
