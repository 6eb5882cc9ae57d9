//! Occupancy bars: beneath a process's table, a bar for each of its maps.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

use super::format::{BOLD, bytes, styled};
use super::options::TableOptions;
use super::rows::{memory_of_devices, put_lines};
use crate::report::summary::{Block, MapSummary, ProcessSummary};

/// The length of a bar, in characters, if the terminal has room for it.
const MAX_LENGTH: usize = 48;
const MIN_LENGTH: usize = 10;

/// Each character stands for a part of a bank; it shows whether all, most, some or nothing of it is in use.
const FULL: char = '█';
const MOST: char = '▓';
const SOME: char = '▒';
const FREE: char = '░';

/// One bar with its figures.
struct Row<'a> {
    memory: String,
    map: &'a MapSummary,
    free: String,
    largest: String,
    fragmented: String,
}

/// At most this many failures are shown: the first one of each memory.
const MAX_FAILURES: usize = 4;

/// Appends the maps of banks that hold something, or held something when an allocation failed or their
/// device was closed.
pub(super) fn put_maps(text: &mut String, process: &ProcessSummary, options: TableOptions) {
    let (mut closed, open): (Vec<&MapSummary>, Vec<&MapSummary>) = process
        .maps
        .iter()
        .partition(|map| map.freed_at_ns.is_some());
    let failed = failed(process);
    // The failed allocation may have been the last one, so that its map shows the same.
    let is_shown = |map: &&MapSummary| {
        let mut failed = failed.iter();
        failed
            .any(|failed| failed.memory.device_id == map.memory.device_id && is_alike(failed, map))
    };
    closed.retain(|map| !is_shown(map));
    for (title, mut maps) in [
        ("In each bank, when an allocation failed", failed),
        ("In each bank, when its device was closed", closed),
        ("In each bank", open),
    ] {
        maps.retain(|map| map.space.allocated_per_bank.is_some());
        if !maps.is_empty() {
            let title = styled(title, BOLD, options.colour);
            text.push_str(&format!(
                "\n {title} ({FULL} in use {MOST} {SOME} {FREE} free)\n"
            ));
            put_lines(text, &draw(&rows(&maps), options));
        }
    }
}

/// The maps at the first failure of each memory.
fn failed(process: &ProcessSummary) -> Vec<&MapSummary> {
    let mut maps: Vec<&MapSummary> = Vec::new();
    let failures = process.failures.iter();
    for map in failures.filter_map(|failure| failure.map.as_ref()) {
        if maps.len() < MAX_FAILURES && !maps.iter().any(|other| other.memory == map.memory) {
            maps.push(map);
        }
    }
    maps
}

/// Whether two maps show the same blocks in the same banks, perhaps of different devices.
fn is_alike(one: &MapSummary, other: &MapSummary) -> bool {
    let banks = |map: &MapSummary| {
        let memory = map.memory;
        (memory.device_kind, memory.buffer_type, map.banks)
    };
    let extent = |block: &Block| (block.address, block.bytes, block.buffer.is_some());
    let (blocks, others) = (one.blocks.iter(), other.blocks.iter());
    banks(one) == banks(other) && blocks.map(extent).eq(others.map(extent))
}

/// One row for all devices whose maps are alike.
fn rows<'a>(maps: &[&'a MapSummary]) -> Vec<Row<'a>> {
    let mut alike: Vec<(&MapSummary, Vec<u32>)> = Vec::new();
    for &map in maps {
        match alike.iter_mut().find(|(other, _)| is_alike(other, map)) {
            Some((_, ids)) => ids.push(map.memory.device_id),
            None => alike.push((map, vec![map.memory.device_id])),
        }
    }
    let rows = alike.into_iter();
    rows.map(|(map, ids)| Row {
        memory: memory_of_devices(&map.memory, &ids),
        map,
        free: bytes(map.space.free_per_bank.unwrap_or(0)),
        largest: bytes(map.space.largest_free_per_bank.unwrap_or(0)),
        fragmented: percent(map.space.fragmentation.unwrap_or(0.0)),
    })
    .collect()
}

/// `42 %`; rounded, but only an exact 0 is `0 %` and nothing is `100 %`.
fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 1.0 => "< 1 %".to_owned(),
        percent => format!("{} %", percent.round().min(99.0)),
    }
}

fn draw(rows: &[Row<'_>], options: TableOptions) -> String {
    let with_bars = |length| {
        let mut table = Table::new();
        table
            .load_style(TableStyle::new())
            .force_no_tty()
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["", "", "Free", "Largest block", "Fragmented"]);
        for row in rows {
            table.add_row([
                row.memory.clone(),
                bar(row.map, length),
                row.free.clone(),
                row.largest.clone(),
                row.fragmented.clone(),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    };
    let longest = with_bars(MAX_LENGTH);
    let Some(width) = options.width.map(usize::from) else {
        return longest;
    };
    let lines = longest.lines().map(|line| line.trim_end().chars().count());
    let beyond = lines.max().unwrap_or(0).saturating_sub(width);
    with_bars(MAX_LENGTH.saturating_sub(beyond).max(MIN_LENGTH))
}

/// A bank from its lowest address to its highest.
fn bar(map: &MapSummary, length: usize) -> String {
    let start = map.start.unwrap_or(0);
    let bytes = map.end.unwrap_or(start).saturating_sub(start);
    // The first address of the part of a bank that a character stands for.
    let at = |character: usize| {
        let part = u128::from(bytes) * character as u128 / length.max(1) as u128;
        start + u64::try_from(part).unwrap_or(bytes)
    };
    let mut bar = String::new();
    for (from, to) in (0..length).map(|i| (at(i), at(i + 1))) {
        // A bank may have fewer bytes than the bar has characters.
        let to = to.max(from + 1);
        let used = map.blocks.iter().filter(|block| block.buffer.is_some());
        let within = used.map(|block| {
            let end = block.address + block.bytes.unwrap_or(0);
            end.min(to).saturating_sub(block.address.max(from))
        });
        bar.push(match within.sum::<u64>() {
            0 => FREE,
            used if used >= to - from => FULL,
            used if used >= (to - from) / 2 => MOST,
            _ => SOME,
        });
    }
    bar
}
