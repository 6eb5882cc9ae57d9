//! The rows of the sections beneath a process's table.

use std::cmp::Reverse;

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

use super::format::{bytes, count, duration, ids, number};
use super::labels::Labels;
use super::options::TableOptions;
use crate::{
    ledger::DeviceKind,
    report::summary::{DeviceMemory, Group, MemoryGroup},
};

/// One row.
#[derive(Default)]
pub(super) struct Row {
    pub(super) size: String,
    pub(super) count: String,
    pub(super) memory: String,
    pub(super) time: String,
    pub(super) label: String,
}

/// Buffers that one row shows.
pub(super) struct Part {
    buffers: u64,
    bytes: u64,
    /// Empty if the rows are all in one memory.
    memory: String,
    /// The age of the oldest buffer, in nanoseconds.
    oldest: Option<u64>,
    label: String,
}

impl Part {
    pub(super) fn new(group: &Group, labels: &Labels) -> Self {
        Self {
            buffers: group.buffers,
            bytes: group.bytes,
            memory: String::new(),
            oldest: None,
            label: labels.group(group),
        }
    }

    /// With the memory that the group is in.
    pub(super) fn in_memory(held: &MemoryGroup, labels: &Labels) -> Self {
        Self {
            memory: memory_name(&held.memory),
            ..Self::new(&held.group, labels)
        }
    }

    /// With the age of the oldest buffer, in nanoseconds.
    pub(super) fn aged(self, oldest: Option<u64>) -> Self {
        Self { oldest, ..self }
    }
}

/// The number of rows to show of `len`, if the others share one more row: a single other one is shown
/// itself.
pub(super) fn shown(len: usize, max: usize) -> usize {
    if len == max + 1 { len } else { len.min(max) }
}

/// The rows of the `max` largest parts, the largest first, and one row for all others. Parts with the same
/// memory and label, such as two operations on one line, are merged.
pub(super) fn part_rows(parts: impl Iterator<Item = Part>, max: usize) -> Vec<Row> {
    let mut merged: Vec<Part> = Vec::new();
    for part in parts {
        let is_alike =
            |other: &&mut Part| (&other.memory, &other.label) == (&part.memory, &part.label);
        match merged.iter_mut().find(is_alike) {
            Some(other) => {
                other.buffers = other.buffers.saturating_add(part.buffers);
                other.bytes = other.bytes.saturating_add(part.bytes);
                other.oldest = other.oldest.max(part.oldest);
            }
            None => merged.push(part),
        }
    }
    merged.sort_by_key(|part| Reverse(part.bytes));
    let others = merged.split_off(shown(merged.len(), max));
    let mut rows: Vec<Row> = merged
        .into_iter()
        .map(|part| Row {
            size: bytes(part.bytes),
            count: count(part.buffers, "buffer"),
            memory: part.memory,
            time: part.oldest.map(duration).unwrap_or_default(),
            label: part.label,
        })
        .collect();
    if !others.is_empty() {
        let sum = |of: fn(&Part) -> u64| others.iter().map(of).fold(0, u64::saturating_add);
        rows.push(Row {
            size: bytes(sum(|part| part.bytes)),
            count: count(sum(|part| part.buffers), "buffer"),
            label: format!("in {} other places", number(others.len() as u64)),
            ..Row::default()
        });
    }
    rows
}

/// `DRAM, mesh 1`
pub(super) fn memory_name(memory: &DeviceMemory) -> String {
    memory_of_devices(memory, &[memory.device_id])
}

/// `DRAM, chips 0-7`: the same type of memory of several devices of the same kind.
pub(super) fn memory_of_devices(memory: &DeviceMemory, numbers: &[u32]) -> String {
    let device = device_name(memory.device_kind, numbers);
    format!("{}, {device}", memory.buffer_type)
}

/// `mesh 1`, `chips 0-7`
pub(super) fn device_name(kind: DeviceKind, numbers: &[u32]) -> String {
    let kind = match (kind, numbers) {
        (DeviceKind::Mesh, _) => "mesh",
        (DeviceKind::Chip, [_]) => "chip",
        (DeviceKind::Chip, _) => "chips",
    };
    format!("{kind} {}", ids(numbers))
}

/// Appends the rows, in columns, to the text.
pub(super) fn put_rows(text: &mut String, rows: Vec<Row>, options: TableOptions) {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).force_no_tty();
    match options.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let has_times = rows.iter().any(|row| !row.time.is_empty());
    for row in rows {
        let Row {
            size,
            count,
            memory,
            time,
            label,
        } = row;
        let time = has_times.then_some(time);
        let before = [size, count, memory].into_iter();
        table.add_row(before.chain(time).chain([label]));
    }
    for column in table.column_iter_mut().take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    put_lines(text, &table.to_string());
}

/// Appends the lines of a drawn table without the blanks at their ends.
pub(super) fn put_lines(text: &mut String, table: &str) {
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
