//! Which addresses of its banks an allocator has given away, by the word of its free list.

use std::collections::{BTreeMap, BTreeSet};

use super::survey::{Banks, Surveyor, result};
use crate::{
    abi::FreeList,
    ledger::{AllocatorPointer, BankRange, BufferType},
    replay::{Picture, Replay, ReplayError},
};

/// Blocks that a free list may plausibly have.
const MOST_BLOCKS: u64 = 10_000_000;

/// What an allocator gives of each bank of one type, and what of that is in use. Addresses are those of
/// buffers: the same in each bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankMap {
    pub range: BankRange,
    /// The length in bytes of each block in use, by its address.
    pub used: BTreeMap<u64, u64>,
}

impl BankMap {
    /// From blocks in use and free ones: they must lie one behind another, and be in sum what the
    /// allocator's statistics say.
    fn new(used: &[(u64, u64)], free: &[(u64, u64)], banks: &Banks) -> Option<Self> {
        let sum = |blocks: &[(u64, u64)]| -> Option<u64> {
            let mut blocks = blocks.iter();
            blocks.try_fold(0_u64, |sum, (from, to)| {
                sum.checked_add(to.checked_sub(*from)?)
            })
        };
        let mut all = [used, free].concat();
        all.sort_unstable();
        let adjoin = all.windows(2).all(|pair| pair[0].1 == pair[1].0);
        let agree = sum(used)? == banks.allocated && sum(free)? == banks.free;
        let ((start, _), (_, end)) = (*all.first()?, *all.last()?);
        let range = BankRange {
            banks: banks.count,
            start,
            end,
        };
        (adjoin && agree && end - start == banks.bytes).then(|| Self {
            range,
            used: used.iter().map(|(from, to)| (*from, to - from)).collect(),
        })
    }
}

impl<'a> Surveyor<'a> {
    /// The maps of an allocator's banks, of those types of which it can be asked now.
    pub fn bank_maps(&self, allocator: AllocatorPointer) -> BTreeMap<BufferType, BankMap> {
        if self.accessors.free_list.is_none() {
            return BTreeMap::new();
        }
        let map = |buffer_type| {
            let map = self.retry(|replay| match self.banks(replay, allocator, buffer_type)? {
                Some((banks, Some(list))) => self.bank_map(replay, list, &banks),
                _ => Ok(None),
            });
            Some((buffer_type, map.ok()??))
        };
        BufferType::ALL.into_iter().filter_map(map).collect()
    }

    /// What the free list at that address says; `None` if it has nothing to give.
    ///
    /// # Errors
    /// When it can't be asked, or what it says doesn't fit its statistics: somebody is changing it.
    pub(super) fn bank_map(
        &self,
        replay: &mut Replay<'a>,
        list: u64,
        banks: &Banks,
    ) -> Result<Option<BankMap>, ReplayError> {
        let Some(functions) = self.accessors.free_list.filter(|_| banks.bytes > 0) else {
            return Ok(None);
        };
        let used = blocks(replay, functions.allocated, list)?;
        let free = blocks(replay, functions.available, list)?;
        let map = BankMap::new(&used, &free, banks);
        map.map(Some).ok_or(ReplayError::Locked)
    }

    /// Holds what a free list is told to take when somebody allocates against what it then has in use:
    /// that [`PointKind::Block`](crate::abi::PointKind::Block) tells a block's size. `None` where there
    /// is no room to try it. All that happens in a picture of its memory.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn blocks_are_as_told(
        &self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
    ) -> Result<Option<bool>, ReplayError> {
        self.retry(|replay| {
            let list = self.banks(replay, allocator, buffer_type)?;
            let (Some((_, Some(list))), Some(functions)) = (list, self.accessors.free_list) else {
                return Ok(None);
            };
            let FreeList {
                allocated,
                allocate,
                allocate_in_block,
                ..
            } = functions;
            let before: BTreeSet<_> = blocks(replay, allocated, list)?.into_iter().collect();
            replay.watch(allocate_in_block);
            const BYTES: u64 = 1;
            const BOTTOM_UP: u64 = 1;
            const NO_LIMIT: u64 = 0;
            replay.call(allocate, &[list, BYTES, BOTTOM_UP, NO_LIMIT])?;
            let Some([_, _, told, _]) = replay.seen() else {
                return Ok(None);
            };
            let mut new = blocks(replay, allocated, list)?;
            new.retain(|block| !before.contains(block));
            Ok(Some(
                matches!(new[..], [(from, to)] if to.wrapping_sub(from) == told),
            ))
        })
    }
}

/// What one of a free list's functions returns that tell of blocks.
fn blocks(
    replay: &mut Replay<'_>,
    function: u64,
    list: u64,
) -> Result<Vec<(u64, u64)>, ReplayError> {
    let vector = result(replay)?;
    // As the least size, for the one that wants one: of any size.
    replay.call(function, &[vector, list, 0])?;
    pairs(&mut replay.picture, vector)
}

/// The elements of a `std::vector<std::pair<uint64_t, uint64_t>>`.
fn pairs(picture: &mut Picture<'_>, vector: u64) -> Result<Vec<(u64, u64)>, ReplayError> {
    let (begin, end) = (picture.number(vector, 8)?, picture.number(vector + 8, 8)?);
    let count = end.wrapping_sub(begin) / 16;
    if count > MOST_BLOCKS {
        return Err(ReplayError::Endless);
    }
    (0..count)
        .map(|i| {
            let at = begin + 16 * i;
            Ok((picture.number(at, 8)?, picture.number(at + 8, 8)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANKS: Banks = Banks {
        count: 12,
        bytes: 0x8000,
        allocated: 0x1800,
        free: 0x6800,
        largest_free: 0x5000,
    };
    const USED: [(u64, u64); 2] = [(0x3000, 0x3800), (0x1000, 0x2000)];
    const FREE: [(u64, u64); 2] = [(0x4000, 0x9000), (0x2000, 0x3000)];

    #[test]
    fn blocks_that_fill_a_range_are_its_map() {
        let free = [(0x3800, 0x9000), (0x2000, 0x3000)];
        let map = BankMap::new(&USED, &free, &BANKS).expect("a map");
        let range = BankRange {
            banks: 12,
            start: 0x1000,
            end: 0x9000,
        };
        assert_eq!(map.range, range);
        assert_eq!(
            map.used,
            BTreeMap::from([(0x1000, 0x1000), (0x3000, 0x800)])
        );
    }

    #[test]
    fn an_empty_bank_is_one_free_block() {
        let banks = Banks {
            allocated: 0,
            free: 0x8000,
            ..BANKS
        };
        let map = BankMap::new(&[], &[(0x20, 0x8020)], &banks).expect("a map");
        assert_eq!((map.range.start, map.range.end), (0x20, 0x8020));
    }

    /// Somebody changed it meanwhile: half of it is of one moment, half of the next.
    #[test]
    fn what_does_not_fit_together_is_none() {
        let whole = (&USED[..], &[(0x3800, 0x9000), (0x2000, 0x3000)][..]);
        let fits =
            |used: &[_], free: &[_], banks: &Banks| BankMap::new(used, free, banks).is_some();
        assert!(fits(whole.0, whole.1, &BANKS));
        assert!(!fits(&USED, &FREE, &BANKS), "a gap");
        assert!(!fits(&USED[..1], whole.1, &BANKS), "one is missing");
        assert!(!fits(&[(0x3800, 0x3000)], whole.1, &BANKS), "backwards");
        for other in [
            Banks {
                allocated: 0x1000,
                ..BANKS
            },
            Banks {
                free: 0x7000,
                ..BANKS
            },
            Banks {
                bytes: 0x9000,
                ..BANKS
            },
        ] {
            assert!(!fits(whole.0, whole.1, &other), "{other:?}");
        }
        assert!(!fits(&[], &[], &BANKS), "nothing at all");
    }
}
