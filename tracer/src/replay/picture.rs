//! A picture of the target's memory, page by page, with room for what a function writes.

use std::collections::HashMap;

use super::Unreadable;

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;

/// What stands in a page.
pub type PageBytes = [u8; PAGE_LEN];

const PAGE: u64 = PAGE_LEN as u64;
const WORDS: usize = PAGE_LEN / 8;

/// The target's memory.
pub trait ReadMemory {
    /// Fills `bytes` with what stands at `address`.
    ///
    /// # Errors
    /// When not all of it is mapped.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable>;

    /// Reads whole pages, by their numbers, in as short a time as can be. `None` for one that isn't
    /// mapped.
    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        numbers
            .iter()
            .map(|number| {
                let mut bytes = Box::new([0; PAGE_LEN]);
                let read = self.read(number * PAGE, bytes.as_mut_slice());
                read.is_ok().then_some(bytes)
            })
            .collect()
    }
}

impl<T: ReadMemory + ?Sized> ReadMemory for &T {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(address, bytes)
    }

    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        (**self).pages(numbers)
    }
}

/// A page as it was when it was first looked at.
struct Page {
    original: Box<PageBytes>,
    /// The same page, read again right after all that were read together with it.
    again: Option<Box<PageBytes>>,
    /// What it became by the function's own writes.
    written: Option<Box<PageBytes>>,
    /// One bit for each eight bytes that were read.
    read: [u64; WORDS / 64],
}

/// Memory as it was when each of its pages was first looked at, and what was written since, which
/// the target never sees.
pub struct Picture<'a> {
    memory: &'a dyn ReadMemory,
    pages: HashMap<u64, Page>,
    /// How many of them are the target's.
    fetched: u64,
    /// The next free byte of [`HEAP`].
    free: u64,
}

/// Where memory of the replayed functions' own lies: in the kernel's half of the address space,
/// where no process has any.
const HEAP: u64 = 0xffff_a000_0000_0000;
const STACK_TOP: u64 = 0xffff_9000_0010_0000;
const STACK_LEN: u64 = 0x10_0000;
/// The most that replayed functions may allocate.
const HEAP_LEN: u64 = 1 << 30;

impl<'a> Picture<'a> {
    pub fn of(memory: &'a dyn ReadMemory) -> Self {
        Self {
            memory,
            pages: HashMap::new(),
            fetched: 0,
            free: HEAP,
        }
    }

    /// Begins with these pages, by their numbers, all read within a short time, twice.
    pub fn begin_with(&mut self, numbers: &[u64]) {
        let first = self.memory.pages(numbers);
        let second = self.memory.pages(numbers);
        for ((number, original), again) in numbers.iter().zip(first).zip(second) {
            if let (Some(original), Some(again)) = (original, again) {
                let page = Page {
                    original,
                    again: Some(again),
                    written: None,
                    read: [0; WORDS / 64],
                };
                self.pages.insert(*number, page);
                self.fetched += 1;
            }
        }
    }

    /// The numbers of the target's pages that were looked at.
    pub fn looked_at(&self) -> Vec<u64> {
        let looked_at = |(number, page): (&u64, &Page)| {
            let is_used = !Self::is_own(number * PAGE) && page.read != [0; WORDS / 64];
            is_used.then_some(*number)
        };
        let mut numbers: Vec<u64> = self.pages.iter().filter_map(looked_at).collect();
        numbers.sort_unstable();
        numbers
    }

    /// How many of the target's pages there are.
    pub fn page_count(&self) -> u64 {
        self.fetched
    }

    /// The end of memory to use as a stack.
    pub fn stack_top() -> u64 {
        STACK_TOP
    }

    fn is_own(address: u64) -> bool {
        (HEAP..HEAP + HEAP_LEN).contains(&address)
            || (STACK_TOP - STACK_LEN..STACK_TOP).contains(&address)
    }

    /// Zeroed memory of the picture's own. `None` when there is no more.
    pub fn allocate(&mut self, len: u64) -> Option<u64> {
        let at = self.free;
        let end = at.checked_add(len.max(1))?.checked_next_multiple_of(16)?;
        (end <= HEAP + HEAP_LEN).then(|| {
            self.free = end;
            at
        })
    }

    fn page(&mut self, number: u64) -> Result<&mut Page, Unreadable> {
        match self.pages.entry(number) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let mut original = Box::new([0; PAGE_LEN]);
                let address = number * PAGE;
                if !Self::is_own(address) {
                    self.fetched += 1;
                    self.memory.read(address, original.as_mut_slice())?;
                }
                Ok(entry.insert(Page {
                    original,
                    again: None,
                    written: None,
                    read: [0; WORDS / 64],
                }))
            }
        }
    }

    /// The parts of `len` bytes at `address`, page by page: page, first byte in it, length.
    fn parts(
        address: u64,
        len: usize,
    ) -> Result<impl Iterator<Item = (u64, usize, usize)>, Unreadable> {
        let end = address
            .checked_add(len as u64)
            .ok_or(Unreadable { address })?;
        let mut at = address;
        Ok(std::iter::from_fn(move || {
            (at < end).then(|| {
                let (page, first) = (at / PAGE, (at % PAGE) as usize);
                let length = (end - at).min(PAGE - at % PAGE) as usize;
                at += length as u64;
                (page, first, length)
            })
        }))
    }

    /// Fills `bytes` with what stands at `address`.
    ///
    /// # Errors
    /// When not all of it is mapped.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut rest = bytes;
        for (number, first, length) in Self::parts(address, rest.len())? {
            let page = self.page(number)?;
            for word in first / 8..(first + length).div_ceil(8) {
                page.read[word / 64] |= 1 << (word % 64);
            }
            let source = page.written.as_ref().unwrap_or(&page.original);
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&source[first..first + length]);
            rest = later;
        }
        Ok(())
    }

    /// Writes into the picture.
    ///
    /// # Errors
    /// When not all of it is mapped.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Unreadable> {
        let mut rest = bytes;
        for (number, first, length) in Self::parts(address, rest.len())? {
            let page = self.page(number)?;
            let original = &page.original;
            let target = page.written.get_or_insert_with(|| original.clone());
            let (now, later) = rest.split_at(length);
            target[first..first + length].copy_from_slice(now);
            rest = later;
        }
        Ok(())
    }

    /// A little-endian number of `width` bytes, at most 8.
    ///
    /// # Errors
    /// When it isn't mapped.
    pub fn number(&mut self, address: u64, width: usize) -> Result<u64, Unreadable> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..width.min(8)])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Whether all that was used of the target stood there when it was read again: then it was all
    /// there at one time.
    pub fn is_of_one_moment(&self) -> bool {
        let used = || {
            self.pages.iter().filter(|(number, page)| {
                !Self::is_own(*number * PAGE) && page.read != [0; WORDS / 64]
            })
        };
        let alone: Vec<u64> = used()
            .filter(|(_, page)| page.again.is_none())
            .map(|(number, _)| *number)
            .collect();
        // All those that were read one by one, or none: what was read together was read before.
        if alone.is_empty() {
            return used().all(|(_, page)| {
                let again = page.again.as_deref();
                again.is_some_and(|again| page.stands_in(again))
            });
        }
        let numbers: Vec<u64> = used().map(|(number, _)| *number).collect();
        let now = self.memory.pages(&numbers);
        used().zip(now).all(|((_, page), now)| {
            let now = now.as_deref();
            now.is_some_and(|now| page.stands_in(now))
        })
    }
}

impl Page {
    /// Whether what was read of the page stands in `other`.
    fn stands_in(&self, other: &PageBytes) -> bool {
        (0..WORDS)
            .filter(|word| self.read[word / 64] & (1 << (word % 64)) != 0)
            .all(|word| {
                let bytes = word * 8..word * 8 + 8;
                other[bytes.clone()] == self.original[bytes]
            })
    }
}
