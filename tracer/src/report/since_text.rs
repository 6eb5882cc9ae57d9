//! Marks as a person reads of them: as they are set, and beneath the table.

use std::collections::{BTreeMap, BTreeSet};

use super::grouping::Origins;
use super::sections::{Part, Places, Row, device_name, draw, memory, rows};
use super::since::{live, since};
use super::words::{BOLD, bytes, count, duration, printable, styled};
use super::{
    MarkSummary, MemorySince, PlacedGroup, ProcessSummary, SinceMark, Summary, TableOptions,
};
use crate::{
    ledger::{Ledger, LiveBuffer, Mark, Process, Tally},
    stack::{Stack, StackId},
};

/// So many rows have what is new and what is gone.
const MOST_ROWS: usize = 10;

/// The line that tells at once that a mark was set: `mark 1 “warm-up”: 12 buffers, 3.00 MiB DRAM live`.
pub fn mark_set(mark: &Mark, ledger: &Ledger) -> String {
    let running = ledger.processes().values();
    let live = live(running.filter(|process| process.end().is_none()));
    let name = mark_name(&MarkSummary::from(mark));
    if live.is_empty() {
        return format!("{name}: nothing live");
    }
    let buffers = live.values().map(|tally| tally.buffers).sum();
    let types = live.iter();
    let types = types.map(|(buffer_type, tally)| format!("{} {buffer_type}", bytes(tally.bytes)));
    let types: Vec<String> = types.collect();
    format!(
        "{name}: {}, {} live",
        count(buffers, "buffer"),
        types.join(", ")
    )
}

/// `mark 1`, `mark 2 “warm-up”`
fn mark_name(mark: &MarkSummary) -> String {
    match &mark.name {
        Some(name) => format!("mark {} “{}”", mark.number, printable(name)),
        None => format!("mark {}", mark.number),
    }
}

/// Puts what has changed in a process since the last mark, if there was one.
pub fn put_since_last(
    text: &mut String,
    summary: &Summary,
    process: &ProcessSummary,
    options: TableOptions,
) {
    let marks = summary.marks.iter();
    if let Some(since) = process.since_marks.last()
        && let Some(mark) = marks.clone().find(|mark| mark.number == since.mark)
    {
        let title = format!("Since {}, at {}", mark_name(mark), duration(mark.at_ns.0));
        text.push('\n');
        put_since(text, &title, since, &Places::new(&process.stacks), options);
    }
}

/// The stacks of what is new since a mark and of what is gone.
pub fn stacks_since(process: &Process, mark: u32) -> BTreeSet<StackId> {
    let Some(since) = process.since(mark) else {
        return BTreeSet::new();
    };
    let new = process.owning().filter(|live| since.is_new(live));
    let gone = since.gone().into_keys();
    let gone = gone.filter_map(|(_, _, source)| source.stack());
    new.filter_map(LiveBuffer::stack).chain(gone).collect()
}

/// What has changed in a process since a mark, as it is told when the next one is set; `None` if it had
/// ended by then, or has nothing to do with device memory. `stacks`: what [`stacks_since`] names.
pub fn changed_since(
    comm: &str,
    pid: u32,
    process: &Process,
    mark: &Mark,
    stacks: &BTreeMap<StackId, Stack>,
    options: TableOptions,
) -> Option<String> {
    let since = since(process, &mut Origins::new(process, stacks), mark.number)?;
    if process.is_silent() {
        return None;
    }
    let name = mark_name(&MarkSummary::from(mark));
    let title = format!("{} (pid {pid}) since {name}", printable(comm));
    let stacks = stacks.iter().map(|(id, stack)| (*id, stack));
    let mut text = String::new();
    put_since(
        &mut text,
        &title,
        &since,
        &Places::with_callers(stacks),
        options,
    );
    Some(text)
}

fn put_since(
    text: &mut String,
    title: &str,
    since: &SinceMark,
    places: &Places,
    options: TableOptions,
) {
    let what = if since.is_unchanged() {
        "nothing new is live, nothing is gone"
    } else {
        "what is new (+) and what is gone (−)"
    };
    let title = styled(&format!("{title}: {what}"), BOLD, options.colour);
    text.push_str(&format!(" {title}\n"));
    if since.is_unchanged() {
        return;
    }
    let mut all: Vec<Row> = since
        .memory
        .iter()
        .filter(|memory| is_shown(memory, since))
        .map(total)
        .collect();
    for (sign, groups) in [("+", &since.new), ("−", &since.gone)] {
        let parts = groups.iter().map(|placed| Part::placed(placed, places));
        all.extend(rows(parts, MOST_ROWS).into_iter().map(|row| Row {
            size: format!("{sign}{}", row.size),
            count: format!("{sign}{}", row.count),
            ..row
        }));
    }
    for line in draw(all, options).lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Where something is new or gone. A chip's total is its meshes', unless something of its own has changed.
fn is_shown(memory: &MemorySince, since: &SinceMark) -> bool {
    let is_there = |placed: &PlacedGroup| {
        (placed.device_kind, placed.device_id, placed.buffer_type)
            == (memory.device_kind, memory.device_id, memory.buffer_type)
    };
    since.new.iter().chain(&since.gone).any(is_there)
}

fn total(since: &MemorySince) -> Row {
    let MemorySince {
        device_kind,
        device_id,
        buffer_type,
        then,
        now,
        allocated: _,
        freed: _,
    } = since;
    Row {
        size: difference(then.bytes, now.bytes, bytes),
        count: difference(then.buffers, now.buffers, |buffers| {
            count(buffers, "buffer")
        }),
        memory: memory(*buffer_type, &device_name(*device_kind, &[*device_id])),
        time: String::new(),
        place: format!("in all: {} before, {} now", held(then), held(now)),
    }
}

fn held(tally: &Tally) -> String {
    format!("{} in {}", bytes(tally.bytes), tally.buffers)
}

/// `+2 buffers`, `−1.00 MiB`
pub fn difference(then: u64, now: u64, words: impl Fn(u64) -> String) -> String {
    let sign = match now.cmp(&then) {
        std::cmp::Ordering::Less => "−",
        std::cmp::Ordering::Equal => "",
        std::cmp::Ordering::Greater => "+",
    };
    format!("{sign}{}", words(now.abs_diff(then)))
}
