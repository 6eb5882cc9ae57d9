//! From the ledger and the facts to the summary.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::grouping::{Origins, failures, leaks, peaks, stacks, stacks_of, temporary, totals};
use super::maps::maps;
use super::since::since;
use super::{
    Attached, Baseline, BufferSummary, Capacity, DeviceSummary, Events, Host, Library,
    MemorySummary, NonOwning, ProcessSummary, ProgramMemory, SCHEMA_VERSION, Summary, Tool,
    Untraced, Usage,
};
use crate::{
    ledger::{
        Account, BufferType, Device, DeviceAccount, Ledger, LiveBuffer, Mark, Nanoseconds, Process,
        ProcessId,
    },
    origin::Origin,
    stack::{Stack, StackId},
};

/// What the summary says that no event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub tool: Tool,
    pub host: Host,
    /// The wall clock's time at which the events' nanoseconds begin.
    pub started_at: SystemTime,
    /// How long the trace lasted.
    pub duration: Duration,
    /// One for each traced process, in any order. Of two with the same id the first counts.
    pub processes: Vec<ProcessFacts>,
    /// The processes that couldn't be traced, in any order.
    pub untraced: Vec<Untraced>,
    /// Whether each stack is told that is known, for those who read the lines of events, too.
    pub every_stack: bool,
    /// Stacks that the kernel's side skipped, since too many waited.
    pub stacks_skipped: u64,
}

/// What the summary says of a process that no event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    pub id: ProcessId,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// `/proc/PID/cmdline`; empty if it could not be read.
    pub command_line: Vec<String>,
    pub attached: Attached,
    /// In the order in which they were found; empty if the process never loaded one.
    pub libraries: Vec<Library>,
    /// Whether what programs take of L1 is told of any of them.
    pub tells_programs: bool,
    pub baseline: Option<Baseline>,
    pub capacity: BTreeMap<(Device, BufferType), Capacity>,
    /// What the stacks stand for that its events name.
    pub stacks: BTreeMap<StackId, Stack>,
}

impl ProcessFacts {
    /// Facts of a process of which only the pid is known. It claims no more than it must: not that
    /// the tracer was there from the start.
    pub fn unknown(pid: u32) -> Self {
        Self {
            id: ProcessId { pid, generation: 0 },
            comm: String::new(),
            command_line: Vec::new(),
            attached: Attached::Running,
            libraries: Vec::new(),
            tells_programs: false,
            baseline: None,
            capacity: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }
}

impl Summary {
    /// The summary of a trace. It lists each process that the ledger or the facts know.
    pub fn new(ledger: &Ledger, facts: &Facts) -> Self {
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
        // A forked child that did nothing, and of which nobody knows more, is not worth a line.
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
                exact: ledger.is_exact(),
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

/// What all processes of a trace have in common.
#[derive(Clone, Copy)]
struct Trace<'a> {
    end: Nanoseconds,
    /// With how many others in between an allocation that is freed counts as temporary.
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
        tells_programs,
        baseline,
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
        baseline,
        origins: totals(&live_buffers),
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
        program_memory: tells_programs
            .then(|| ProgramMemory::of(process.programs(), &known_stacks)),
        failures: failures(process, &mut origins),
        since_marks: trace
            .marks
            .iter()
            .filter_map(|mark| since(process, &mut origins, mark.number))
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
    let mut told = stacks_of(&summary);
    if trace.every_stack {
        told.extend(known_stacks.keys());
    }
    summary.stacks = stacks(told, &known_stacks);
    summary
}

fn device(
    device: Device,
    account: &DeviceAccount,
    capacity: &BTreeMap<(Device, BufferType), Capacity>,
) -> DeviceSummary {
    let Device { kind, id } = device;
    let DeviceAccount {
        members,
        memory,
        composition: _,
    } = account;
    let of = |buffer_type| Usage {
        capacity: capacity.get(&(device, buffer_type)).copied(),
        ..usage(&memory[buffer_type])
    };
    DeviceSummary {
        id,
        kind,
        members: members.iter().copied().collect(),
        memory: MemorySummary {
            dram: of(BufferType::Dram),
            l1: of(BufferType::L1),
            l1_small: of(BufferType::L1Small),
            trace: of(BufferType::Trace),
            system_memory: of(BufferType::SystemMemory),
        },
    }
}

/// The buffers by device, type and address; the object's own address settles the rest.
fn buffers<'a>(
    live: impl Iterator<Item = &'a LiveBuffer>,
    origins: &mut Origins<'_>,
) -> Vec<BufferSummary> {
    let mut live: Vec<&LiveBuffer> = live.collect();
    live.sort_by_key(|live| {
        let buffer = &live.buffer;
        let shown = BufferType::ALL
            .iter()
            .position(|t| *t == buffer.buffer_type);
        (buffer.device, shown, buffer.address, buffer.object)
    });
    live.into_iter()
        .map(|live| buffer(live, origins.of_buffer(live)))
        .collect()
}

fn buffer(live: &LiveBuffer, origin: Origin) -> BufferSummary {
    let buffer = &live.buffer;
    BufferSummary {
        address: buffer.address,
        size: buffer.size,
        page_size: buffer.page_size,
        buffer_type: buffer.buffer_type,
        layout: buffer.layout,
        bytes_per_bank: buffer.bytes_per_bank,
        device_id: buffer.device.id,
        device_kind: buffer.device.kind,
        unique_id: buffer.unique_id,
        owns_data: live.owns_data(),
        before_attach: live.before_attach(),
        allocated_at_ns: live.since(),
        tid: live.tid(),
        stack: live.stack(),
        origin,
    }
}

fn usage(account: &Account) -> Usage {
    Usage {
        live_bytes: account.live_bytes,
        live_buffers: account.live_buffers,
        peak_bytes: account.peak_bytes,
        peak_at_ns: account.peak_at,
        allocated_bytes: account.allocated_bytes,
        freed_bytes: account.freed_bytes,
        allocations: account.allocations,
        deallocations: account.deallocations,
        capacity: None,
    }
}

/// RFC 3339 in UTC with milliseconds. `humantime` has no word for times before 1970 and from the
/// year 10000 on; no clock that is set at all shows them, so they become the nearest that has one.
fn rfc_3339(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}
