//! The sections beneath a process's table: which stacks allocated what. A section needs at least one
//! captured stack.

use super::format::{BOLD, bytes, count, duration, styled};
use super::labels::{Labels, with_origin};
use super::options::TableOptions;
use super::programs::program_rows;
use super::rows::{Part, Row, memory_name, memory_of_devices, part_rows, put_rows};
use crate::{
    ledger::DeviceKind,
    origin::Origin,
    report::summary::{Failure, Peak, ProcessSummary},
};

/// The most rows of a section, without the row for the others.
const MAX_ROWS: usize = 10;
/// The most rows of each memory's peak, likewise.
const MAX_PEAK_ROWS: usize = 3;

/// Appends the sections that have rows.
pub(super) fn put_sections(text: &mut String, process: &ProcessSummary, options: TableOptions) {
    let labels = Labels::new(&process.stacks);
    let ended = process.exited_at_ns.is_some();
    let live = if ended { "Live at exit" } else { "Live" };
    let within = match process.temporary.within {
        0 => "with no other allocation in between".to_owned(),
        within => format!(
            "with at most {} in between",
            count(within, "other allocation")
        ),
    };
    for (title, rows) in [
        (
            "Out of memory: allocations that failed".to_owned(),
            failures(process, &labels),
        ),
        (
            format!("{live}: where allocated, and how long ago"),
            leaks(process, &labels, Origin::may_leak),
        ),
        (
            format!("{live}: TT-Metal's own, such as cached programs"),
            leaks(process, &labels, |origin| !origin.may_leak()),
        ),
        (
            "Peak: what was live, and when".to_owned(),
            peaks(process, &labels),
        ),
        (
            format!("Temporary: freed {within}"),
            temporary(process, &labels),
        ),
        (
            "Programs in L1: on how many cores, and how often dispatched".to_owned(),
            program_rows(process, &labels),
        ),
    ] {
        if !rows.is_empty() {
            let title = styled(&title, BOLD, options.colour);
            text.push_str(&format!("\n {title}\n"));
            put_rows(text, rows, options);
        }
    }
}

fn failures(process: &ProcessSummary, labels: &Labels) -> Vec<Row> {
    // A program that retries fails many times with the same stack: these share a row.
    let mut alike: Vec<(&Failure, u64)> = Vec::new();
    let key = |failure: &Failure| (failure.memory, failure.size, failure.stack);
    for failure in &process.failures {
        match alike
            .iter_mut()
            .find(|(first, _)| key(first) == key(failure))
        {
            Some((_, times)) => *times += 1,
            None => alike.push((failure, 1)),
        }
    }
    if !alike.iter().any(|(failure, _)| failure.stack.is_some()) {
        return Vec::new();
    }
    let mut rows: Vec<Row> = alike
        .iter()
        .take(MAX_ROWS)
        .map(|(failure, times)| Row {
            size: bytes(failure.size),
            count: count(*times, "time"),
            memory: memory_name(&failure.memory),
            time: format!("at {}", duration(failure.at_ns.0)),
            label: with_origin(labels.stack(failure.stack), failure.origin),
        })
        .collect();
    if let Some(others) = alike.get(MAX_ROWS..).filter(|others| !others.is_empty()) {
        rows.push(Row {
            count: count(others.iter().map(|(_, times)| times).sum(), "time"),
            label: "in other places".to_owned(),
            ..Row::default()
        });
    }
    rows
}

/// The live buffers with the wanted origins.
fn leaks(process: &ProcessSummary, labels: &Labels, wanted: fn(Origin) -> bool) -> Vec<Row> {
    let leaks = &process.leaks;
    if !leaks.iter().any(|leak| leak.held.group.stack.is_some()) {
        return Vec::new();
    }
    let leaks = leaks.iter().filter(|leak| wanted(leak.held.group.origin));
    let parts = leaks.map(|leak| Part::in_memory(&leak.held, labels).aged(leak.oldest_age_ns));
    part_rows(parts, MAX_ROWS)
}

fn temporary(process: &ProcessSummary, labels: &Labels) -> Vec<Row> {
    let groups = &process.temporary.groups;
    if !groups.iter().any(|held| held.group.stack.is_some()) {
        return Vec::new();
    }
    let parts = groups.iter().map(|held| Part::in_memory(held, labels));
    part_rows(parts, MAX_ROWS)
}

fn peaks(process: &ProcessSummary, labels: &Labels) -> Vec<Row> {
    let captured = |peak: &Peak| peak.groups.iter().any(|group| group.stack.is_some());
    if !process.peaks.iter().any(captured) {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (name, peak) in shown_peaks(process) {
        let parts = peak.groups.iter().map(|group| Part::new(group, labels));
        let mut of_peak = part_rows(parts, MAX_PEAK_ROWS);
        if let Some(first) = of_peak.first_mut() {
            first.memory = name;
            first.time = format!("at {}", duration(peak.peak_at_ns.0));
        }
        rows.extend(of_peak);
    }
    rows
}

/// The peaks with the names of their memories: each chip's, where chips with the same peak share one, and
/// those of meshes whose chips aren't known. The peaks of other meshes are part of their chips' peaks.
fn shown_peaks(process: &ProcessSummary) -> Vec<(String, &Peak)> {
    let mut chips: Vec<(Vec<u32>, &Peak)> = Vec::new();
    let mut others = Vec::new();
    for peak in &process.peaks {
        let memory = &peak.memory;
        let key = |peak: &'_ Peak| (peak.memory.buffer_type, peak.peak_bytes);
        let is_alike = |other: &Peak| key(other) == key(peak) && other.groups == peak.groups;
        let mut devices = process.devices.iter();
        let device = devices.find(|d| (d.kind, d.id) == (memory.device_kind, memory.device_id));
        if memory.device_kind == DeviceKind::Chip {
            match chips.iter_mut().find(|(_, other)| is_alike(other)) {
                Some((ids, _)) => ids.push(memory.device_id),
                None => chips.push((vec![memory.device_id], peak)),
            }
        } else if device.is_none_or(|device| device.members.is_empty()) {
            others.push((memory_name(memory), peak));
        }
    }
    let chips = chips.into_iter();
    chips
        .map(|(ids, peak)| (memory_of_devices(&peak.memory, &ids), peak))
        .chain(others)
        .collect()
}
