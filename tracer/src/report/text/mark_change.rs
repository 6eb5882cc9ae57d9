//! Marks: the lines that report one as it is set, and the section beneath a process's table.

use std::collections::BTreeMap;

use super::format::{
    BOLD, bytes, bytes_in_buffers, count, difference, duration, printable, styled,
};
use super::labels::Labels;
use super::options::TableOptions;
use super::rows::{Part, Row, memory_name, part_rows, put_rows};
use crate::{
    frame::{Stack, StackId},
    ledger::{BufferType, Count, Ledger, Mark, Process},
    report::{
        build::{Origins, since_mark},
        summary::{MarkSummary, MemorySince, ProcessSummary, SinceMark, Summary},
    },
};

/// The most rows for what is new, and the most for what is gone.
const MAX_ROWS: usize = 10;

/// The line that reports a new mark: `mark 1 “warm-up”: 12 buffers, 3.00 MiB DRAM live`.
pub(crate) fn mark_line(mark: &Mark, ledger: &Ledger) -> String {
    let running = ledger.processes().values();
    let live = live_by_type(running.filter(|process| process.end().is_none()));
    let name = mark_name(&MarkSummary::from(mark));
    if live.is_empty() {
        return format!("{name}: nothing live");
    }
    let buffers = live.values().map(|total| total.buffers).sum();
    let types = live.iter();
    let types = types.map(|(buffer_type, total)| format!("{} {buffer_type}", bytes(total.bytes)));
    let types: Vec<String> = types.collect();
    format!(
        "{name}: {}, {} live",
        count(buffers, "buffer"),
        types.join(", ")
    )
}

/// The live owning buffers of these processes, by type of memory.
fn live_by_type<'a>(processes: impl Iterator<Item = &'a Process>) -> BTreeMap<BufferType, Count> {
    let mut live: BTreeMap<BufferType, Count> = BTreeMap::new();
    for buffer in processes.flat_map(Process::owning) {
        let buffer = &buffer.buffer;
        live.entry(buffer.buffer_type).or_default().add(buffer.size);
    }
    live
}

/// `mark 1`, `mark 2 “warm-up”`
fn mark_name(mark: &MarkSummary) -> String {
    match &mark.name {
        Some(name) => format!("mark {} “{}”", mark.number, printable(name)),
        None => format!("mark {}", mark.number),
    }
}

/// Appends the section with what has changed in a process since the last mark, if there was one.
pub(super) fn put_since_last_mark(
    text: &mut String,
    summary: &Summary,
    process: &ProcessSummary,
    options: TableOptions,
) {
    if let Some(since) = process.since_marks.last()
        && let Some(mark) = summary.marks.iter().find(|mark| mark.number == since.mark)
    {
        let title = format!("Since {}, at {}", mark_name(mark), duration(mark.at_ns.0));
        text.push('\n');
        put_since(text, &title, since, &Labels::new(&process.stacks), options);
    }
}

/// What has changed in a process since `mark`, for the moment when the next mark is set. `None` if the
/// process had ended by then, or has nothing to do with device memory. `stacks`: those that
/// [`stacks_since_mark`](crate::report::stacks_since_mark) names.
pub(crate) fn changes_since_mark(
    comm: &str,
    pid: u32,
    process: &Process,
    mark: &Mark,
    stacks: &BTreeMap<StackId, Stack>,
    options: TableOptions,
) -> Option<String> {
    let since = since_mark(process, &mut Origins::new(process, stacks), mark.number)?;
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
        &Labels::with_callers(stacks),
        options,
    );
    Some(text)
}

fn put_since(
    text: &mut String,
    title: &str,
    since: &SinceMark,
    labels: &Labels,
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
    let mut rows: Vec<Row> = since
        .memory
        .iter()
        .filter(|memory| is_shown(memory, since))
        .map(total)
        .collect();
    for (sign, groups) in [("+", &since.new), ("−", &since.gone)] {
        let parts = groups.iter().map(|held| Part::in_memory(held, labels));
        rows.extend(part_rows(parts, MAX_ROWS).into_iter().map(|row| Row {
            size: format!("{sign}{}", row.size),
            count: format!("{sign}{}", row.count),
            ..row
        }));
    }
    put_rows(text, rows, options);
}

/// Whether a memory has new or gone buffers of its own. A chip without any only repeats the total of its
/// meshes.
fn is_shown(memory: &MemorySince, since: &SinceMark) -> bool {
    let mut groups = since.new.iter().chain(&since.gone);
    groups.any(|held| held.memory == memory.memory)
}

fn total(since: &MemorySince) -> Row {
    let MemorySince {
        memory,
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
        memory: memory_name(memory),
        time: String::new(),
        label: format!(
            "total: {} before, {} now",
            bytes_in_buffers(then),
            bytes_in_buffers(now)
        ),
    }
}
