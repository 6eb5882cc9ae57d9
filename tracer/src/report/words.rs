//! Numbers, sizes, times and names as a person reads them.

use std::fmt::Write;
use std::time::Duration;

use humansize::{BINARY, format_size};

pub const BOLD: &str = "\x1b[1m";
pub const RED: &str = "\x1b[1;31m";

/// Names come from the target, and could otherwise move the terminal's cursor.
pub fn printable(text: &str) -> String {
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

pub fn styled(text: &str, style: &str, colour: bool) -> String {
    if colour {
        format!("{style}{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// The words in lines of that width; a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
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

/// `0, 1, 4-7`: runs of three and more are drawn together.
pub fn ids(ids: &[u32]) -> String {
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

/// `12.50 MiB`; always two places, so that the points in a column stand one beneath another.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    format_size(bytes, BINARY.decimal_zeroes(2))
}

/// `1,234,567`
pub fn number(number: u64) -> String {
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

/// `1 free`, `2 frees`
pub fn count(count: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        number(count),
        if count == 1 { "" } else { "s" }
    )
}

/// To the millisecond below a minute, to the second above.
pub fn duration(nanoseconds: u64) -> String {
    let duration = Duration::from_nanos(nanoseconds);
    let rounded = if duration < Duration::from_secs(60) {
        Duration::from_millis((nanoseconds + 500_000) / 1_000_000)
    } else {
        Duration::from_secs(duration.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}
