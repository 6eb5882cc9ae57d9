//! Allocations that failed, and what held the memory at that time.

use super::{
    composition::Composition,
    event::{AllocatorPointer, Buffer, BufferType, Event, Nanoseconds},
    group::{Count, Source},
    space::{BankRange, BanksAtFailure, FreeSpace, Occupancy, Space},
};
use crate::frame::StackId;

/// How many failures are kept: a program may retry without end.
const MAX_FAILURES: usize = 100;

/// How many failures are kept with all blocks in use: these are nearly the same for failures in a row.
const MAX_SPACES: usize = 5;

/// How many of the largest sources are listed separately.
const MAX_SOURCES: usize = 10;

/// An allocation that the allocator refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedAllocation {
    /// The buffer that got no memory.
    pub buffer: Buffer,
    pub at: Nanoseconds,
    pub tid: u32,
    /// The thread's stack, if it was captured.
    pub stack: Option<StackId>,
    /// What was live at that time in that type of memory of that device; for a mesh, on each member chip.
    pub live: Count,
    /// The largest parts of `live`, by where they were allocated.
    pub largest: Vec<(Source, Count)>,
    /// The rest of `live`.
    pub rest: Count,
    /// The addresses of the banks concerned, and what was free in each of them; `None` if unknown.
    pub free: Option<(BankRange, FreeSpace)>,
    /// The blocks in use in those banks at that time; only for the first failures.
    pub space: Option<Space>,
    /// From this `free` is derived once the banks' addresses are known.
    occupancy: Option<Occupancy>,
}

impl FailedAllocation {
    fn set_bank_range(&mut self, range: BankRange) {
        let Some(occupancy) = self.occupancy.take() else {
            return;
        };
        let free = occupancy.free(&range);
        self.free = free.map(|free| (range, free));
        if let Some(space) = &mut self.space {
            space.range = Some(range);
        }
    }
}

/// The first [`MAX_FAILURES`] failures of one process. The process's counters count all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedAllocations(Vec<FailedAllocation>);

impl FailedAllocations {
    /// Whether the next failure is kept with all blocks in use.
    pub(super) fn wants_space(&self) -> bool {
        self.0.len() < MAX_SPACES
    }

    /// Adds a failure, with what the memory concerned consists of and the state of its banks.
    pub(super) fn add(
        &mut self,
        event: &Event,
        buffer: Buffer,
        composition: Option<&Composition>,
        banks: BanksAtFailure,
    ) {
        if self.0.len() >= MAX_FAILURES {
            return;
        }
        let parts = composition.map(Composition::live).unwrap_or_default();
        let mut largest: Vec<(Source, Count)> = parts.into_iter().collect();
        // The sort is stable: parts of equal size stay in the order of their sources.
        largest.sort_by_key(|(_, count)| std::cmp::Reverse(count.bytes));
        let others = largest.split_off(largest.len().min(MAX_SOURCES));
        let rest = sum(&others);
        let mut live = sum(&largest);
        live += rest;
        let BanksAtFailure {
            occupancy,
            range,
            space,
        } = banks;
        let mut failed = FailedAllocation {
            buffer,
            at: event.time,
            tid: event.tid,
            stack: event.stack,
            live,
            largest,
            rest,
            free: None,
            space,
            occupancy,
        };
        if let Some(range) = range {
            failed.set_bank_range(range);
        }
        self.0.push(failed);
    }

    /// Sets the addresses that an allocator can give, for those of its failures that don't know them yet.
    pub(super) fn set_bank_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        for failed in &mut self.0 {
            let buffer = &failed.buffer;
            let is_concerned = buffer.allocator == allocator && buffer.buffer_type == buffer_type;
            if is_concerned && failed.free.is_none() {
                failed.set_bank_range(range);
            }
        }
    }

    /// After a bulk free another allocator may get this address: a bank range that becomes known later need
    /// not be the one of these failures.
    pub(super) fn after_bulk_free(&mut self, allocator: AllocatorPointer) {
        let failed = self.0.iter_mut();
        let concerned = failed.filter(|failed| failed.buffer.allocator == allocator);
        concerned.for_each(|failed| failed.occupancy = None);
    }

    /// Discards all that was derived from block lengths, because these were wrong.
    pub(super) fn forget_lengths(&mut self) {
        for failed in &mut self.0 {
            (failed.free, failed.occupancy) = (None, None);
            failed.space.iter_mut().for_each(Space::forget_lengths);
        }
    }

    pub(super) fn all(&self) -> &[FailedAllocation] {
        &self.0
    }
}

fn sum(parts: &[(Source, Count)]) -> Count {
    let mut sum = Count::default();
    for (_, count) in parts {
        sum += *count;
    }
    sum
}
