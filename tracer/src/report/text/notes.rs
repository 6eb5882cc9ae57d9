//! The notes beneath a process's table: what is in no row.

use std::fmt::Write;

use super::format::{bytes, count, number};
use super::programs::program_notes;
use crate::{
    origin::Origin,
    report::summary::{Attached, ProcessSummary},
};

/// The notes, each with a name and a text. A note without a name belongs to the one before it.
pub(super) fn notes(process: &ProcessSummary) -> Vec<(&'static str, String)> {
    let non_owning = &process.non_owning;
    let mut notes = vec![(
        "non-owning",
        format!(
            "{} live, {} created, {} destroyed; they hold no memory, so are in no total",
            number(non_owning.live),
            number(non_owning.created),
            number(non_owning.destroyed),
        ),
    )];
    let mut unless_zero = |number: u64, name, text: String| {
        if number > 0 {
            notes.push((name, text));
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
    let text = format!(
        "{} by a graph capture, without memory",
        count(hooked, "allocation")
    );
    unless_zero(hooked, "hooked", text);
    let (unmatched, text) = ends(
        process.unmatched_deallocations,
        non_owning.unmatched_destroys,
    );
    let text = format!("{text} of buffers from before attach, or whose allocation was lost");
    unless_zero(unmatched, "unmatched", text);
    let (implied, text) = ends(process.implied_deallocations, non_owning.implied_destroys);
    let text = format!("{text} not seen, but proven by later events");
    unless_zero(implied, "implied", text);
    let late = process.events_after_exit;
    unless_zero(
        late,
        "after exit",
        format!("{}, not counted", count(late, "event")),
    );
    if process.attached == Attached::Running {
        notes.push(("attached", before_attach(process)));
    }
    if let Some(text) = held_for(process) {
        notes.push(("held for", text));
    }
    let mut name = "programs";
    for text in process.program_memory.iter().flat_map(program_notes) {
        notes.push((name, text));
        name = "";
    }
    notes
}

/// What is known of the time before the tracer attached.
fn before_attach(process: &ProcessSummary) -> String {
    let Some(snapshot) = &process.attach_snapshot else {
        return "to a running process: what it held before is not counted".to_owned();
    };
    let mut text = format!(
        "to a running process, which held {} of {}",
        count(snapshot.buffers, "buffer"),
        bytes(snapshot.bytes),
    );
    if !snapshot.problems.is_empty() {
        let unknown = bytes(snapshot.unknown_bytes);
        let _infallible = write!(text, ", but not all could be read ({unknown} unknown)");
    }
    text
}

/// The number of frees and destructions together, and the text for it.
fn ends(frees: u64, destructions: u64) -> (u64, String) {
    let free = count(frees, "free");
    let destruction = count(destructions, "destruction");
    let text = match (frees, destructions) {
        (_, 0) => free,
        (0, _) => destruction,
        _ => format!("{free} and {destruction}"),
    };
    (frees.saturating_add(destructions), text)
}

/// The live bytes by origin; `None` if no stack is known to add anything to the table.
fn held_for(process: &ProcessSummary) -> Option<String> {
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
            Origin::MeshMember => "mesh members",
            Origin::Unknown => "unknown",
        };
        format!("{what} {}", bytes(total.live_bytes))
    });
    Some(parts.collect::<Vec<_>>().join(", "))
}
