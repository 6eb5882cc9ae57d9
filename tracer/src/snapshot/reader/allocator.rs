//! Reads what one allocator holds: asks until an answer is of one moment, or often enough.

use std::collections::{BTreeMap, BTreeSet};

use super::{ATTEMPTS, LOCKS_IGNORED_FROM, SnapshotReader, result};
use crate::{
    ledger::{AllocatorPointer, Buffer, BufferType, ObjectPointer},
    replay::{Overlay, Replay, ReplayError},
    snapshot::{
        banks::{BankMap, BankStatistics},
        heap_reading::HeapReading,
    },
};

/// How many answers of mixed moments are merged. A buffer that stays is in each of them, unless the
/// replay followed a torn pointer.
const ENOUGH_ANSWERS: u32 = 8;

/// Instructions that the first replay may take: enough for a thousand buffers. Each replay that needs
/// more doubles the limit of the next one.
const FIRST_STEP_LIMIT: u64 = 100_000;

/// By how much the listed buffers may differ from the allocator's count in a complete answer: so many
/// may come and go while its pages are fetched.
const MAX_COUNT_DIFFERENCE: u64 = 8;

/// The most buffers that one allocator may plausibly hold.
const MAX_BUFFERS: u64 = 10_000_000;

/// One answer of an allocator.
struct Answer {
    buffers: BTreeMap<ObjectPointer, Buffer>,
    banks: BTreeMap<BufferType, BankStatistics>,
    maps: BTreeMap<BufferType, BankMap>,
    /// Objects that the allocator lists and that can't be live owning buffers of it.
    unrecognized: BTreeSet<ObjectPointer>,
    at_one_moment: bool,
    /// Whether the answer lists about as many buffers as the allocator counts. A replay that
    /// followed a torn pointer lists fewer.
    is_nearly_complete: bool,
}

impl<'a> SnapshotReader<'a> {
    /// Adds an allocator's buffers to a reading and returns its banks. `has_time`: whether it may be asked
    /// again after [`ATTEMPTS`].
    pub(super) fn read_allocator(
        &self,
        allocator: AllocatorPointer,
        heap: &mut HeapReading,
        has_time: &dyn Fn() -> bool,
    ) -> BTreeMap<BufferType, BankStatistics> {
        let mut buffers = BTreeMap::new();
        let mut banks = BTreeMap::new();
        let (mut answers, mut at_one_moment) = (0, false);
        let mut problem = None;
        let mut pages = BTreeSet::new();
        let mut step_limit = FIRST_STEP_LIMIT;
        for attempt in 0.. {
            if attempt >= ATTEMPTS && !has_time() {
                break;
            }
            let heed_locks = attempt < LOCKS_IGNORED_FROM;
            match self.answer(allocator, heed_locks, step_limit, &mut pages) {
                Ok(answer) => {
                    answers += u32::from(answer.is_nearly_complete);
                    banks.extend(answer.banks);
                    let maps = answer.maps.into_iter();
                    heap.maps
                        .extend(maps.map(|(of, map)| ((allocator, of), map)));
                    if answer.at_one_moment {
                        at_one_moment = true;
                        heap.unknown_bytes += unexplained_bytes(&banks, answer.buffers.values());
                        heap.unrecognized.extend(answer.unrecognized);
                        buffers = answer.buffers;
                        break;
                    }
                    buffers.extend(answer.buffers);
                }
                Err(error) => {
                    // The replay followed a torn pointer, or there are more buffers than expected.
                    if error == ReplayError::Endless && answers == 0 {
                        step_limit = step_limit.saturating_mul(2);
                    }
                    let torn = error.is_torn();
                    problem = Some(error);
                    if !torn {
                        break;
                    }
                }
            }
            if answers == ENOUGH_ANSWERS {
                break;
            }
        }
        if answers == 0 {
            let why = problem.map_or_else(
                || "the target changes it faster than it can be read".to_owned(),
                |error| error.to_string(),
            );
            heap.problems.push(format!(
                "the list of buffers of the allocator at {:#x} can't be read: {why}",
                allocator.0
            ));
        }
        heap.at_one_moment &= at_one_moment;
        heap.buffers.extend(buffers);
        banks
    }

    /// Reads the objects of an earlier reading again and keeps those that haven't changed.
    pub(in crate::snapshot) fn recheck(&self, earlier: &HeapReading) -> HeapReading {
        let mut overlay = Overlay::new(self.memory);
        let mut is_live =
            |object: &ObjectPointer| self.buffer(&mut overlay, object.0).ok().flatten();
        let mut later = earlier.clone();
        later
            .buffers
            .retain(|object, buffer| is_live(object) == Some(*buffer));
        later
            .unrecognized
            .retain(|object| is_live(object).is_none());
        later
    }

    /// Asks once. `pages`: those that the earlier answers used; they are read together beforehand.
    fn answer(
        &self,
        allocator: AllocatorPointer,
        heed_locks: bool,
        step_limit: u64,
        pages: &mut BTreeSet<u64>,
    ) -> Result<Answer, ReplayError> {
        let mut replay = Replay::new(self.image, self.bias, self.memory);
        replay.heed_locks(heed_locks);
        replay.give_up_after(step_limit);
        let known: Vec<u64> = pages.iter().copied().collect();
        replay.overlay().prefetch(&known);
        let answer = self.ask(&mut replay, allocator, heed_locks);
        // The next answer is likely to be on the same pages.
        pages.extend(replay.overlay().pages_read());
        answer
    }

    /// Replays the accessors for the buffers and then for the banks.
    fn ask(
        &self,
        replay: &mut Replay<'a>,
        allocator: AllocatorPointer,
        heed_locks: bool,
    ) -> Result<Answer, ReplayError> {
        let set = result(replay)?;
        replay.call(self.accessors.allocated_buffers, &[set, allocator.0])?;
        let (objects, count) = set_of_pointers(replay.overlay(), set)?;
        let listed = objects.len() as u64;
        let mut buffers = BTreeMap::new();
        let mut unrecognized = BTreeSet::new();
        for object in objects {
            match self.buffer(replay.overlay(), object) {
                Ok(Some(buffer)) if buffer.allocator == allocator => {
                    buffers.insert(buffer.object, buffer);
                }
                _ => drop(unrecognized.insert(ObjectPointer(object))),
            }
        }
        let (mut banks, mut maps) = (BTreeMap::new(), BTreeMap::new());
        for buffer_type in BufferType::ALL {
            let found = match self.banks(replay, allocator, buffer_type) {
                // Without the lock the free list is often torn. An answer without banks is worth having.
                Err(error) if error.is_torn() && !heed_locks => continue,
                found => found?,
            };
            if let Some((found, list)) = found {
                banks.insert(buffer_type, found);
                let map = list.map(|list| self.bank_map(replay, list, &found));
                // Likewise an answer without maps.
                let map = map.and_then(Result::ok).flatten();
                maps.extend(map.map(|map| (buffer_type, map)));
            }
        }
        let at_one_moment = listed == count && replay.overlay().is_consistent();
        Ok(Answer {
            buffers,
            banks,
            maps,
            unrecognized,
            at_one_moment,
            is_nearly_complete: listed.abs_diff(count) <= MAX_COUNT_DIFFERENCE,
        })
    }
}

/// The elements of a `std::unordered_set` of pointers, and how many elements the set counts.
///
/// In libstdc++ (`bits/hashtable.h`) a set is the bucket array, the number of buckets, the first node and
/// the number of elements; a node is a pointer to the next node and the element.
fn set_of_pointers(overlay: &mut Overlay<'_>, set: u64) -> Result<(Vec<u64>, u64), ReplayError> {
    let mut elements = Vec::new();
    let mut node = overlay.number(set + 16, 8)?;
    while node != 0 {
        if elements.len() as u64 == MAX_BUFFERS {
            return Err(ReplayError::Endless);
        }
        elements.push(overlay.number(node + 8, 8)?);
        node = overlay.number(node, 8)?;
    }
    // The two differ where the target changed the set meanwhile.
    Ok((elements, overlay.number(set + 24, 8)?))
}

/// The bytes that are allocated in all banks and that no buffer accounts for. This is an estimate, at most
/// what is allocated: it takes every buffer's pages to be spread evenly over the banks, which those of a
/// sharded buffer aren't.
fn unexplained_bytes<'b>(
    banks: &BTreeMap<BufferType, BankStatistics>,
    buffers: impl Iterator<Item = &'b Buffer>,
) -> u64 {
    let mut known: BTreeMap<BufferType, u64> = BTreeMap::new();
    for buffer in buffers {
        let count = banks
            .get(&buffer.buffer_type)
            .map_or(1, |banks| banks.count);
        let pages = (buffer.size / buffer.page_size.max(1)).div_ceil(count.max(1));
        *known.entry(buffer.buffer_type).or_default() += pages * buffer.page_size;
    }
    banks
        .iter()
        .map(|(buffer_type, banks)| {
            let known = known.get(buffer_type).copied().unwrap_or_default();
            let unknown = banks.allocated.saturating_sub(known);
            unknown.saturating_mul(banks.count)
        })
        .sum()
}
