//! Beneath a process's table: a bar for each of its maps.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

use super::maps::{Block, MapSummary};
use super::sections::device_name;
use super::words::{BOLD, bytes, styled};
use super::{ProcessSummary, TableOptions};

/// A bar has so many characters, as far as the terminal has room for them.
const LONGEST: usize = 48;
const SHORTEST: usize = 10;

/// Of the part of a bank that a character stands for, all, most, some or nothing is in use.
const FULL: char = '█';
const MOST: char = '▓';
const SOME: char = '▒';
const FREE: char = '░';

/// One line.
struct Row {
    memory: String,
    map: MapSummary,
    free: String,
    largest: String,
    fragmented: String,
}

/// So many failures are shown: of each memory that was asked the first one.
const MOST_FAILURES: usize = 4;

/// Puts the maps of banks that something lies in, or lay in when there was no room for more.
pub fn put_maps(text: &mut String, process: &ProcessSummary, options: TableOptions) {
    let (mut closed, open): (Vec<&MapSummary>, Vec<&MapSummary>) = process
        .maps
        .iter()
        .partition(|map| map.freed_at_ns.is_some());
    let failed = failed(process);
    // What was last tried, perhaps, and shows all already.
    let is_shown = |map: &&MapSummary| {
        let mut failed = failed.iter();
        failed.any(|failed| failed.device_id == map.device_id && is_alike(failed, map))
    };
    closed.retain(|map| !is_shown(map));
    for (title, mut maps) in [
        ("In each bank, when an allocation failed", failed),
        ("In each bank, when its device was closed", closed),
        ("In each bank", open),
    ] {
        maps.retain(|map| map.room.allocated_per_bank.is_some());
        if !maps.is_empty() {
            let title = styled(title, BOLD, options.colour);
            text.push_str(&format!(
                "\n {title} ({FULL} in use {MOST} {SOME} {FREE} free)\n"
            ));
            for line in draw(rows(&maps), options).lines() {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
    }
}

/// What lay where at the first failure of each memory that was asked.
fn failed(process: &ProcessSummary) -> Vec<&MapSummary> {
    let mut maps: Vec<&MapSummary> = Vec::new();
    let memory = |map: &MapSummary| (map.device_kind, map.device_id, map.buffer_type);
    let failures = process.failures.iter();
    for map in failures.filter_map(|failure| failure.map.as_ref()) {
        if maps.len() < MOST_FAILURES && !maps.iter().any(|other| memory(other) == memory(map)) {
            maps.push(map);
        }
    }
    maps
}

/// Whether the same lies, or lay, on both.
fn is_alike(one: &MapSummary, other: &MapSummary) -> bool {
    let memory = |map: &MapSummary| (map.device_kind, map.buffer_type, map.banks);
    let place = |block: &Block| (block.address, block.bytes, block.buffer.is_some());
    let (blocks, others) = (one.blocks.iter(), other.blocks.iter());
    memory(one) == memory(other) && blocks.map(place).eq(others.map(place))
}

/// One for all devices on which the same lies.
fn rows(maps: &[&MapSummary]) -> Vec<Row> {
    let mut alike: Vec<(&MapSummary, Vec<u32>)> = Vec::new();
    for map in maps {
        match alike.iter_mut().find(|(other, _)| is_alike(other, map)) {
            Some((_, ids)) => ids.push(map.device_id),
            None => alike.push((map, vec![map.device_id])),
        }
    }
    let rows = alike.into_iter();
    rows.map(|(map, ids)| Row {
        memory: format!(
            "{}, {}",
            map.buffer_type,
            device_name(map.device_kind, &ids)
        ),
        map: map.clone(),
        free: bytes(map.room.free_per_bank.unwrap_or(0)),
        largest: bytes(map.room.largest_free_per_bank.unwrap_or(0)),
        fragmented: percent(map.room.fragmentation.unwrap_or(0.0)),
    })
    .collect()
}

/// In words. Rounded, but for what isn't quite nothing or all.
fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 1.0 => "< 1 %".to_owned(),
        percent => format!("{} %", percent.round().min(99.0)),
    }
}

fn draw(rows: Vec<Row>, options: TableOptions) -> String {
    let drawn = |length| {
        let mut table = Table::new();
        table
            .load_style(TableStyle::new())
            .force_no_tty()
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["", "", "Free", "Largest block", "Fragmented"]);
        for row in &rows {
            table.add_row([
                row.memory.clone(),
                bar(&row.map, length),
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
    let longest = drawn(LONGEST);
    let Some(width) = options.width.map(usize::from) else {
        return longest;
    };
    let lines = longest.lines().map(|line| line.trim_end().chars().count());
    let beyond = lines.max().unwrap_or(0).saturating_sub(width);
    drawn(LONGEST.saturating_sub(beyond).max(SHORTEST))
}

/// A bank from its lowest address to its highest.
fn bar(map: &MapSummary, length: usize) -> String {
    let start = map.start.unwrap_or(0);
    let bytes = map.end.unwrap_or(start).saturating_sub(start);
    // Where the part of a bank begins that a character stands for.
    let at = |character: usize| {
        let part = u128::from(bytes) * character as u128 / length.max(1) as u128;
        start + u64::try_from(part).unwrap_or(bytes)
    };
    let mut bar = String::new();
    for (from, to) in (0..length).map(|i| (at(i), at(i + 1))) {
        // Of a bank of fewer bytes than there are characters.
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
