//! Marks, and what one process has allocated and freed since each of them.

use std::collections::{BTreeMap, HashMap};

use super::{
    account::Memory,
    devices::DeviceAccount,
    event::{Device, Nanoseconds},
    group::{Count, GroupKey},
    live_buffer::{LiveBuffer, Provenance},
};

/// A moment in the order of events: events that were applied before it belong before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Counts from 1.
    pub number: u32,
    /// The name that the user gave it.
    pub name: Option<String>,
    pub at: Nanoseconds,
}

/// What one process has to remember about the marks.
///
/// A mark costs a copy of each account, however many buffers are live. Whether a buffer was allocated before
/// or after a mark follows from its number among the process's allocations. A buffer that was live at a mark
/// is remembered once it ends: by its group, and by how many marks preceded its allocation and its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// The process at each mark since the ledger knows it, in order.
    marks: Vec<ProcessAtMark>,
    ended: HashMap<(Lifetime, GroupKey), Count>,
}

#[derive(Clone, Debug)]
struct ProcessAtMark {
    mark: u32,
    /// How many owning buffers the process had allocated.
    allocations: u64,
    memory: BTreeMap<Device, Memory>,
    had_ended: bool,
}

/// How many of the process's marks preceded a buffer's allocation and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lifetime {
    /// `None`: the buffer existed before the tracer attached, and so before all marks.
    allocated: Option<usize>,
    ended: usize,
}

impl Marks {
    /// Records the state of the process at a mark.
    pub(super) fn add(
        &mut self,
        mark: u32,
        allocations: u64,
        devices: &BTreeMap<Device, DeviceAccount>,
        had_ended: bool,
    ) {
        let devices = devices.iter();
        self.marks.push(ProcessAtMark {
            mark,
            allocations,
            memory: devices
                .map(|(device, account)| (*device, account.memory))
                .collect(),
            had_ended,
        });
    }

    /// Remembers a live owning buffer that has ended, if there was a mark in its lifetime.
    pub(super) fn end(&mut self, live: &LiveBuffer) {
        let lifetime = Lifetime {
            allocated: self.marks_before_allocation(live),
            ended: self.marks.len(),
        };
        if lifetime.allocated < Some(lifetime.ended) {
            let key = (lifetime, live.group_key());
            self.ended.entry(key).or_default().add(live.buffer.size);
        }
    }

    /// How many marks preceded a buffer's allocation; `None` if it existed before the tracer attached.
    fn marks_before_allocation(&self, live: &LiveBuffer) -> Option<usize> {
        match live.provenance {
            Provenance::Traced { allocations, .. } => {
                let is_before = |process: &ProcessAtMark| process.allocations < allocations;
                Some(self.marks.partition_point(is_before))
            }
            Provenance::BeforeAttach => None,
        }
    }

    /// What has changed since a mark; `None` if the process had ended by then.
    pub(super) fn since(&self, mark: u32) -> Option<Since<'_>> {
        let preceding = self.marks.partition_point(|process| process.mark <= mark);
        let process = preceding.checked_sub(1).map(|last| &self.marks[last]);
        let had_ended = process.is_some_and(|process| process.had_ended);
        (!had_ended).then_some(Since {
            marks: self,
            preceding,
            memory: process.map(|process| &process.memory),
        })
    }
}

/// What a process has done since a mark. For a process that the ledger came to know after the mark, that is
/// all that it has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since<'a> {
    marks: &'a Marks,
    /// How many of the process's marks there were by then, this mark included.
    preceding: usize,
    memory: Option<&'a BTreeMap<Device, Memory>>,
}

impl Since<'_> {
    /// A device's accounts at the mark.
    pub(crate) fn memory(&self, device: Device) -> Memory {
        let memory = self.memory.and_then(|memory| memory.get(&device));
        memory.copied().unwrap_or_default()
    }

    /// Whether an owning buffer was allocated after the mark. A buffer from before attach never was.
    pub(crate) fn is_new(&self, live: &LiveBuffer) -> bool {
        self.marks.marks_before_allocation(live) >= Some(self.preceding)
    }

    /// The owning buffers that were live at the mark and have ended since, by group.
    pub(crate) fn gone(&self) -> BTreeMap<GroupKey, Count> {
        let mut gone: BTreeMap<GroupKey, Count> = BTreeMap::new();
        for ((lifetime, key), count) in &self.marks.ended {
            if lifetime.allocated < Some(self.preceding) && lifetime.ended >= self.preceding {
                *gone.entry(*key).or_default() += *count;
            }
        }
        gone
    }
}
