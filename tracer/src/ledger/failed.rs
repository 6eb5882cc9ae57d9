//! Allocations that failed, and who had the memory then.

use super::space::{Asked, BankRange, Free, Room, Space};
use super::{AllocatorPointer, Buffer, BufferType, Composition, Nanoseconds, Source, Tally};
use crate::stack::StackId;

/// So many failures are kept in detail: a program may try again without end.
const MOST_IN_DETAIL: usize = 100;

/// Of so many of them, what lay where then: of many in a row that is nearly the same.
const MOST_SPACES: usize = 5;

/// So many of those who had the memory are told apart.
const MOST_SOURCES: usize = 10;

/// An allocation that the allocator refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAllocation {
    /// What was asked for.
    pub buffer: Buffer,
    pub at: Nanoseconds,
    pub tid: u32,
    /// Where the thread was, if its stack was captured.
    pub stack: Option<StackId>,
    /// What was live then, in that type of memory of that device: of a mesh, on each member.
    pub live: Tally,
    /// Of that the largest, by where they come from.
    pub largest: Vec<(Source, Tally)>,
    /// What else was live.
    pub rest: Tally,
    /// The banks that were asked, and what was free of each then; `None` where that isn't known.
    pub free: Option<(BankRange, Free)>,
    /// What lay where in those banks then; only of the first failures.
    pub space: Option<Space>,
    /// What it takes to tell what was free, once the banks are known.
    room: Option<Room>,
}

impl FailedAllocation {
    fn know_range(&mut self, range: BankRange) {
        let Some(room) = self.room.take() else {
            return;
        };
        let free = room.free(&range);
        self.free = free.map(|free| (range, free));
        if let Some(space) = &mut self.space {
            space.range = Some(range);
        }
    }
}

/// The first failures of one process. How many there were, the process's counters tell.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedAllocations(Vec<FailedAllocation>);

impl FailedAllocations {
    /// Whether it is to be told what lies where.
    pub fn wants_space(&self) -> bool {
        self.0.len() < MOST_SPACES
    }

    /// `held`: of what the memory consists that was asked of; `asked`: its banks.
    pub fn note(
        &mut self,
        buffer: Buffer,
        at: Nanoseconds,
        tid: u32,
        stack: Option<StackId>,
        held: Option<&Composition>,
        asked: Asked,
    ) {
        if self.0.len() >= MOST_IN_DETAIL {
            return;
        }
        let held = held.map(Composition::live).unwrap_or_default();
        let mut largest: Vec<(Source, Tally)> = held.into_iter().collect();
        // Among equals the order of their sources stands.
        largest.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.bytes));
        let others = largest.split_off(largest.len().min(MOST_SOURCES));
        let rest = sum(&others);
        let mut live = sum(&largest);
        live += rest;
        let Asked { room, range, space } = asked;
        let mut failed = FailedAllocation {
            buffer,
            at,
            tid,
            stack,
            live,
            largest,
            rest,
            free: None,
            space,
            room,
        };
        if let Some(range) = range {
            failed.know_range(range);
        }
        self.0.push(failed);
    }

    /// Which addresses an allocator can give: those that it refused before didn't know.
    pub fn know_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        for failed in &mut self.0 {
            let of = (failed.buffer.allocator, failed.buffer.buffer_type);
            if of == (allocator, buffer_type) && failed.free.is_none() {
                failed.know_range(range);
            }
        }
    }

    /// An allocator may come to mean another one.
    pub fn free_all(&mut self, allocator: AllocatorPointer) {
        let failed = self.0.iter_mut();
        let its = failed.filter(|failed| failed.buffer.allocator == allocator);
        its.for_each(|failed| failed.room = None);
    }

    /// The lengths of blocks turned out not to be what they were taken for.
    pub fn forget_lengths(&mut self) {
        for failed in &mut self.0 {
            (failed.free, failed.room) = (None, None);
            failed.space.iter_mut().for_each(Space::forget_lengths);
        }
    }

    pub fn all(&self) -> &[FailedAllocation] {
        &self.0
    }
}

fn sum(tallies: &[(Source, Tally)]) -> Tally {
    let mut sum = Tally::default();
    for (_, tally) in tallies {
        sum += *tally;
    }
    sum
}
