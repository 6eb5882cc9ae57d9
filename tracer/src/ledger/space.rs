//! Which blocks of an allocator's banks are in use, and what is free.
//!
//! An allocator gives a buffer one address, which is the same in every bank of its type, and takes the same
//! number of bytes of each bank, whether or not one of the buffer's pages lies there. So one range of
//! addresses stands for all banks. No event has the bounds of this range; what is free is known once they
//! are set ([`BankRange`]).

use std::collections::{BTreeMap, HashMap};

use super::{
    event::{AllocatorPointer, Buffer, BufferType, Device, Nanoseconds, ObjectPointer},
    live_buffer::LiveBuffer,
};

/// The addresses that an allocator can give, in each of its banks of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BankRange {
    /// The number of banks.
    pub banks: u64,
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
}

impl BankRange {
    /// The size of one bank.
    pub(crate) fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// A block in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedBlock {
    pub address: u64,
    /// Bytes in each bank; `None` if unknown.
    pub bytes: Option<u64>,
    /// The buffer that lies there.
    pub buffer: LiveBuffer,
}

/// What is free in each bank, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    pub bytes: u64,
    /// The size of the largest free block.
    pub largest: u64,
}

impl FreeSpace {
    /// The share of the free bytes that isn't in the largest block; 0 if nothing is free.
    pub(crate) fn fragmentation(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            // Bank sizes are far below 2^53, so both numbers are exact as `f64`.
            bytes => 1.0 - self.largest as f64 / bytes as f64,
        }
    }
}

/// A summary of the blocks in use in a bank. It suffices to derive what is free once the bank's bounds are
/// known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Occupancy {
    /// Bytes in use.
    used: u64,
    /// The first address in use, and the address after the last one; `None` if nothing is in use.
    bounds: Option<(u64, u64)>,
    /// The largest gap between two blocks in use.
    largest_gap: u64,
}

impl Occupancy {
    /// Summarises blocks, given as address and length in the order of their addresses. `None` if one of the
    /// lengths is unknown.
    fn from_blocks(blocks: impl IntoIterator<Item = (u64, Option<u64>)>) -> Option<Self> {
        let mut occupancy = Self::default();
        for (from, bytes) in blocks {
            let to = from.checked_add(bytes?)?;
            let (first, last) = occupancy.bounds.unwrap_or((from, from));
            occupancy.largest_gap = occupancy.largest_gap.max(from.saturating_sub(last));
            // If events were lost, two blocks may overlap.
            occupancy.used += to.saturating_sub(from.max(last));
            occupancy.bounds = Some((first, to.max(last)));
        }
        Some(occupancy)
    }

    /// What is free in a bank. `None` if a block lies outside of the range: then the range isn't that bank's.
    pub(super) fn free(&self, range: &BankRange) -> Option<FreeSpace> {
        let whole = range.bytes();
        let Some((first, last)) = self.bounds else {
            return Some(FreeSpace {
                bytes: whole,
                largest: whole,
            });
        };
        let (before, behind) = (
            first.checked_sub(range.start)?,
            range.end.checked_sub(last)?,
        );
        Some(FreeSpace {
            bytes: whole - self.used,
            largest: self.largest_gap.max(before).max(behind),
        })
    }
}

/// The banks of one type of memory of one allocator, either now or when the allocator freed everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub device: Device,
    pub buffer_type: BufferType,
    /// `None` if unknown.
    pub range: Option<BankRange>,
    /// The blocks in use, by address.
    pub used: Vec<UsedBlock>,
    /// When the allocator freed all these blocks; `None` if it hasn't.
    pub freed_at: Option<Nanoseconds>,
    /// Whether `used` lists every block in use.
    pub complete: bool,
}

impl Space {
    /// What is free in each bank; `None` if unknown.
    pub(crate) fn free(&self) -> Option<FreeSpace> {
        if !self.complete {
            return None;
        }
        let blocks = self.used.iter().map(|block| (block.address, block.bytes));
        Occupancy::from_blocks(blocks)?.free(self.range.as_ref()?)
    }

    /// Discards the lengths of all blocks, because they were wrong.
    pub(super) fn forget_lengths(&mut self) {
        self.used.iter_mut().for_each(|block| block.bytes = None);
    }
}

/// The banks of an allocator at the moment when it failed to allocate a buffer.
pub(super) struct BanksAtFailure {
    /// `None` if a length, or a buffer, is unknown.
    pub occupancy: Option<Occupancy>,
    /// `None` if unknown.
    pub range: Option<BankRange>,
    /// The blocks in use, if they were wanted.
    pub space: Option<Space>,
}

/// The blocks of one type of memory of one allocator.
#[derive(Clone, Debug, Default)]
struct Blocks {
    range: Option<BankRange>,
    /// `None` until the allocator gives a buffer an address.
    device: Option<Device>,
    /// Each block's buffer and length, by address.
    in_use: BTreeMap<u64, (ObjectPointer, Option<u64>)>,
    /// The blocks that were in use at the last bulk free; kept until there is another allocator of the same
    /// memory.
    freed: Option<Space>,
}

impl Blocks {
    fn occupancy(&self) -> Option<Occupancy> {
        let blocks = self.in_use.iter();
        Occupancy::from_blocks(blocks.map(|(address, (_, bytes))| (*address, *bytes)))
    }

    /// `None` if nothing is in use. `owning` finds a live buffer by its object.
    fn space<'a>(
        &self,
        buffer_type: BufferType,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer>,
    ) -> Option<Space> {
        let blocks = self.in_use.iter();
        let used: Vec<UsedBlock> = blocks
            .filter_map(|(address, (object, bytes))| {
                Some(UsedBlock {
                    address: *address,
                    bytes: *bytes,
                    buffer: *owning(*object)?,
                })
            })
            .collect();
        Some(Space {
            device: used.first()?.buffer.buffer.device,
            buffer_type,
            range: self.range,
            used,
            freed_at: None,
            complete: true,
        })
    }
}

/// The banks of all allocators of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Spaces {
    by_type: BTreeMap<(AllocatorPointer, BufferType), Blocks>,
    /// Whether there may be live buffers that the ledger doesn't know.
    has_unknown_buffers: bool,
}

impl Spaces {
    fn blocks_mut(&mut self, buffer: &Buffer) -> &mut Blocks {
        let key = (buffer.allocator, buffer.buffer_type);
        self.by_type.entry(key).or_default()
    }

    /// The blocks in use of each allocator; if it freed everything, those that were in use before.
    pub(super) fn all<'a>(
        &self,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer> + Copy,
    ) -> impl Iterator<Item = Space> {
        self.by_type
            .iter()
            .filter_map(move |((_, buffer_type), blocks)| {
                let space = blocks.space(*buffer_type, owning);
                let space = space.or_else(|| blocks.freed.clone())?;
                Some(Space {
                    complete: !self.has_unknown_buffers,
                    ..space
                })
            })
    }

    /// The known buffer at exactly this buffer's address. An allocator never gives one address to two live
    /// buffers.
    pub(super) fn at(&self, buffer: &Buffer) -> Option<ObjectPointer> {
        let blocks = self.by_type.get(&(buffer.allocator, buffer.buffer_type))?;
        let block = blocks.in_use.get(&buffer.address);
        block.filter(|_| buffer.size > 0).map(|(object, _)| *object)
    }

    /// Adds a live owning buffer. A buffer of size 0 has no block: TT-Metal doesn't ask the allocator for it.
    pub(super) fn insert(&mut self, buffer: &Buffer) {
        if buffer.size == 0 {
            return;
        }
        let block = (buffer.object, buffer.bytes_per_bank);
        let blocks = self.blocks_mut(buffer);
        blocks.in_use.insert(buffer.address, block);
        if blocks.device.replace(buffer.device) != Some(buffer.device) {
            self.forget_freed(buffer);
        }
    }

    /// Discards what an earlier allocator of the same memory had freed, now that there is another allocator:
    /// a device may be opened and closed without end.
    fn forget_freed(&mut self, first: &Buffer) {
        for blocks in self.by_type.values_mut() {
            blocks.freed.take_if(|freed| {
                (freed.device, freed.buffer_type) == (first.device, first.buffer_type)
            });
        }
        self.by_type.retain(|_, blocks| {
            blocks.device.is_some() || blocks.range.is_some() || blocks.freed.is_some()
        });
    }

    /// Removes an owning buffer that is no longer live.
    pub(super) fn remove(&mut self, buffer: &Buffer) {
        if buffer.size > 0 {
            self.blocks_mut(buffer).in_use.remove(&buffer.address);
        }
    }

    /// Sets the addresses that an allocator can give.
    pub(super) fn set_bank_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        let blocks = self.by_type.entry((allocator, buffer_type)).or_default();
        blocks.range = Some(range);
    }

    /// Keeps the blocks in use of an allocator that is about to free them all. Afterwards the allocator may
    /// end, and another one with other banks may get its address.
    pub(super) fn before_bulk_free(
        &mut self,
        allocator: AllocatorPointer,
        owning: &HashMap<ObjectPointer, LiveBuffer>,
        at: Nanoseconds,
    ) {
        for buffer_type in BufferType::ALL {
            let Some(blocks) = self.by_type.get_mut(&(allocator, buffer_type)) else {
                continue;
            };
            // A device that closes frees everything twice; the second time there is nothing to keep.
            if let Some(space) = blocks.space(buffer_type, |object| owning.get(&object)) {
                blocks.freed = Some(Space {
                    freed_at: Some(at),
                    ..space
                });
            }
            (blocks.range, blocks.device) = (None, None);
        }
    }

    /// The banks in which the allocator had no room for a buffer. `in_detail`: with the blocks in use.
    pub(super) fn at_failure<'a>(
        &self,
        buffer: &Buffer,
        in_detail: bool,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer>,
    ) -> BanksAtFailure {
        let blocks = self.by_type.get(&(buffer.allocator, buffer.buffer_type));
        let range = blocks.and_then(|blocks| blocks.range);
        // For an allocator without any buffer yet, everything is free.
        let occupancy = blocks.map_or(Some(Occupancy::default()), Blocks::occupancy);
        let space = in_detail.then(|| {
            let space = blocks.and_then(|blocks| blocks.space(buffer.buffer_type, owning));
            Space {
                complete: !self.has_unknown_buffers,
                ..space.unwrap_or(Space {
                    device: buffer.device,
                    buffer_type: buffer.buffer_type,
                    range,
                    used: Vec::new(),
                    freed_at: None,
                    complete: true,
                })
            }
        });
        BanksAtFailure {
            occupancy: occupancy.filter(|_| !self.has_unknown_buffers),
            range,
            space,
        }
    }

    /// From now on there may be live buffers that the ledger doesn't know.
    pub(super) fn expect_unknown_buffers(&mut self) {
        self.has_unknown_buffers = true;
    }

    /// Discards the lengths of all blocks, because they were wrong.
    pub(super) fn forget_lengths(&mut self) {
        for blocks in self.by_type.values_mut() {
            let in_use = blocks.in_use.values_mut();
            in_use.for_each(|(_, bytes)| *bytes = None);
            blocks.freed.iter_mut().for_each(Space::forget_lengths);
        }
    }
}
