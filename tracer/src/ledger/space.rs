//! What lies where in the banks of an allocator.
//!
//! An allocator hands out one address, which is the same in every bank of its type, and takes as much of
//! each bank whether or not a page of the buffer lies there. So one line of addresses stands for all of
//! its banks. Where that line begins and ends no event tells; whoever knows it
//! ([`BankRange`]) learns what is free.

use std::collections::{BTreeMap, HashMap};

use super::{AllocatorPointer, Buffer, BufferType, Device, LiveBuffer, Nanoseconds, ObjectPointer};

/// The addresses that an allocator can give, of each of its banks of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BankRange {
    /// How many banks there are.
    pub banks: u64,
    /// The first address.
    pub start: u64,
    /// Behind the last one.
    pub end: u64,
}

impl BankRange {
    /// Of one bank.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl Free {
    /// The part of it that isn't in the largest block: 0 if nothing is free.
    pub fn fragmentation(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            // Both are far below what an `f64` can tell apart.
            bytes => 1.0 - self.largest as f64 / bytes as f64,
        }
    }
}

/// A block in use: `bytes` of each bank, `None` where that isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub address: u64,
    pub bytes: Option<u64>,
    pub buffer: LiveBuffer,
}

/// What is free of each bank, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    pub bytes: u64,
    /// The largest block of that.
    pub largest: u64,
}

/// How blocks in use divide their line of addresses: all that it takes to say what is free, once it is
/// known where the line begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes in use.
    used: u64,
    /// The first address in use, and behind the last one; `None` where nothing is.
    bounds: Option<(u64, u64)>,
    /// The largest gap between two blocks in use.
    largest_gap: u64,
}

impl Room {
    /// From blocks by their addresses. `None` if the length of one isn't known.
    fn of(blocks: impl IntoIterator<Item = (u64, Option<u64>)>) -> Option<Self> {
        let mut room = Self::default();
        for (from, bytes) in blocks {
            let to = from.checked_add(bytes?)?;
            let (first, last) = room.bounds.unwrap_or((from, from));
            room.largest_gap = room.largest_gap.max(from.saturating_sub(last));
            // Where events were lost, two may overlap.
            room.used += to.saturating_sub(from.max(last));
            room.bounds = Some((first, to.max(last)));
        }
        Some(room)
    }

    /// What is free of a bank. `None` if something is in use that isn't within the range: then it isn't
    /// that bank's.
    pub fn free(&self, range: &BankRange) -> Option<Free> {
        let whole = range.bytes();
        let Some((first, last)) = self.bounds else {
            return Some(Free {
                bytes: whole,
                largest: whole,
            });
        };
        let (before, behind) = (
            first.checked_sub(range.start)?,
            range.end.checked_sub(last)?,
        );
        Some(Free {
            bytes: whole - self.used,
            largest: self.largest_gap.max(before).max(behind),
        })
    }
}

/// The banks of one type of memory of one allocator, as they are, or as they were when it freed all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    pub device: Device,
    pub buffer_type: BufferType,
    /// `None` where nobody could tell.
    pub range: Option<BankRange>,
    /// By address.
    pub used: Vec<Used>,
    /// When the allocator freed all of that; `None` if it has not.
    pub freed_at: Option<Nanoseconds>,
    /// That is all that is in use.
    pub complete: bool,
}

impl Space {
    /// What is free of each bank; `None` where that isn't known.
    pub fn free(&self) -> Option<Free> {
        if !self.complete {
            return None;
        }
        let blocks = self.used.iter().map(|block| (block.address, block.bytes));
        Room::of(blocks)?.free(self.range.as_ref()?)
    }
}

impl Space {
    /// The lengths of its blocks turned out not to be what they were taken for.
    pub(super) fn forget_lengths(&mut self) {
        self.used.iter_mut().for_each(|block| block.bytes = None);
    }
}

/// The banks that a buffer was asked of.
pub(super) struct Asked {
    /// How blocks in use divide them; `None` where that isn't known.
    pub room: Option<Room>,
    pub range: Option<BankRange>,
    /// What lies where, if that is wanted.
    pub space: Option<Space>,
}

#[derive(Clone, Debug, Default)]
struct Blocks {
    range: Option<BankRange>,
    /// `None` until it gives something.
    device: Option<Device>,
    /// By address: whose they are, and their length.
    in_use: BTreeMap<u64, (ObjectPointer, Option<u64>)>,
    /// What was in use when the allocator freed all that it ever gave, if it gave nothing since.
    freed: Option<Space>,
}

impl Blocks {
    fn room(&self) -> Option<Room> {
        let blocks = self.in_use.iter();
        Room::of(blocks.map(|(address, (_, bytes))| (*address, *bytes)))
    }

    /// `None` where nothing is in use. `owning` tells the live buffers by their objects.
    fn space<'a>(
        &self,
        buffer_type: BufferType,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer>,
    ) -> Option<Space> {
        let blocks = self.in_use.iter();
        let used: Vec<Used> = blocks
            .filter_map(|(address, (object, bytes))| {
                Some(Used {
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

/// The spaces of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Spaces {
    by_type: BTreeMap<(AllocatorPointer, BufferType), Blocks>,
    /// More is in use than is known.
    misses_some: bool,
}

impl Spaces {
    fn of(&mut self, buffer: &Buffer) -> &mut Blocks {
        let key = (buffer.allocator, buffer.buffer_type);
        self.by_type.entry(key).or_default()
    }

    /// What is in use of each allocator; where it has freed all, what was in use then.
    pub fn all<'a>(
        &self,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer> + Copy,
    ) -> impl Iterator<Item = Space> {
        self.by_type
            .iter()
            .filter_map(move |((_, buffer_type), blocks)| {
                let space = blocks.space(*buffer_type, owning);
                let space = space.or_else(|| blocks.freed.clone())?;
                Some(Space {
                    complete: !self.misses_some,
                    ..space
                })
            })
    }

    /// Whose buffer lies at the very address of this one. An allocator gives none to two at a time.
    pub fn at(&self, buffer: &Buffer) -> Option<ObjectPointer> {
        let blocks = self.by_type.get(&(buffer.allocator, buffer.buffer_type))?;
        let block = blocks.in_use.get(&buffer.address);
        block.filter(|_| buffer.size > 0).map(|(object, _)| *object)
    }

    /// An owning buffer is live. One of size 0 never went to the allocator and lies nowhere.
    pub fn insert(&mut self, buffer: &Buffer) {
        if buffer.size == 0 {
            return;
        }
        let block = (buffer.object, buffer.bytes_per_bank);
        let blocks = self.of(buffer);
        blocks.in_use.insert(buffer.address, block);
        if blocks.device.replace(buffer.device) != Some(buffer.device) {
            self.forget_freed(buffer);
        }
    }

    /// What an earlier allocator of the same memory had is of no interest any more, once there is another:
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

    /// An owning buffer is live no more.
    pub fn remove(&mut self, buffer: &Buffer) {
        if buffer.size > 0 {
            self.of(buffer).in_use.remove(&buffer.address);
        }
    }

    /// Which addresses an allocator can give.
    pub fn know_range(
        &mut self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
        range: BankRange,
    ) {
        let blocks = self.by_type.entry((allocator, buffer_type)).or_default();
        blocks.range = Some(range);
    }

    /// An allocator is about to free all that it ever gave; then it may end, and another with other banks
    /// take its place.
    pub fn free_all(
        &mut self,
        allocator: AllocatorPointer,
        owning: &HashMap<ObjectPointer, LiveBuffer>,
        at: Nanoseconds,
    ) {
        for buffer_type in BufferType::ALL {
            let Some(blocks) = self.by_type.get_mut(&(allocator, buffer_type)) else {
                continue;
            };
            // A device that closes frees all twice.
            if let Some(space) = blocks.space(buffer_type, |object| owning.get(&object)) {
                blocks.freed = Some(Space {
                    freed_at: Some(at),
                    ..space
                });
            }
            (blocks.range, blocks.device) = (None, None);
        }
    }

    /// The banks that a buffer was asked of. `in_detail`: with what lies where.
    pub fn asked<'a>(
        &self,
        buffer: &Buffer,
        in_detail: bool,
        owning: impl Fn(ObjectPointer) -> Option<&'a LiveBuffer>,
    ) -> Asked {
        let blocks = self.by_type.get(&(buffer.allocator, buffer.buffer_type));
        let range = blocks.and_then(|blocks| blocks.range);
        // One that never gave anything has all of it.
        let room = blocks.map_or(Some(Room::default()), Blocks::room);
        let space = in_detail.then(|| {
            let space = blocks.and_then(|blocks| blocks.space(buffer.buffer_type, owning));
            Space {
                complete: !self.misses_some,
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
        Asked {
            room: room.filter(|_| !self.misses_some),
            range,
            space,
        }
    }

    /// Not all that is in use is known.
    pub fn misses_some(&mut self) {
        self.misses_some = true;
    }

    /// The lengths of blocks turned out not to be what they were taken for.
    pub fn forget_lengths(&mut self) {
        for blocks in self.by_type.values_mut() {
            let in_use = blocks.in_use.values_mut();
            in_use.for_each(|(_, bytes)| *bytes = None);
            blocks.freed.iter_mut().for_each(Space::forget_lengths);
        }
    }
}
