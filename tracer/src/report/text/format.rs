//! Numbers, sizes, times and names as text for a person.

use std::cmp::Ordering;
use std::fmt::Write;
use std::time::Duration;

use humansize::{BINARY, format_size};

use crate::ledger::Count;

pub(super) const BOLD: &str = "\x1b[1m";
pub(super) const RED: &str = "\x1b[1;31m";

/// The text without control characters: names come from the target, and could move the terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

pub(super) fn styled(text: &str, style: &str, colour: bool) -> String {
    if colour {
        format!("{style}{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// The text broken into lines of `width` characters; a longer word gets a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `0, 1, 4-7`: runs of three and more become ranges.
pub(super) fn ids(ids: &[u32]) -> String {
    let mut text = String::new();
    let runs = ids.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let parts = runs.flat_map(|run| match run {
        [first, _, .., last] => vec![format!("{first}-{last}")],
        short => short.iter().map(u32::to_string).collect(),
    });
    for part in parts {
        let comma = if text.is_empty() { "" } else { ", " };
        let _infallible = write!(text, "{comma}{part}");
    }
    text
}

/// `12.50 MiB`; always with two decimals, so that the points of a column are aligned.
pub(super) fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    format_size(bytes, BINARY.decimal_zeroes(2))
}

/// The digits in groups of three: `1,234,567`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun: `1 free`, `2 frees`.
pub(super) fn count(count: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        number(count),
        if count == 1 { "" } else { "s" }
    )
}

/// A duration; to the millisecond below a minute, to the second from a minute on.
pub(super) fn duration(nanoseconds: u64) -> String {
    let duration = Duration::from_nanos(nanoseconds);
    let rounded = if duration < Duration::from_secs(60) {
        Duration::from_millis((nanoseconds + 500_000) / 1_000_000)
    } else {
        Duration::from_secs(duration.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}

/// `+2 buffers`, `−1.00 MiB`; `text` formats the amount without its sign.
pub(super) fn difference(then: u64, now: u64, text: impl Fn(u64) -> String) -> String {
    let sign = match now.cmp(&then) {
        Ordering::Less => "−",
        Ordering::Equal => "",
        Ordering::Greater => "+",
    };
    format!("{sign}{}", text(now.abs_diff(then)))
}

/// `12.00 MiB in 2`: bytes and the number of buffers that they are in.
pub(super) fn bytes_in_buffers(total: &Count) -> String {
    format!("{} in {}", bytes(total.bytes), total.buffers)
}
