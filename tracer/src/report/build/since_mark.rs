//! What has changed in a process since a mark, from the ledger.

use std::collections::{BTreeMap, BTreeSet};

use super::origins::Origins;
use crate::{
    frame::StackId,
    ledger::{Account, BufferType, Count, GroupKey, LiveBuffer, Process},
    report::summary::{DeviceMemory, MemorySince, SinceMark},
};

/// What has changed in a process since a mark; `None` if the process had ended by then.
pub(crate) fn since_mark(
    process: &Process,
    origins: &mut Origins<'_>,
    mark: u32,
) -> Option<SinceMark> {
    let since = process.since(mark)?;
    let mut memory = Vec::new();
    for (device, account) in process.devices() {
        let at_mark = since.memory(*device);
        for buffer_type in BufferType::ALL {
            let in_memory = DeviceMemory {
                device_kind: device.kind,
                device_id: device.id,
                buffer_type,
            };
            let now = &account.memory[buffer_type];
            let change = memory_since(in_memory, &at_mark[buffer_type], now);
            let totals = [change.then, change.now, change.allocated, change.freed];
            if totals.iter().any(|total| total.buffers > 0) {
                memory.push(change);
            }
        }
    }
    let mut new: BTreeMap<GroupKey, Count> = BTreeMap::new();
    for live in process.owning().filter(|live| since.is_new(live)) {
        let buffer = &live.buffer;
        let key = live.group_key();
        new.entry(key).or_default().add(buffer.size);
    }
    Some(SinceMark {
        mark,
        memory,
        new: origins.memory_groups(new),
        gone: origins.memory_groups(since.gone()),
    })
}

/// `then`: the account at the mark; `now`: the account now.
fn memory_since(memory: DeviceMemory, then: &Account, now: &Account) -> MemorySince {
    let allocated = Count {
        buffers: now.allocations.saturating_sub(then.allocations),
        bytes: now.allocated_bytes.saturating_sub(then.allocated_bytes),
    };
    let freed = Count {
        buffers: now.deallocations.saturating_sub(then.deallocations),
        bytes: now.freed_bytes.saturating_sub(then.freed_bytes),
    };
    let live = Count {
        buffers: now.live_buffers,
        bytes: now.live_bytes,
    };
    // Not the account's own live buffers at the mark: buffers from before attach may have been found after
    // it, and count as live at each mark.
    let live_at_mark = Count {
        buffers: live
            .buffers
            .saturating_add(freed.buffers)
            .saturating_sub(allocated.buffers),
        bytes: live
            .bytes
            .saturating_add(freed.bytes)
            .saturating_sub(allocated.bytes),
    };
    MemorySince {
        memory,
        then: live_at_mark,
        now: live,
        allocated,
        freed,
    }
}

/// The stacks of all buffers that are new since a mark or gone since. Empty if the process had ended by
/// then.
pub(crate) fn stacks_since_mark(process: &Process, mark: u32) -> BTreeSet<StackId> {
    let Some(since) = process.since(mark) else {
        return BTreeSet::new();
    };
    let new = process.owning().filter(|live| since.is_new(live));
    let gone = since.gone().into_keys();
    let gone = gone.filter_map(|key| key.source.stack());
    new.filter_map(LiveBuffer::stack).chain(gone).collect()
}
