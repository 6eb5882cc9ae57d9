//! The table of a process's devices and their memory.

use std::collections::BTreeSet;

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table,
    TableStyle, Width,
};

use super::format::{bytes, ids, number};
use super::options::TableOptions;
use crate::{
    ledger::DeviceKind,
    report::summary::{DeviceSummary, ProcessSummary},
};

/// If more chips than this have the same use of their memory, they share their rows.
const MAX_SEPARATE_CHIPS: usize = 4;

const RULE: LineStyle = LineStyle::none().fill('─').junction('─');
const STYLE: TableStyle = TableStyle::new().header_separator(RULE).bottom_border(RULE);

/// The rows of one device, or of several with the same use of their memory.
pub(super) struct DeviceRows<'a> {
    name: String,
    device: &'a DeviceSummary,
}

/// The rows of chips, which are totals, then those of meshes, which are part of their chips' totals. A mesh
/// of one chip that holds all of the chip's buffers shares its rows with the chip.
pub(super) fn device_rows(process: &ProcessSummary) -> Vec<DeviceRows<'_>> {
    let used = |device: &&DeviceSummary| device.memory.iter().any(|(_, usage)| usage.is_used());
    let of_kind = |kind| {
        process
            .devices
            .iter()
            .filter(used)
            .filter(move |device| device.kind == kind)
    };
    let mut chips: Vec<_> = of_kind(DeviceKind::Chip).collect();
    let mut meshes = Vec::new();
    let mut same = Vec::new();
    for mesh in of_kind(DeviceKind::Mesh) {
        let only = chips
            .iter()
            .position(|chip| mesh.members == [chip.id] && mesh.memory.is_used_like(&chip.memory));
        if let Some(chip) = only.map(|position| chips.remove(position)) {
            let name = format!("mesh {} = chip {}", mesh.id, chip.id);
            same.push(DeviceRows { name, device: chip });
        } else {
            meshes.push(DeviceRows {
                name: mesh_name(mesh),
                device: mesh,
            });
        }
    }
    let mut rows = chip_rows(&chips);
    rows.extend(same);
    rows.extend(meshes);
    rows
}

fn mesh_name(mesh: &DeviceSummary) -> String {
    match mesh.members.as_slice() {
        [] => format!("mesh {} (chips unknown), on each", mesh.id),
        [chip] => format!("mesh {} (chip {chip}), its part", mesh.id),
        chips => format!("mesh {} (chips {}), on each", mesh.id, ids(chips)),
    }
}

fn chip_rows<'a>(chips: &[&'a DeviceSummary]) -> Vec<DeviceRows<'a>> {
    let mut done: BTreeSet<u32> = BTreeSet::new();
    let mut rows = Vec::new();
    for &chip in chips {
        if done.contains(&chip.id) {
            continue;
        }
        let alike: Vec<u32> = chips
            .iter()
            .filter(|other| other.memory.is_used_like(&chip.memory))
            .map(|other| other.id)
            .collect();
        let name = if alike.len() > MAX_SEPARATE_CHIPS {
            done.extend(&alike);
            format!("chips {}, total of each", ids(&alike))
        } else {
            format!("chip {}, total", chip.id)
        };
        rows.push(DeviceRows { name, device: chip });
    }
    rows
}

/// The table; without the capacity if it is not known, or the terminal has no room for it.
pub(super) fn draw(devices: &[DeviceRows<'_>], ended: bool, options: TableOptions) -> Table {
    let has_capacity = devices.iter().any(|rows| {
        let mut memory = rows.device.memory.iter();
        memory.any(|(_, usage)| usage.is_used() && usage.capacity.is_some())
    });
    let has_room = || {
        let unlimited = TableOptions {
            width: None,
            colour: false,
        };
        let natural = draw_with(devices, ended, unlimited, true).to_string();
        let widest = natural.lines().map(|line| line.chars().count()).max();
        options
            .width
            .is_none_or(|width| widest <= Some(usize::from(width)))
    };
    draw_with(devices, ended, options, has_capacity && has_room())
}

fn draw_with(
    devices: &[DeviceRows<'_>],
    ended: bool,
    options: TableOptions,
    has_capacity: bool,
) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic);
    // The options say what the terminal can show.
    table.force_no_tty();
    if options.colour {
        table.enforce_styling();
    }
    match options.width {
        Some(width) => table.set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let live = if ended { "Live at exit" } else { "Live" };
    let titles = [
        "Device",
        "Memory",
        live,
        "Buffers",
        "Peak",
        "Allocations",
        "Frees",
        "Capacity",
    ];
    let columns = titles.len() - usize::from(!has_capacity);
    let header = titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold));
    table.set_header(header.into_iter().take(columns));
    for device_rows in devices {
        let mut name = device_rows.name.as_str();
        for (buffer_type, usage) in device_rows
            .device
            .memory
            .iter()
            .filter(|(_, usage)| usage.is_used())
        {
            let capacity = usage.capacity.map(|capacity| bytes(capacity.bytes()));
            let row = [
                name.to_owned(),
                buffer_type.to_string(),
                bytes(usage.live_bytes),
                number(usage.live_buffers),
                bytes(usage.peak_bytes),
                number(usage.allocations),
                number(usage.deallocations),
                capacity.unwrap_or_default(),
            ];
            table.add_row(row.into_iter().take(columns));
            name = "";
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // Otherwise a terminal of 80 columns breaks the word “Allocations”.
    if let Some(allocations) = table.column_mut(5) {
        allocations.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(13)));
    }
    table
}
