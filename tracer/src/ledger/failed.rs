//! Allocations that failed, and who had the memory then.

use super::{Buffer, Composition, Nanoseconds, Source, Tally};
use crate::stack::StackId;

/// So many failures are kept in detail: a program may try again without end.
const MOST_IN_DETAIL: usize = 100;

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
}

/// The first failures of one process. How many there were, the process's counters tell.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedAllocations(Vec<FailedAllocation>);

impl FailedAllocations {
    /// `held`: of what the memory consists that was asked of.
    pub fn note(
        &mut self,
        buffer: Buffer,
        at: Nanoseconds,
        tid: u32,
        stack: Option<StackId>,
        held: Option<&Composition>,
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
        self.0.push(FailedAllocation {
            buffer,
            at,
            tid,
            stack,
            live,
            largest,
            rest,
        });
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
