//! Beneath a process's table: who allocated what. Each section stands there only if some stack does.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

use super::place::{places, places_with_callers};
use super::programs_table;
use super::words::{BOLD, bytes, count, duration, ids, number, printable, styled};
use super::{Failure, Group, Peak, PlacedGroup, ProcessSummary, StackSummary, TableOptions};
use crate::{
    ledger::{BufferType, DeviceKind, FailedAllocation},
    origin::Origin,
    stack::{Stack, StackId},
};

/// So many rows has a section.
const MOST_ROWS: usize = 10;
/// So many rows has each memory's peak.
const MOST_OF_A_PEAK: usize = 3;

/// One line of a section.
#[derive(Default)]
pub(super) struct Row {
    pub size: String,
    pub count: String,
    pub memory: String,
    pub time: String,
    pub place: String,
}

/// Puts the sections that have something to say.
pub fn put_sections(text: &mut String, process: &ProcessSummary, options: TableOptions) {
    let places = Places::new(&process.stacks);
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
            "Out of memory: what was asked for".to_owned(),
            failures(process, &places),
        ),
        (
            format!("{live}: by whom, and for how long"),
            leaks(process, &places, Origin::may_leak),
        ),
        (
            format!("{live}: TT-Metal's own, such as cached programs"),
            leaks(process, &places, |origin| !origin.may_leak()),
        ),
        (
            "Peak: who held it, and when".to_owned(),
            peaks(process, &places),
        ),
        (
            format!("Temporary: freed {within}"),
            temporary(process, &places),
        ),
        (
            "Programs in L1: on how many cores, and how often dispatched".to_owned(),
            programs_table::rows(process, &places),
        ),
    ] {
        if !rows.is_empty() {
            let title = styled(&title, BOLD, options.colour);
            text.push_str(&format!("\n {title}\n"));
            for line in draw(rows, options).lines() {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
    }
}

/// What is live, by what it is for; `None` where no stack tells more than the table.
pub fn held_for(process: &ProcessSummary) -> Option<String> {
    let known = process
        .origins
        .iter()
        .any(|total| total.origin != Origin::Unknown);
    if process.stacks.is_empty() || !known {
        return None;
    }
    let parts = process.origins.iter().map(|total| {
        let what = match total.origin {
            Origin::Tensor => "tensors",
            Origin::Program => "programs",
            Origin::Trace => "traces",
            Origin::Semaphore => "semaphores",
            Origin::GlobalCircularBuffer => "global circular buffers",
            Origin::System => "the system",
            Origin::View => "views",
            Origin::MeshMember => "meshes' members",
            Origin::Unknown => "unknown",
        };
        format!("{what} {}", bytes(total.live_bytes))
    });
    Some(parts.collect::<Vec<_>>().join(", "))
}

/// The line that tells at once that an allocation failed.
pub fn out_of_memory(comm: &str, pid: u32, failed: &FailedAllocation) -> String {
    let FailedAllocation {
        buffer, live, free, ..
    } = failed;
    let device = device_name(buffer.device.kind, &[buffer.device.id]);
    let held = match live.buffers {
        0 => "nothing was live".to_owned(),
        buffers => format!("{} held {}", count(buffers, "buffer"), bytes(live.bytes)),
    };
    let free = free.map(|(range, free)| {
        let left = match free.bytes {
            0 => "was full".to_owned(),
            _ => format!(
                "had {} free, the largest block {}",
                bytes(free.bytes),
                bytes(free.largest)
            ),
        };
        format!("; each of {} {left}", count(range.banks, "bank"))
    });
    let free = free.unwrap_or_default();
    format!(
        "out of memory: {} (pid {pid}) asked for {} of {} on {device}, where {held}{free}",
        printable(comm),
        bytes(buffer.size),
        buffer.buffer_type,
    )
}

/// The stacks of a process in words.
pub(super) struct Places(BTreeMap<StackId, String>);

impl Places {
    pub fn new(stacks: &[StackSummary]) -> Self {
        Self::of(places(stacks.iter().map(|stack| (stack.id, &stack.stack))))
    }

    /// With a caller each.
    pub fn with_callers<'a>(stacks: impl IntoIterator<Item = (StackId, &'a Stack)>) -> Self {
        Self::of(places_with_callers(stacks))
    }

    fn of(places: BTreeMap<StackId, String>) -> Self {
        let places = places.into_iter();
        Self(places.map(|(id, place)| (id, printable(&place))).collect())
    }

    /// Where a group was allocated, and what for unless that is a tensor.
    fn of_group(&self, group: &Group) -> String {
        if group.before_attach {
            return "there before".to_owned();
        }
        self.of_stack(group.stack, group.origin)
    }

    /// Where something was done.
    pub fn of_stack_alone(&self, stack: Option<StackId>) -> String {
        let place = stack.and_then(|id| self.0.get(&id));
        place
            .map_or("stack not captured", String::as_str)
            .to_owned()
    }

    fn of_stack(&self, stack: Option<StackId>, origin: Origin) -> String {
        let place = self.of_stack_alone(stack);
        match origin {
            Origin::Tensor | Origin::Unknown => place,
            origin => format!("{place} ({origin})"),
        }
    }
}

fn failures(process: &ProcessSummary, places: &Places) -> Vec<Row> {
    // A program that tries again and again fails in one place.
    let mut alike: Vec<(&Failure, u64)> = Vec::new();
    let kind = |failure: &Failure| {
        let memory = (failure.device_kind, failure.device_id, failure.buffer_type);
        (memory, failure.size, failure.stack)
    };
    for failure in &process.failures {
        match alike
            .iter_mut()
            .find(|(first, _)| kind(first) == kind(failure))
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
        .take(MOST_ROWS)
        .map(|(failure, times)| Row {
            size: bytes(failure.size),
            count: count(*times, "time"),
            memory: memory(
                failure.buffer_type,
                &device_name(failure.device_kind, &[failure.device_id]),
            ),
            time: format!("at {}", duration(failure.at_ns.0)),
            place: places.of_stack(failure.stack, failure.origin),
        })
        .collect();
    if let Some(others) = alike.get(MOST_ROWS..).filter(|others| !others.is_empty()) {
        rows.push(Row {
            count: count(others.iter().map(|(_, times)| times).sum(), "time"),
            place: "in other places".to_owned(),
            ..Row::default()
        });
    }
    rows
}

/// What is live of some origins.
fn leaks(process: &ProcessSummary, places: &Places, wanted: fn(Origin) -> bool) -> Vec<Row> {
    let leaks = &process.leaks;
    if !leaks.iter().any(|leak| leak.placed.group.stack.is_some()) {
        return Vec::new();
    }
    let leaks = leaks.iter().filter(|leak| wanted(leak.placed.group.origin));
    let parts = leaks.map(|leak| Part {
        oldest: leak.oldest_age_ns,
        ..Part::placed(&leak.placed, places)
    });
    rows(parts, MOST_ROWS)
}

fn temporary(process: &ProcessSummary, places: &Places) -> Vec<Row> {
    let groups = &process.temporary.groups;
    if !groups.iter().any(|placed| placed.group.stack.is_some()) {
        return Vec::new();
    }
    let parts = groups.iter().map(|placed| Part::placed(placed, places));
    rows(parts, MOST_ROWS)
}

fn peaks(process: &ProcessSummary, places: &Places) -> Vec<Row> {
    let captured = |peak: &Peak| peak.groups.iter().any(|group| group.stack.is_some());
    if !process.peaks.iter().any(captured) {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (name, peak) in devices_peaks(process) {
        let parts = peak.groups.iter().map(|group| Part::new(group, places));
        let mut of_peak = self::rows(parts, MOST_OF_A_PEAK);
        if let Some(first) = of_peak.first_mut() {
            first.memory = memory(peak.buffer_type, &name);
            first.time = format!("at {}", duration(peak.peak_at_ns.0));
        }
        rows.extend(of_peak);
    }
    rows
}

/// Each chip's peaks, those of chips that are alike once; and those of meshes whose chips aren't
/// known: otherwise they are part of their chips'.
fn devices_peaks(process: &ProcessSummary) -> Vec<(String, &Peak)> {
    let mut chips: Vec<(Vec<u32>, &Peak)> = Vec::new();
    let mut others = Vec::new();
    for peak in &process.peaks {
        let alike = |other: &Peak| {
            (other.buffer_type, other.peak_bytes, &other.groups)
                == (peak.buffer_type, peak.peak_bytes, &peak.groups)
        };
        let mut devices = process.devices.iter();
        let device = devices.find(|d| (d.kind, d.id) == (peak.device_kind, peak.device_id));
        if peak.device_kind == DeviceKind::Chip {
            match chips.iter_mut().find(|(_, other)| alike(other)) {
                Some((ids, _)) => ids.push(peak.device_id),
                None => chips.push((vec![peak.device_id], peak)),
            }
        } else if device.is_none_or(|device| device.members.is_empty()) {
            others.push((device_name(peak.device_kind, &[peak.device_id]), peak));
        }
    }
    let chips = chips.into_iter();
    chips
        .map(|(ids, peak)| (device_name(DeviceKind::Chip, &ids), peak))
        .chain(others)
        .collect()
}

/// What was allocated in one place, as a row tells it.
pub(super) struct Part {
    buffers: u64,
    bytes: u64,
    /// Where it lies, unless that is told apart.
    memory: String,
    oldest: Option<u64>,
    place: String,
}

impl Part {
    fn new(group: &Group, places: &Places) -> Self {
        Self {
            buffers: group.buffers,
            bytes: group.bytes,
            memory: String::new(),
            oldest: None,
            place: places.of_group(group),
        }
    }

    pub fn placed(placed: &PlacedGroup, places: &Places) -> Self {
        let device = device_name(placed.device_kind, &[placed.device_id]);
        Self {
            memory: memory(placed.buffer_type, &device),
            ..Self::new(&placed.group, places)
        }
    }
}

/// The rows of so many parts, the largest first, and one row for all others. What a person would read as
/// the same is one part: two operations on one line.
pub(super) fn rows(parts: impl Iterator<Item = Part>, most: usize) -> Vec<Row> {
    let mut told_apart: Vec<Part> = Vec::new();
    for part in parts {
        let alike =
            |other: &&mut Part| (&other.memory, &other.place) == (&part.memory, &part.place);
        match told_apart.iter_mut().find(alike) {
            Some(other) => {
                other.buffers = other.buffers.saturating_add(part.buffers);
                other.bytes = other.bytes.saturating_add(part.bytes);
                other.oldest = other.oldest.max(part.oldest);
            }
            None => told_apart.push(part),
        }
    }
    told_apart.sort_by_key(|part| Reverse(part.bytes));
    // A single one left over would have a row anyway.
    let shown = if told_apart.len() == most + 1 {
        told_apart.len()
    } else {
        most.min(told_apart.len())
    };
    let others = told_apart.split_off(shown);
    let mut rows: Vec<Row> = told_apart
        .into_iter()
        .map(|part| Row {
            size: bytes(part.bytes),
            count: count(part.buffers, "buffer"),
            memory: part.memory,
            time: part.oldest.map(duration).unwrap_or_default(),
            place: part.place,
        })
        .collect();
    if !others.is_empty() {
        let sum = |of: fn(&Part) -> u64| others.iter().map(of).fold(0, u64::saturating_add);
        rows.push(Row {
            size: bytes(sum(|part| part.bytes)),
            count: count(sum(|part| part.buffers), "buffer"),
            place: format!("in {} other places", number(others.len() as u64)),
            ..Row::default()
        });
    }
    rows
}

/// `DRAM, chips 0-7`
pub(super) fn memory(buffer_type: BufferType, device: &str) -> String {
    format!("{buffer_type}, {device}")
}

/// `mesh 1`, `chips 0-7`
pub fn device_name(kind: DeviceKind, numbers: &[u32]) -> String {
    let kind = match (kind, numbers) {
        (DeviceKind::Mesh, _) => "mesh",
        (DeviceKind::Chip, [_]) => "chip",
        (DeviceKind::Chip, _) => "chips",
    };
    format!("{kind} {}", ids(numbers))
}

pub(super) fn draw(rows: Vec<Row>, options: TableOptions) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).force_no_tty();
    match options.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let has_times = rows.iter().any(|row| !row.time.is_empty());
    for row in rows {
        let Row {
            size,
            count,
            memory,
            time,
            place,
        } = row;
        let time = has_times.then_some(time);
        let before = [size, count, memory].into_iter();
        table.add_row(before.chain(time).chain([place]));
    }
    for column in table.column_iter_mut().take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
