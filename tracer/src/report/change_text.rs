//! One trace held against an earlier one, as a person reads it.

use super::change::{Compared, Difference, GroupChange, Memory, MemoryChange, ProcessChange};
use super::sections::{Row, device_name, draw, memory};
use super::since_text::difference;
use super::words::{BOLD, bytes, count, printable, styled};
use super::{Change, TableOptions};
use crate::{ledger::Tally, origin::Origin};

/// So many rows have the differences of what is live, and those of the peaks.
const MOST_ROWS: usize = 10;

/// Puts what has changed against an earlier trace.
pub fn put_change(text: &mut String, change: &Change, options: TableOptions) {
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
        same_command: _,
        baseline_leaked_bytes: _,
    } = process;
    if memory.is_empty() {
        return;
    }
    let which = match (pid, baseline_pid) {
        (Some(pid), Some(then)) if process.same_command => format!("pid {pid}, then {then}"),
        (Some(pid), Some(then)) => format!("pid {pid}, then {then} with another command line"),
        (Some(pid), None) => format!("pid {pid}, not there then"),
        (None, then) => format!("not there now, then pid {}", then.unwrap_or_default()),
    };
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!(" {} ({which})", printable(comm)));
    let changed: Vec<&MemoryChange> = memory.iter().filter(|row| row.is_changed(live)).collect();
    if changed.is_empty() {
        line(" The same is live, and the peaks are the same.");
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
        (" Live: more (+) and less (−), by whom", live),
        (" At the peaks: more (+) and less (−), by whom", peaks),
    ] {
        if !rows.is_empty() {
            if !title.is_empty() {
                line(title);
            }
            for row in draw(rows, options).lines() {
                line(row.trim_end());
            }
        }
    }
    if !by_stack {
        line(" Who allocated it can't be compared: one of both has no stacks.");
    }
}

impl MemoryChange {
    /// Whether there is something to say. A chip's total is its meshes', unless something of its own has changed.
    fn is_changed(&self, live: &[GroupChange]) -> bool {
        let is_own = live.iter().any(|group| group.memory == self.memory);
        let differs = self.live.difference != Difference::default()
            || self.baseline_peak_bytes != self.peak_bytes;
        is_own || (differs && !self.is_member)
    }
}

fn total(change: &MemoryChange) -> Row {
    let live = change.live;
    let [then, now] = [change.baseline_peak_bytes, change.peak_bytes];
    let peak = match then == now {
        true => String::new(),
        false => format!("; peak {}", difference(then, now, bytes)),
    };
    Row {
        place: format!("{} then, {} now{peak}", held(live.baseline), held(live.now)),
        ..row(change.memory, live)
    }
}

fn held(tally: Tally) -> String {
    format!("{} in {}", bytes(tally.bytes), tally.buffers)
}

fn row(place: Memory, compared: Compared) -> Row {
    let Compared {
        baseline: then,
        now,
        ..
    } = compared;
    let device = device_name(place.device_kind, &[place.device_id]);
    Row {
        size: difference(then.bytes, now.bytes, bytes),
        count: difference(then.buffers, now.buffers, |buffers| {
            count(buffers, "buffer")
        }),
        memory: memory(place.buffer_type, &device),
        ..Row::default()
    }
}

fn differences<'a>(groups: impl Iterator<Item = &'a GroupChange>) -> Vec<Row> {
    let groups: Vec<&GroupChange> = groups.collect();
    let mut rows: Vec<Row> = groups
        .iter()
        .take(MOST_ROWS)
        .map(|group| {
            let place = printable(&group.place);
            Row {
                place: match group.origin {
                    Origin::Tensor | Origin::Unknown => place,
                    origin => format!("{place} ({origin})"),
                },
                ..row(group.memory, group.buffers)
            }
        })
        .collect();
    if let Some(others) = groups
        .len()
        .checked_sub(MOST_ROWS)
        .filter(|others| *others > 0)
    {
        rows.push(Row {
            place: format!("and in {others} other places"),
            ..Row::default()
        });
    }
    rows
}
