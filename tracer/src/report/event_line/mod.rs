//! The lines of `--events`: one JSON object for each event.

mod from_event;
mod line;

use std::io;

use crate::ledger::{Event, Outcome};
pub(crate) use line::EventLine;

/// Writes the lines for an event, each ended by a newline.
///
/// # Errors
/// The errors of `writer`.
pub(crate) fn write_lines(
    writer: &mut impl io::Write,
    event: &Event,
    outcome: &Outcome,
) -> io::Result<()> {
    EventLine::from_event(event, outcome)
        .iter()
        .try_for_each(|line| write_line(writer, line))
}

/// Writes one line, ended by a newline.
///
/// # Errors
/// The errors of `writer`.
pub(crate) fn write_line(writer: &mut impl io::Write, line: &EventLine) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}
