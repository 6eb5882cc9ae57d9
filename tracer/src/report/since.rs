//! What has changed since a moment that somebody marked.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::PlacedGroup;
use super::grouping::Origins;
use crate::ledger::{Account, BufferType, DeviceKind, Kin, Mark, Nanoseconds, Process, Tally};

/// A moment that somebody marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MarkSummary {
    /// From 1 on.
    pub number: u32,
    /// `None` if it wasn't given one.
    pub name: Option<String>,
    pub at_ns: Nanoseconds,
}

/// What has changed in one process since a mark. What was there before the tracer came counts as live at
/// each mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinceMark {
    /// The mark's number.
    pub mark: u32,
    /// Each type of memory of each device that was in use then or since.
    pub memory: Vec<MemorySince>,
    /// What was allocated since and is live, by where it was allocated, the largest first.
    pub new: Vec<PlacedGroup>,
    /// What was live then and is no more, likewise.
    pub gone: Vec<PlacedGroup>,
}

impl SinceMark {
    /// Whether nothing is new and nothing is gone.
    pub fn is_unchanged(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

/// One type of memory of one device: of what lies on it, or, for a mesh, on *each* member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemorySince {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
    /// What was live at the mark.
    pub then: Tally,
    /// What is live now; after the process's end, what that freed.
    pub now: Tally,
    /// What was allocated since, still live or not.
    pub allocated: Tally,
    /// What was freed since, allocated before or not.
    pub freed: Tally,
}

impl From<&Mark> for MarkSummary {
    fn from(mark: &Mark) -> Self {
        let Mark { number, name, at } = mark;
        Self {
            number: *number,
            name: name.clone(),
            at_ns: *at,
        }
    }
}

/// What has changed in a process since a mark; `None` if it had ended by then.
pub fn since(process: &Process, origins: &mut Origins<'_>, mark: u32) -> Option<SinceMark> {
    let since = process.since(mark)?;
    let mut memory = Vec::new();
    for (device, account) in process.devices() {
        let then = since.memory(*device);
        for buffer_type in BufferType::ALL {
            let now = &account.memory[buffer_type];
            let change = change(&then[buffer_type], now);
            let [then, now, allocated, freed] = change;
            if change.iter().any(|tally| tally.buffers > 0) {
                memory.push(MemorySince {
                    device_kind: device.kind,
                    device_id: device.id,
                    buffer_type,
                    then,
                    now,
                    allocated,
                    freed,
                });
            }
        }
    }
    let mut new: BTreeMap<Kin, Tally> = BTreeMap::new();
    for live in process.owning().filter(|live| since.is_new(live)) {
        let buffer = &live.buffer;
        let kin = (buffer.device, buffer.buffer_type, live.source());
        new.entry(kin).or_default().add(buffer.size);
    }
    let mut placed = |groups: BTreeMap<Kin, Tally>| {
        let groups = groups.into_iter();
        let mut groups: Vec<PlacedGroup> = groups
            .map(|(kin, tally)| origins.placed(kin, tally))
            .collect();
        groups.sort_by_key(|placed| Reverse(placed.group.bytes));
        groups
    };
    Some(SinceMark {
        mark,
        memory,
        new: placed(new),
        gone: placed(since.gone()),
    })
}

/// What was live then, is live now, was allocated and was freed in between.
fn change(then: &Account, now: &Account) -> [Tally; 4] {
    let allocated = Tally {
        buffers: now.allocations.saturating_sub(then.allocations),
        bytes: now.allocated_bytes.saturating_sub(then.allocated_bytes),
    };
    let freed = Tally {
        buffers: now.deallocations.saturating_sub(then.deallocations),
        bytes: now.freed_bytes.saturating_sub(then.freed_bytes),
    };
    let live = Tally {
        buffers: now.live_buffers,
        bytes: now.live_bytes,
    };
    // Not what the account held then: what was there before the tracer came may have been found later.
    let held = Tally {
        buffers: live
            .buffers
            .saturating_add(freed.buffers)
            .saturating_sub(allocated.buffers),
        bytes: live
            .bytes
            .saturating_add(freed.bytes)
            .saturating_sub(allocated.bytes),
    };
    [held, live, allocated, freed]
}

/// How many owning buffers are live in some processes, and what they hold by type of memory.
pub fn live<'a>(processes: impl Iterator<Item = &'a Process>) -> BTreeMap<BufferType, Tally> {
    let mut live: BTreeMap<BufferType, Tally> = BTreeMap::new();
    for buffer in processes.flat_map(Process::owning) {
        let buffer = &buffer.buffer;
        live.entry(buffer.buffer_type).or_default().add(buffer.size);
    }
    live
}
