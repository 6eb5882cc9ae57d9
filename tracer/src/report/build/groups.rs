//! Groups of buffers by stack, from the ledger.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::maps::map;
use super::origins::Origins;
use crate::{
    ledger::{
        BankRange, BufferType, Count, FailedAllocation, FreeSpace, GroupKey, Nanoseconds, Process,
    },
    origin::Origin,
    report::summary::{BufferSummary, DeviceMemory, Failure, Leak, OriginTotal, Peak, Temporary},
};

/// The live owning buffers, grouped by stack; the largest group first. `end`: the time at which ages are
/// taken.
pub(super) fn leaks(process: &Process, origins: &mut Origins<'_>, end: Nanoseconds) -> Vec<Leak> {
    struct Live {
        total: Count,
        /// When the first and the last of them were allocated; `None` if all are from before attach.
        allocated: Option<(Nanoseconds, Nanoseconds)>,
    }
    let mut groups: BTreeMap<GroupKey, Live> = BTreeMap::new();
    for live in process.owning() {
        let buffer = &live.buffer;
        let key = live.group_key();
        let group = groups.entry(key).or_insert(Live {
            total: Count::default(),
            allocated: None,
        });
        group.total.add(buffer.size);
        if let Some(at) = live.since() {
            let (first, last) = group.allocated.unwrap_or((at, at));
            group.allocated = Some((first.min(at), last.max(at)));
        }
    }
    let age = |since: Nanoseconds| end.0.saturating_sub(since.0);
    let mut leaks: Vec<Leak> = groups
        .into_iter()
        .map(|(key, Live { total, allocated })| Leak {
            held: origins.memory_group(key, total),
            oldest_age_ns: allocated.map(|(first, _)| age(first)),
            youngest_age_ns: allocated.map(|(_, last)| age(last)),
        })
        .collect();
    leaks.sort_by_key(|leak| Reverse(leak.held.group.bytes));
    leaks
}

/// The peak of each type of memory that was in use, by device and type.
pub(super) fn peaks(process: &Process, origins: &mut Origins<'_>) -> Vec<Peak> {
    let mut peaks = Vec::new();
    for (device, account) in process.devices() {
        for buffer_type in BufferType::ALL {
            let memory = &account.memory[buffer_type];
            if memory.peak_bytes == 0 {
                continue;
            }
            let parts = account.composition[buffer_type].peak().into_iter();
            let mut groups: Vec<_> = parts
                .map(|(source, total)| origins.group(source, buffer_type, total))
                .collect();
            groups.sort_by_key(|group| Reverse(group.bytes));
            peaks.push(Peak {
                memory: DeviceMemory {
                    device_kind: device.kind,
                    device_id: device.id,
                    buffer_type,
                },
                peak_bytes: memory.peak_bytes,
                peak_at_ns: memory.peak_at,
                groups,
            });
        }
    }
    peaks
}

/// Buffers that were freed soon after their allocation.
pub(super) fn temporary(process: &Process, origins: &mut Origins<'_>, within: u64) -> Temporary {
    // In a fixed order, so that groups of one size always stand in the same one.
    let totals: BTreeMap<&GroupKey, &Count> = process.temporary().iter().collect();
    let totals = totals.into_iter().map(|(key, total)| (*key, *total));
    Temporary {
        within,
        groups: origins.memory_groups(totals),
    }
}

/// The first allocations that failed.
pub(super) fn failures(process: &Process, origins: &mut Origins<'_>) -> Vec<Failure> {
    let failures = process.failed_allocations().iter();
    failures.map(|failed| failure(failed, origins)).collect()
}

fn failure(failed: &FailedAllocation, origins: &mut Origins<'_>) -> Failure {
    let FailedAllocation {
        buffer,
        at,
        tid,
        stack,
        live,
        largest,
        rest,
        free,
        space,
        ..
    } = failed;
    let buffer_type = buffer.buffer_type;
    let of_all_banks = |of: fn(&FreeSpace) -> u64| {
        let free = free.as_ref();
        free.map(|(range, free): &(BankRange, FreeSpace)| range.banks.saturating_mul(of(free)))
    };
    Failure {
        at_ns: *at,
        tid: *tid,
        stack: *stack,
        origin: origins.of_stack(*stack, buffer_type, buffer.ownership),
        memory: DeviceMemory {
            device_kind: buffer.device.kind,
            device_id: buffer.device.id,
            buffer_type,
        },
        size: buffer.size,
        live_bytes: live.bytes,
        live_buffers: live.buffers,
        largest: largest
            .iter()
            .map(|(source, total)| origins.group(*source, buffer_type, *total))
            .collect(),
        rest: *rest,
        free_bytes: of_all_banks(|free| free.bytes),
        largest_free_bytes: of_all_banks(|free| free.largest),
        banks: free.map(|(range, _)| range.banks),
        free_per_bank: free.map(|(_, free)| free.bytes),
        largest_free_per_bank: free.map(|(_, free)| free.largest),
        map: space.as_ref().map(|space| map(space, origins)),
    }
}

/// The live owning buffers by origin.
pub(super) fn origin_totals(live_buffers: &[BufferSummary]) -> Vec<OriginTotal> {
    let mut totals: BTreeMap<Origin, Count> = BTreeMap::new();
    for buffer in live_buffers {
        totals.entry(buffer.origin).or_default().add(buffer.size);
    }
    totals
        .into_iter()
        .map(|(origin, total)| OriginTotal {
            origin,
            live_buffers: total.buffers,
            live_bytes: total.bytes,
        })
        .collect()
}
