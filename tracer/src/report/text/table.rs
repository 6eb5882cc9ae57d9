//! The text of a whole summary.

use std::fmt::Write;

use super::baseline_change::put_change;
use super::device_table::{device_rows, draw};
use super::format::{BOLD, RED, count, duration, number, printable, styled, wrapped};
use super::mark_change::put_since_last_mark;
use super::notes::notes;
use super::occupancy_bars::put_maps;
use super::options::TableOptions;
use super::sections::put_sections;
use crate::{
    ledger::Exit,
    report::summary::{AttachSnapshotSummary, ProcessSummary, Summary},
};

/// The summary as lines of text, each ended by a newline. For each process, a table with a row for each
/// device and type of memory that was ever used; beneath it notes, occupancy bars and sections.
pub(crate) fn table(summary: &Summary, options: TableOptions) -> String {
    let mut text = String::new();
    for process in &summary.processes {
        put_process(&mut text, process, options);
        put_since_last_mark(&mut text, summary, process, options);
        text.push('\n');
    }
    for untraced in &summary.untraced {
        let name = format!("{} (pid {})", printable(&untraced.comm), untraced.pid);
        let name = styled(&name, RED, options.colour);
        // Only the first line: a reason may end with a listing of machine code.
        let reason = untraced.reason.lines().next().unwrap_or_default();
        let _infallible = writeln!(text, "{name}: not traced: {}\n", printable(reason));
    }
    if summary.processes.is_empty() {
        text.push_str("No process was traced.\n");
    }
    if let Some(change) = &summary.change {
        put_change(&mut text, change, options);
    }
    text.push_str(&events(summary, options));
    text.push('\n');
    text
}

fn events(summary: &Summary, options: TableOptions) -> String {
    let received = count(summary.events.received, "event");
    let lost = format!("{} lost", number(summary.events.lost));
    let events = match (summary.events.lost, summary.events.exact) {
        (0, true) => format!("{received}, {lost}"),
        (0, false) if !snapshots_are_complete(summary) => {
            let warning = "but not all that was there before attach could be read: live buffers, owners and \
                           leaks may be missing above";
            format!(
                "{received}, {lost}, {}",
                styled(warning, RED, options.colour)
            )
        }
        (0, false) => {
            format!("{received}, {lost}, but some were not seen: see “implied” above")
        }
        _ => {
            let lost = styled(&lost, RED, options.colour);
            format!("{received}, {lost}: the numbers above may be wrong")
        }
    };
    match summary.events.stacks_skipped {
        0 => events,
        skipped => format!(
            "{events}; {} skipped: too many at once to keep",
            count(skipped, "stack")
        ),
    }
}

/// Whether all that processes held before they were attached to could be read.
fn snapshots_are_complete(summary: &Summary) -> bool {
    let processes = summary.processes.iter();
    let mut snapshots = processes.filter_map(|process| process.attach_snapshot.as_ref());
    snapshots.all(AttachSnapshotSummary::is_complete)
}

fn put_process(text: &mut String, process: &ProcessSummary, options: TableOptions) {
    let name = match process.comm.as_str() {
        "" => format!("pid {}", process.pid),
        comm => format!("{} (pid {})", printable(comm), process.pid),
    };
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!(
        "{}: {}, {}",
        styled(&name, BOLD, options.colour),
        ending(process),
        library(process),
    ));
    if process.library.is_none()
        && process.events_received <= u64::from(process.exited_at_ns.is_some())
    {
        return;
    }
    let devices = device_rows(process);
    if devices.is_empty() {
        line("No device memory was allocated.");
    } else {
        let ended = process.exited_at_ns.is_some();
        line(draw(&devices, ended, options).trim_fmt().as_str());
    }
    const INDENT: usize = 14;
    let width = options.width.map_or(usize::MAX, usize::from);
    for (mut what, value) in notes(process) {
        for part in wrapped(&value, width.saturating_sub(INDENT)) {
            line(&format!(" {what:<12} {part}"));
            what = "";
        }
    }
    put_maps(text, process, options);
    put_sections(text, process, options);
}

fn ending(process: &ProcessSummary) -> String {
    let Some(at) = process.exited_at_ns else {
        return "still running".to_owned();
    };
    let after = duration(at.0);
    match process.exit {
        Some(Exit::Code(code)) => format!("exited with code {code} after {after}"),
        Some(Exit::Signal(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("killed by {name} after {after}"),
            None => format!("killed by signal {signal} after {after}"),
        },
        None => format!("ended after {after}, exit status unknown"),
    }
}

fn library(process: &ProcessSummary) -> String {
    let Some(library) = &process.library else {
        // Any event about a buffer, even a free alone, proves that the process has the library.
        let saw_none = process.devices.is_empty()
            && process.bulk_frees == 0
            && process.unmatched_deallocations == 0
            && process.non_owning.unmatched_destroys == 0;
        let none = if saw_none {
            "loaded no TT-Metal"
        } else {
            "TT-Metal of an unknown release"
        };
        return none.to_owned();
    };
    let release = match &library.release {
        Some(release) => format!("TT-Metal {}", printable(release)),
        None => "TT-Metal of an unknown release".to_owned(),
    };
    match &library.build_id {
        Some(build_id) => {
            let short: String = build_id.chars().take(8).collect();
            format!("{release} (build {})", printable(&short))
        }
        None => release,
    }
}
