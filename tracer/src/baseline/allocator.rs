//! What one allocator holds: asked until an answer holds at one moment, or often enough.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    bank_map::BankMap,
    survey::{Banks, Survey, Surveyor, field, result},
};
use crate::{
    abi::Field,
    ledger::{AllocatorPointer, Buffer, BufferType, Layout, ObjectPointer, Ownership},
    replay::{Picture, Replay, ReplayError},
};

/// How often an allocator is asked in any case, unless an answer holds at one moment; from then on,
/// as long as there is time.
pub(super) const ATTEMPTS: u32 = 12;

/// From this attempt on, a lock that is held doesn't stop it: with several threads at it, one always
/// is.
pub(super) const PATIENT_ATTEMPTS: u32 = 4;

/// So many answers that may be of several moments are taken together: a buffer that is there all the
/// time is in each of them, but for one that went astray.
const ENOUGH_ANSWERS: u32 = 8;

/// Instructions that a first call may take: enough for a thousand buffers. Where that isn't enough,
/// the next one may take twice as many.
const FEWEST_STEPS: u64 = 100_000;

/// So many buffers may come and go while an answer's pages are fetched.
const FEW: u64 = 8;

/// Buffers that one allocator may plausibly hold.
const MOST_BUFFERS: u64 = 10_000_000;

/// One answer of an allocator.
struct Answer {
    buffers: BTreeMap<ObjectPointer, Buffer>,
    banks: BTreeMap<BufferType, Banks>,
    maps: BTreeMap<BufferType, BankMap>,
    /// Objects that the allocator lists and that can't be a live owning buffer of it.
    odd: BTreeSet<ObjectPointer>,
    at_one_moment: bool,
    /// Whether it names about as many as the allocator counts: one that went astray names fewer.
    is_nearly_whole: bool,
}

impl<'a> Surveyor<'a> {
    /// Adds an allocator's buffers to the survey and returns its banks.
    pub(super) fn allocator(
        &self,
        allocator: AllocatorPointer,
        survey: &mut Survey,
        is_time: &dyn Fn() -> bool,
    ) -> BTreeMap<BufferType, Banks> {
        let mut buffers = BTreeMap::new();
        let mut banks = BTreeMap::new();
        let (mut answers, mut at_one_moment) = (0, false);
        let mut problem = None;
        let mut pages = BTreeSet::new();
        let mut most_steps = FEWEST_STEPS;
        for attempt in 0.. {
            if attempt >= ATTEMPTS && !is_time() {
                break;
            }
            let heed_locks = attempt < PATIENT_ATTEMPTS;
            match self.answer(allocator, heed_locks, most_steps, &mut pages) {
                Ok(answer) => {
                    answers += u32::from(answer.is_nearly_whole);
                    banks.extend(answer.banks);
                    let maps = answer.maps.into_iter();
                    survey
                        .maps
                        .extend(maps.map(|(of, map)| ((allocator, of), map)));
                    if answer.at_one_moment {
                        at_one_moment = true;
                        survey.unknown_bytes += unknown(&banks, answer.buffers.values());
                        survey.odd.extend(answer.odd);
                        buffers = answer.buffers;
                        break;
                    }
                    buffers.extend(answer.buffers);
                }
                Err(error) => {
                    // It went astray, or there is more than was thought.
                    if error == ReplayError::Endless && answers == 0 {
                        most_steps = most_steps.saturating_mul(2);
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
                || "it is changed faster than it can be read".to_owned(),
                |error| error.to_string(),
            );
            survey.problems.push(format!(
                "the allocator at {:#x} can't be asked what it holds: {why}",
                allocator.0
            ));
        }
        survey.at_one_moment &= at_one_moment;
        survey.buffers.extend(buffers);
        banks
    }

    /// Looks again at what was found at one moment: which buffers are what they were.
    pub fn look_again(&self, early: &Survey) -> Survey {
        let mut picture = Picture::of(self.memory);
        let mut is_live =
            |object: &ObjectPointer| self.buffer(&mut picture, object.0).ok().flatten();
        let mut late = early.clone();
        late.buffers
            .retain(|object, buffer| is_live(object) == Some(*buffer));
        late.odd.retain(|object| is_live(object).is_none());
        late
    }

    fn answer(
        &self,
        allocator: AllocatorPointer,
        heed_locks: bool,
        most_steps: u64,
        pages: &mut BTreeSet<u64>,
    ) -> Result<Answer, ReplayError> {
        let mut replay = Replay::new(self.image, self.bias, self.memory);
        replay.heed_locks(heed_locks);
        replay.give_up_after(most_steps);
        let known: Vec<u64> = pages.iter().copied().collect();
        replay.picture.begin_with(&known);
        let answer = self.ask(&mut replay, allocator, heed_locks);
        // Where the next answer is likely to be found.
        pages.extend(replay.picture.looked_at());
        answer
    }

    fn ask(
        &self,
        replay: &mut Replay<'a>,
        allocator: AllocatorPointer,
        heed_locks: bool,
    ) -> Result<Answer, ReplayError> {
        let set = result(replay)?;
        replay.call(self.accessors.allocated_buffers, &[set, allocator.0])?;
        let (objects, count) = set_of_pointers(&mut replay.picture, set)?;
        let named = objects.len() as u64;
        let mut buffers = BTreeMap::new();
        let mut odd = BTreeSet::new();
        for object in objects {
            match self.buffer(&mut replay.picture, object) {
                Ok(Some(buffer)) if buffer.allocator == allocator => {
                    buffers.insert(buffer.object, buffer);
                }
                _ => drop(odd.insert(ObjectPointer(object))),
            }
        }
        let (mut banks, mut maps) = (BTreeMap::new(), BTreeMap::new());
        for buffer_type in BufferType::ALL {
            let found = match self.banks(replay, allocator, buffer_type) {
                // Without the lock the books are often open; the buffers are what counts.
                Err(error) if error.is_torn() && !heed_locks => continue,
                found => found?,
            };
            if let Some((found, list)) = found {
                banks.insert(buffer_type, found);
                let map = list.map(|list| self.bank_map(replay, list, &found));
                // The buffers are what counts here, too.
                let map = map.and_then(Result::ok).flatten();
                maps.extend(map.map(|map| (buffer_type, map)));
            }
        }
        let at_one_moment = named == count && replay.picture.is_of_one_moment();
        Ok(Answer {
            buffers,
            banks,
            maps,
            odd,
            at_one_moment,
            is_nearly_whole: named.abs_diff(count) <= FEW,
        })
    }

    /// A live owning buffer, if the object is one.
    fn buffer(
        &self,
        picture: &mut Picture<'_>,
        object: u64,
    ) -> Result<Option<Buffer>, ReplayError> {
        let fields = &self.abi.fields;
        let mut get = |of: &Field| field(picture, object, of);
        let status = get(&fields.status)?;
        let owns_data = get(&fields.owns_data)?;
        let hooked = get(&fields.hooked)?;
        let [
            device,
            allocator,
            address,
            size,
            page_size,
            buffer_type,
            layout,
        ] = [
            &fields.device,
            &fields.allocator,
            &fields.address,
            &fields.size,
            &fields.page_size,
            &fields.buffer_type,
            &fields.layout,
        ]
        .map(&mut get);
        let unique_id = fields.unique_id.as_ref().map(&mut get).transpose()?;
        let (size, page_size) = (size?, page_size?);
        let Some(device) = self.identity(picture, device?)? else {
            return Ok(None);
        };
        let Some(buffer_type) = BufferType::from_number(buffer_type?) else {
            return Ok(None);
        };
        let holds_memory = owns_data == 1
            && hooked == 0
            && status == u64::from(self.accessors.allocated)
            && size > 0
            && page_size > 0
            && size.is_multiple_of(page_size);
        Ok(holds_memory.then_some(Buffer {
            object: ObjectPointer(object),
            allocator: AllocatorPointer(allocator?),
            device,
            address: address?,
            size,
            page_size,
            buffer_type,
            layout: Layout::from_number(layout?),
            bytes_per_bank: None,
            unique_id,
            ownership: Ownership::Owning,
        }))
    }

    /// An allocator's banks of one type, if it has any, and the address of their free list, if the
    /// library has one that is known.
    pub(super) fn banks(
        &self,
        replay: &mut Replay<'a>,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
    ) -> Result<Option<(Banks, Option<u64>)>, ReplayError> {
        let number = result(replay)?;
        replay
            .picture
            .write(number, &buffer_type.number().to_le_bytes())?;
        // The library has no statistics of the host's memory, and says so by an exception.
        let count = match replay.call(self.accessors.bank_count, &[allocator.0, number]) {
            // It is a `uint32_t`.
            Ok(count) => count & u64::from(u32::MAX),
            Err(ReplayError::Throws { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(None);
        }
        let statistics = result(replay)?;
        if let Some(list) = &self.accessors.free_list {
            replay.watch(list.statistics);
        }
        replay.call(
            self.accessors.statistics,
            &[statistics, allocator.0, number],
        )?;
        let [bytes, allocated, free, largest_free] =
            [0, 8, 16, 24].map(|offset| replay.picture.number(statistics + offset, 8));
        let banks = Banks {
            count,
            bytes: bytes?,
            allocated: allocated?,
            free: free?,
            largest_free: largest_free?,
        };
        // Behind the hidden pointer to the result.
        Ok(Some((banks, replay.seen().map(|[_, list, ..]| list))))
    }
}

/// The elements of a `std::unordered_set` of pointers (libstdc++, `bits/hashtable.h`: the buckets,
/// their number, the first node, the number of elements; a node is the next one and the element), and
/// how many it says that there are.
fn set_of_pointers(picture: &mut Picture<'_>, set: u64) -> Result<(Vec<u64>, u64), ReplayError> {
    let mut elements = Vec::new();
    let mut node = picture.number(set + 16, 8)?;
    while node != 0 {
        if elements.len() as u64 == MOST_BUFFERS {
            return Err(ReplayError::Endless);
        }
        elements.push(picture.number(node + 8, 8)?);
        node = picture.number(node, 8)?;
    }
    // Otherwise the list was changed while it was read: another answer may know more.
    Ok((elements, picture.number(set + 24, 8)?))
}

/// Bytes that the banks have allocated and no buffer accounts for. A buffer's pages go round the
/// banks; a sharded one's don't, so that this is an estimate, never more than what is allocated.
fn unknown<'b>(
    banks: &BTreeMap<BufferType, Banks>,
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
