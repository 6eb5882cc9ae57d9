//! The comparison with a baseline.

use super::format::{BOLD, bytes, bytes_in_buffers, count, difference, printable, styled};
use super::labels::{BEFORE_ATTACH, with_origin};
use super::options::TableOptions;
use super::rows::{Row, memory_name, put_rows};
use crate::report::summary::{
    Change, Compared, DeviceMemory, Difference, GroupChange, MemoryChange, ProcessChange,
};

/// The most rows for the differences of what is live, and the most for those of the peaks.
const MAX_ROWS: usize = 10;

/// Appends what has changed since the baseline.
pub(super) fn put_change(text: &mut String, change: &Change, options: TableOptions) {
    let title = format!(
        "Change against {}, of {}",
        printable(&change.path),
        printable(&change.started_at)
    );
    text.push_str(&styled(&title, BOLD, options.colour));
    text.push('\n');
    for process in &change.processes {
        put_process(text, process, options);
    }
    text.push('\n');
}

fn put_process(text: &mut String, process: &ProcessChange, options: TableOptions) {
    let ProcessChange {
        pid,
        baseline_pid,
        comm,
        memory,
        by_stack,
        live,
        peaks,
        same_command,
        baseline_leaked_bytes: _,
    } = process;
    if memory.is_empty() {
        return;
    }
    let which = match (pid, baseline_pid) {
        (Some(pid), Some(then)) if *same_command => format!("pid {pid}, baseline pid {then}"),
        (Some(pid), Some(then)) => {
            format!("pid {pid}, baseline pid {then} with another command line")
        }
        (Some(pid), None) => format!("pid {pid}, not in the baseline"),
        (None, then) => format!(
            "not in this trace, baseline pid {}",
            then.unwrap_or_default()
        ),
    };
    text.push_str(&format!(" {} ({which})\n", printable(comm)));
    let changed: Vec<&MemoryChange> = memory.iter().filter(|row| is_changed(row, live)).collect();
    if changed.is_empty() {
        text.push_str(" The same is live, and the peaks are the same.\n");
    }
    let totals = changed.into_iter().map(total).collect();
    let live = differences(live.iter());
    let is_shown = |group: &&GroupChange| {
        let mut rows = memory.iter();
        !rows.any(|row| row.memory == group.memory && row.is_member)
    };
    let peaks = differences(peaks.iter().filter(is_shown));
    for (title, rows) in [
        ("", totals),
        (
            " Live: more (+) and less (−), by where it was allocated\n",
            live,
        ),
        (
            " At the peaks: more (+) and less (−), by where it was allocated\n",
            peaks,
        ),
    ] {
        if !rows.is_empty() {
            text.push_str(title);
            put_rows(text, rows, options);
        }
    }
    if !by_stack {
        text.push_str(" Stacks can't be compared: one of the two traces has none.\n");
    }
}

/// Whether a memory has a row. A chip of a mesh without changed groups of its own only repeats the total of
/// its meshes.
fn is_changed(change: &MemoryChange, live: &[GroupChange]) -> bool {
    let has_own = live.iter().any(|group| group.memory == change.memory);
    let differs = change.live.difference != Difference::default()
        || change.baseline_peak_bytes != change.peak_bytes;
    has_own || (differs && !change.is_member)
}

fn total(change: &MemoryChange) -> Row {
    let live = change.live;
    let [then, now] = [change.baseline_peak_bytes, change.peak_bytes];
    let peak = match then == now {
        true => String::new(),
        false => format!("; peak {}", difference(then, now, bytes)),
    };
    Row {
        label: format!(
            "{} then, {} now{peak}",
            bytes_in_buffers(&live.baseline),
            bytes_in_buffers(&live.now)
        ),
        ..row(&change.memory, live)
    }
}

fn row(memory: &DeviceMemory, compared: Compared) -> Row {
    let Compared {
        baseline: then,
        now,
        ..
    } = compared;
    Row {
        size: difference(then.bytes, now.bytes, bytes),
        count: difference(then.buffers, now.buffers, |buffers| {
            count(buffers, "buffer")
        }),
        memory: memory_name(memory),
        ..Row::default()
    }
}

fn differences<'a>(groups: impl Iterator<Item = &'a GroupChange>) -> Vec<Row> {
    let groups: Vec<&GroupChange> = groups.collect();
    let mut rows: Vec<Row> = groups
        .iter()
        .take(MAX_ROWS)
        .map(|group| Row {
            label: {
                let label = match group.before_attach {
                    true => BEFORE_ATTACH.to_owned(),
                    false => printable(&group.label),
                };
                with_origin(label, group.origin)
            },
            ..row(&group.memory, group.buffers)
        })
        .collect();
    if let Some(others) = groups
        .len()
        .checked_sub(MAX_ROWS)
        .filter(|others| *others > 0)
    {
        rows.push(Row {
            label: format!("in {others} other places"),
            ..Row::default()
        });
    }
    rows
}
