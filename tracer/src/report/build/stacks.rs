//! The stacks that a process's summary lists.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    frame::{Stack, StackId},
    report::summary::{ProcessSummary, StackSummary},
};

/// The stacks that the summary of a process refers to.
pub(super) fn referenced_stacks(process: &ProcessSummary) -> BTreeSet<StackId> {
    let buffers = process.live_buffers.iter();
    let buffers = buffers.chain(&process.non_owning.buffers);
    let leaks = process.leaks.iter().map(|leak| &leak.held.group);
    let peaks = process.peaks.iter().flat_map(|peak| &peak.groups);
    let temporary = process.temporary.groups.iter().map(|held| &held.group);
    let at_failures = process.failures.iter().flat_map(|failure| &failure.largest);
    let programs = process.program_memory.iter().flat_map(|of| &of.programs);
    let since_marks = process.since_marks.iter();
    let since_marks = since_marks
        .flat_map(|since| since.new.iter().chain(&since.gone))
        .map(|held| &held.group);
    let maps = process
        .failures
        .iter()
        .filter_map(|failure| failure.map.as_ref());
    let blocks = process.maps.iter().chain(maps).flat_map(|map| &map.blocks);
    let in_maps = blocks.filter_map(|block| block.buffer.as_ref());
    let groups = leaks
        .chain(peaks)
        .chain(temporary)
        .chain(at_failures)
        .chain(since_marks);
    buffers
        .map(|buffer| buffer.stack)
        .chain(groups.map(|group| group.stack))
        .chain(process.failures.iter().map(|failure| failure.stack))
        .chain(programs.map(|program| program.stack))
        .chain(in_maps.map(|buffer| buffer.stack))
        .flatten()
        .collect()
}

/// The stacks with these ids. A stack that wasn't read is listed without frames, so that each reference
/// resolves.
pub(super) fn resolve_stacks(
    ids: BTreeSet<StackId>,
    known: &BTreeMap<StackId, Stack>,
) -> Vec<StackSummary> {
    ids.into_iter()
        .map(|id| StackSummary {
            id,
            stack: known.get(&id).cloned().unwrap_or_else(|| Stack {
                frames: Vec::new(),
                broken: Some("it was not read".to_owned()),
            }),
        })
        .collect()
}
