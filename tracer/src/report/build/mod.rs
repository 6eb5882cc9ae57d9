//! From the ledger and the facts to the summary.

mod buffers;
mod facts;
mod groups;
mod maps;
mod origins;
mod programs;
mod since_mark;
mod stacks;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::summary::{
    AttachSnapshotSummary, Events, NonOwning, ProcessSummary, SCHEMA_VERSION, Summary,
};
use crate::ledger::{Ledger, Mark, Nanoseconds, Process, ProcessId};

use buffers::{buffers, device};
pub(crate) use facts::{Facts, ProcessFacts};
use groups::{failures, leaks, origin_totals, peaks, temporary};
use maps::maps;
pub(super) use origins::Origins;
use programs::program_memory;
pub(super) use since_mark::since_mark;
pub(crate) use since_mark::stacks_since_mark;
use stacks::{referenced_stacks, resolve_stacks};

impl Summary {
    /// The summary of a trace. It lists each process that is in the ledger or in the facts.
    pub(crate) fn new(ledger: &Ledger, facts: &Facts) -> Self {
        let Facts {
            tool,
            host,
            started_at,
            duration,
            processes,
            untraced,
            every_stack,
            stacks_skipped,
        } = facts;
        let mut untraced = untraced.clone();
        untraced.sort();
        // Without forked children that did nothing and have no facts.
        let ids: BTreeSet<ProcessId> = ledger
            .processes()
            .iter()
            .filter(|(_, process)| !process.is_silent() || process.end().is_some())
            .map(|(id, _)| *id)
            .chain(processes.iter().map(|p| p.id))
            .collect();
        let silent = Process::default();
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let trace = Trace {
            end: Nanoseconds(duration_ns),
            temporary: ledger.temporary(),
            marks: ledger.marks(),
            every_stack: *every_stack,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            tool: tool.clone(),
            host: host.clone(),
            started_at: rfc_3339(*started_at),
            duration_ns,
            events: Events {
                received: ledger.received(),
                of_programs: ledger
                    .processes()
                    .values()
                    .map(|process| process.programs().counters().received)
                    .sum(),
                lost: ledger.lost(),
                stacks_skipped: *stacks_skipped,
                exact: ledger.is_exact()
                    && processes
                        .iter()
                        .filter_map(|process| process.attach_snapshot.as_ref())
                        .all(AttachSnapshotSummary::is_complete),
            },
            marks: ledger.marks().iter().map(Into::into).collect(),
            processes: ids
                .into_iter()
                .map(|id| {
                    let facts = processes.iter().find(|p| p.id == id).cloned();
                    process_summary(
                        ledger.processes().get(&id).unwrap_or(&silent),
                        facts.unwrap_or_else(|| ProcessFacts::unknown(id.pid)),
                        trace,
                    )
                })
                .collect(),
            untraced,
            change: None,
        }
    }
}

/// What all processes of a trace share.
#[derive(Clone, Copy)]
struct Trace<'a> {
    end: Nanoseconds,
    /// A buffer is temporary if at most this many other allocations lie between its allocation and free.
    temporary: u64,
    marks: &'a [Mark],
    every_stack: bool,
}

fn process_summary(process: &Process, facts: ProcessFacts, trace: Trace<'_>) -> ProcessSummary {
    let ProcessFacts {
        id,
        comm,
        command_line,
        attached,
        libraries,
        traces_programs,
        attach_snapshot,
        capacity,
        stacks: known_stacks,
    } = facts;
    let mut origins = Origins::new(process, &known_stacks);
    let counters = process.counters();
    let end = process.end();
    let last = end.map_or(trace.end, |end| end.at);
    let live_buffers = buffers(process.owning(), &mut origins);
    let mut summary = ProcessSummary {
        pid: id.pid,
        parent_pid: process.parent().map(|parent| parent.pid),
        comm,
        command_line,
        attached,
        exit: end.and_then(|end| end.how),
        exited_at_ns: end.map(|end| end.at),
        library: libraries.first().cloned(),
        libraries,
        devices: process
            .devices()
            .iter()
            .map(|(id, account)| device(*id, account, &capacity))
            .collect(),
        attach_snapshot,
        origins: origin_totals(&live_buffers),
        live_buffers,
        non_owning: NonOwning {
            live: process.non_owning().len() as u64,
            created: counters.created,
            destroyed: counters.destroyed,
            unmatched_destroys: counters.unmatched_destroys,
            implied_destroys: counters.implied_destroys,
            buffers: buffers(process.non_owning(), &mut origins),
        },
        leaks: leaks(process, &mut origins, last),
        peaks: peaks(process, &mut origins),
        maps: maps(process, &mut origins),
        temporary: temporary(process, &mut origins, trace.temporary),
        program_memory: traces_programs.then(|| program_memory(process.programs(), &known_stacks)),
        failures: failures(process, &mut origins),
        since_marks: trace
            .marks
            .iter()
            .filter_map(|mark| since_mark(process, &mut origins, mark.number))
            .collect(),
        stacks: Vec::new(),
        bulk_frees: counters.bulk_frees,
        failed_allocations: counters.failed_allocations,
        unmatched_deallocations: counters.unmatched_deallocations,
        implied_deallocations: counters.implied_deallocations,
        hooked_allocations: counters.hooked_allocations,
        events_received: counters.received,
        events_after_exit: counters.after_exit,
    };
    let mut listed = referenced_stacks(&summary);
    if trace.every_stack {
        listed.extend(known_stacks.keys());
    }
    summary.stacks = resolve_stacks(listed, &known_stacks);
    summary
}

/// RFC 3339 in UTC with milliseconds. `humantime` can't format times before 1970 and from the year 10000
/// on. Only a clock that was never set shows such times; they become the nearest time that it can format.
fn rfc_3339(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}
