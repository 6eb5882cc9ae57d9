//! Reads the statistics and the free list of an allocator's banks.

use std::collections::{BTreeMap, BTreeSet};

use super::{SnapshotReader, result};
use crate::{
    abi::FreeList,
    ledger::{AllocatorPointer, BufferType},
    replay::{Overlay, Replay, ReplayError},
    snapshot::banks::{BankMap, BankStatistics},
};

/// The most blocks that a free list may plausibly have.
const MAX_BLOCKS: u64 = 10_000_000;

impl<'a> SnapshotReader<'a> {
    /// The statistics of an allocator's banks of one type, and the address of their free list where the
    /// library's free list is understood. `None` if the allocator has no banks of that type.
    pub(super) fn banks(
        &self,
        replay: &mut Replay<'a>,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
    ) -> Result<Option<(BankStatistics, Option<u64>)>, ReplayError> {
        let number = result(replay)?;
        replay
            .overlay()
            .write(number, &buffer_type.number().to_le_bytes())?;
        // The library has no statistics of the host's memory: it throws.
        let count = match replay.call(self.accessors.bank_count, &[allocator.0, number]) {
            // The function returns a `uint32_t`.
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
            [0, 8, 16, 24].map(|offset| replay.overlay().number(statistics + offset, 8));
        let banks = BankStatistics {
            count,
            bytes: bytes?,
            allocated: allocated?,
            free: free?,
            largest_free: largest_free?,
        };
        // The list is the second argument, after the hidden pointer to the result.
        Ok(Some((banks, replay.seen().map(|[_, list, ..]| list))))
    }

    /// The maps of an allocator's banks, but for those types whose free list can't be read now.
    pub(in crate::snapshot) fn bank_maps(
        &self,
        allocator: AllocatorPointer,
    ) -> BTreeMap<BufferType, BankMap> {
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

    /// Reads the free list at an address; `None` if it manages no memory.
    ///
    /// # Errors
    /// When it can't be read, or doesn't agree with its statistics because the target is changing it.
    pub(super) fn bank_map(
        &self,
        replay: &mut Replay<'a>,
        list: u64,
        banks: &BankStatistics,
    ) -> Result<Option<BankMap>, ReplayError> {
        let Some(functions) = self.accessors.free_list.filter(|_| banks.bytes > 0) else {
            return Ok(None);
        };
        let used = blocks(replay, functions.allocated, list)?;
        let free = blocks(replay, functions.available, list)?;
        let map = BankMap::new(&used, &free, banks);
        map.map(Some).ok_or(ReplayError::Locked)
    }

    /// Checks that [`PointKind::Block`](crate::abi::PointKind::Block) records the length that the free
    /// list then has in use: replays an allocation and compares the two. `None` where there is no room
    /// for it. The target's memory isn't touched.
    ///
    /// # Errors
    /// When the free list can't be read.
    pub(in crate::snapshot) fn recorded_lengths_are_right(
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
            let Some([_, _, recorded, _]) = replay.seen() else {
                return Ok(None);
            };
            let mut new = blocks(replay, allocated, list)?;
            new.retain(|block| !before.contains(block));
            Ok(Some(
                matches!(new[..], [(from, to)] if to.wrapping_sub(from) == recorded),
            ))
        })
    }
}

/// Calls one of a free list's functions that return blocks.
fn blocks(
    replay: &mut Replay<'_>,
    function: u64,
    list: u64,
) -> Result<Vec<(u64, u64)>, ReplayError> {
    let vector = result(replay)?;
    // The 0 is the least size, for the function that takes one.
    replay.call(function, &[vector, list, 0])?;
    pairs(replay.overlay(), vector)
}

/// The elements of a `std::vector<std::pair<uint64_t, uint64_t>>`.
fn pairs(overlay: &mut Overlay<'_>, vector: u64) -> Result<Vec<(u64, u64)>, ReplayError> {
    let (begin, end) = (overlay.number(vector, 8)?, overlay.number(vector + 8, 8)?);
    let count = end.wrapping_sub(begin) / 16;
    if count > MAX_BLOCKS {
        return Err(ReplayError::Endless);
    }
    (0..count)
        .map(|i| {
            let at = begin + 16 * i;
            Ok((overlay.number(at, 8)?, overlay.number(at + 8, 8)?))
        })
        .collect()
}
