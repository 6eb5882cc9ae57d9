//! The summary as a person reads it.

use std::collections::BTreeSet;
use std::fmt::Write;

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table,
    TableStyle, Width,
};

use super::bars::put_maps;
use super::change_text::put_change;
use super::programs_table::in_l1;
use super::sections::{held_for, put_sections};
use super::since_text::put_since_last;
use super::words::{BOLD, RED, bytes, count, duration, ids, number, printable, styled, wrapped};
use super::{Attached, DeviceSummary, ProcessSummary, Summary};
use crate::ledger::{DeviceKind, Exit};

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// Whether ANSI colours and bold type may be used.
    pub colour: bool,
    /// The number of columns for the table to stay within; `None` for as wide as it gets.
    pub width: Option<u16>,
}

/// More chips than this with the very same memory share their rows.
const MOST_EQUAL_CHIPS: usize = 4;

const RULE: LineStyle = LineStyle::none().fill('─').junction('─');
const STYLE: TableStyle = TableStyle::new().header_separator(RULE).bottom_border(RULE);

/// The summary as lines of text, the last one ended too. A table for each process with a row for
/// each device and type of memory that was ever used, and beneath it what is in no row.
pub fn table(summary: &Summary, options: TableOptions) -> String {
    let mut text = String::new();
    for process in &summary.processes {
        put_process(&mut text, process, options);
        put_since_last(&mut text, summary, process, options);
        text.push('\n');
    }
    for untraced in &summary.untraced {
        let name = format!("{} (pid {})", printable(&untraced.comm), untraced.pid);
        let name = styled(&name, RED, options.colour);
        // Only the first line of a reason that may show code.
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
    let told = match (summary.events.lost, summary.events.exact) {
        (0, true) => format!("{received}, {lost}"),
        (0, false) => format!("{received}, {lost}, but some were never seen: see “implied” above"),
        _ => {
            let lost = styled(&lost, RED, options.colour);
            format!("{received}, {lost}: the numbers above may be wrong")
        }
    };
    match summary.events.stacks_skipped {
        0 => told,
        skipped => format!(
            "{told}; too many at once to keep {}",
            count(skipped, "stack")
        ),
    }
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
    let blocks = blocks(process);
    if blocks.is_empty() {
        line("No device memory was allocated.");
    } else {
        line(
            draw(&blocks, process.exited_at_ns.is_some(), options)
                .trim_fmt()
                .as_str(),
        );
    }
    const INDENT: usize = 14;
    let width = options.width.map_or(usize::MAX, usize::from);
    for (mut what, value) in beneath(process) {
        for part in wrapped(&value, width.saturating_sub(INDENT)) {
            line(&format!(" {what:<12} {part}"));
            what = "";
        }
    }
    put_maps(text, process, options);
    put_sections(text, process, options);
}

/// The rows of one device, or of several that are all alike.
struct Block<'a> {
    name: String,
    device: &'a DeviceSummary,
}

/// Chips, whose rows are totals, then meshes, whose rows are part of their chips' totals. One block
/// stands for both where a mesh is one chip and all that lies on it.
fn blocks(process: &ProcessSummary) -> Vec<Block<'_>> {
    let used = |device: &&DeviceSummary| device.memory.iter().any(|(_, usage)| usage.is_used());
    let of_kind = |kind| {
        process
            .devices
            .iter()
            .filter(used)
            .filter(move |device| device.kind == kind)
    };
    let mut chips: Vec<_> = of_kind(DeviceKind::Chip).collect();
    let mut meshes = Vec::new();
    let mut same = Vec::new();
    for mesh in of_kind(DeviceKind::Mesh) {
        let only = chips
            .iter()
            .position(|chip| mesh.members == [chip.id] && mesh.memory.is_used_like(&chip.memory));
        if let Some(chip) = only.map(|position| chips.remove(position)) {
            let name = format!("mesh {} = chip {}", mesh.id, chip.id);
            same.push(Block { name, device: chip });
        } else {
            meshes.push(Block {
                name: mesh_name(mesh),
                device: mesh,
            });
        }
    }
    let mut blocks = chip_blocks(&chips);
    blocks.extend(same);
    blocks.extend(meshes);
    blocks
}

fn mesh_name(mesh: &DeviceSummary) -> String {
    match mesh.members.as_slice() {
        [] => format!("mesh {} (chips unknown), on each", mesh.id),
        [chip] => format!("mesh {} (chip {chip}), its part", mesh.id),
        chips => format!("mesh {} (chips {}), on each", mesh.id, ids(chips)),
    }
}

fn chip_blocks<'a>(chips: &[&'a DeviceSummary]) -> Vec<Block<'a>> {
    let mut done: BTreeSet<u32> = BTreeSet::new();
    let mut blocks = Vec::new();
    for &chip in chips {
        if done.contains(&chip.id) {
            continue;
        }
        let alike: Vec<u32> = chips
            .iter()
            .filter(|other| other.memory.is_used_like(&chip.memory))
            .map(|other| other.id)
            .collect();
        let name = if alike.len() > MOST_EQUAL_CHIPS {
            done.extend(&alike);
            format!("chips {}, total of each", ids(&alike))
        } else {
            format!("chip {}, total", chip.id)
        };
        blocks.push(Block { name, device: chip });
    }
    blocks
}

/// The table; without the capacity where the terminal has no room for that.
fn draw(blocks: &[Block<'_>], ended: bool, options: TableOptions) -> Table {
    let has_capacity = blocks.iter().any(|block| {
        let mut memory = block.device.memory.iter();
        memory.any(|(_, usage)| usage.is_used() && usage.capacity.is_some())
    });
    let has_room = || {
        let unlimited = TableOptions {
            width: None,
            colour: false,
        };
        let natural = draw_with(blocks, ended, unlimited, true).to_string();
        let widest = natural.lines().map(|line| line.chars().count()).max();
        options
            .width
            .is_none_or(|width| widest <= Some(usize::from(width)))
    };
    draw_with(blocks, ended, options, has_capacity && has_room())
}

fn draw_with(
    blocks: &[Block<'_>],
    ended: bool,
    options: TableOptions,
    has_capacity: bool,
) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic);
    // What the width and the colours are is for the caller to find out.
    table.force_no_tty();
    if options.colour {
        table.enforce_styling();
    }
    match options.width {
        Some(width) => table.set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let live = if ended { "Live at exit" } else { "Live" };
    let titles = [
        "Device",
        "Memory",
        live,
        "Buffers",
        "Peak",
        "Allocations",
        "Frees",
        "Capacity",
    ];
    let columns = titles.len() - usize::from(!has_capacity);
    let header = titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold));
    table.set_header(header.into_iter().take(columns));
    for block in blocks {
        let mut name = block.name.as_str();
        for (buffer_type, usage) in block
            .device
            .memory
            .iter()
            .filter(|(_, usage)| usage.is_used())
        {
            let capacity = usage.capacity.map(|capacity| bytes(capacity.bytes()));
            let row = [
                name.to_owned(),
                buffer_type.to_string(),
                bytes(usage.live_bytes),
                number(usage.live_buffers),
                bytes(usage.peak_bytes),
                number(usage.allocations),
                number(usage.deallocations),
                capacity.unwrap_or_default(),
            ];
            table.add_row(row.into_iter().take(columns));
            name = "";
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // Without it, a terminal of 80 columns breaks the word.
    if let Some(allocations) = table.column_mut(5) {
        allocations.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(13)));
    }
    table
}

/// What is in no row: each with a name and a value.
fn beneath(process: &ProcessSummary) -> Vec<(&'static str, String)> {
    let non_owning = &process.non_owning;
    let mut lines = vec![(
        "non-owning",
        format!(
            "{} live, {} created, {} destroyed; they hold no memory, so are in no total",
            number(non_owning.live),
            number(non_owning.created),
            number(non_owning.destroyed),
        ),
    )];
    let mut unless_zero = |number: u64, what, value: String| {
        if number > 0 {
            lines.push((what, value));
        }
    };
    let bulk = process.bulk_frees;
    unless_zero(
        bulk,
        "bulk frees",
        format!("{}, of all that a device held", number(bulk)),
    );
    let failed = process.failed_allocations;
    unless_zero(failed, "failed", count(failed, "allocation"));
    let hooked = process.hooked_allocations;
    let value = format!(
        "{} by a graph capture, without memory",
        count(hooked, "allocation")
    );
    unless_zero(hooked, "hooked", value);
    let (unmatched, value) = ends(
        process.unmatched_deallocations,
        non_owning.unmatched_destroys,
    );
    let value = format!("{value} of buffers that were there before, or whose birth was lost");
    unless_zero(unmatched, "unmatched", value);
    let (implied, value) = ends(process.implied_deallocations, non_owning.implied_destroys);
    let value = format!("{value} never seen, but proven by what came after");
    unless_zero(implied, "implied", value);
    let late = process.events_after_exit;
    unless_zero(
        late,
        "after exit",
        format!("{}, not counted", count(late, "event")),
    );
    if process.attached == Attached::Running {
        lines.push(("attached", before(process)));
    }
    if let Some(what_for) = held_for(process) {
        lines.push(("held for", what_for));
    }
    let mut what = "programs";
    for line in process.program_memory.iter().flat_map(in_l1) {
        lines.push((what, line));
        what = "";
    }
    lines
}

/// What is known of the time before the tracer came.
fn before(process: &ProcessSummary) -> String {
    let Some(baseline) = &process.baseline else {
        return "while it ran: what it held before is not counted".to_owned();
    };
    let mut text = format!(
        "while it ran: {} of {} {} there before",
        count(baseline.buffers, "buffer"),
        bytes(baseline.bytes),
        if baseline.buffers == 1 { "was" } else { "were" },
    );
    if !baseline.problems.is_empty() {
        let unknown = bytes(baseline.unknown_bytes);
        let _ = write!(text, ", but not all could be read ({unknown} unknown)");
    }
    text
}

/// Ends of buffers of either kind: how many together, and in words.
fn ends(frees: u64, destructions: u64) -> (u64, String) {
    let free = count(frees, "free");
    let destruction = count(destructions, "destruction");
    let words = match (frees, destructions) {
        (_, 0) => free,
        (0, _) => destruction,
        _ => format!("{free} and {destruction}"),
    };
    (frees.saturating_add(destructions), words)
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
        None => format!("ended after {after}, how is not known"),
    }
}

fn library(process: &ProcessSummary) -> String {
    let Some(library) = &process.library else {
        // A buffer, even one of which only the end was seen, is proof of a library.
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
