//! A memory overlay: the target's memory, page by page, with the changes that replayed functions make.

use std::collections::HashMap;

use crate::target::{PAGE_LEN, PageBytes, ReadMemory, Unreadable};

const PAGE: u64 = PAGE_LEN as u64;
const WORDS: usize = PAGE_LEN / 8;

/// A page as it was when it was first read.
struct Page {
    original: Box<PageBytes>,
    /// The same page, read again right after all pages that were read together with it.
    again: Option<Box<PageBytes>>,
    /// The page with the replayed functions' own changes.
    written: Option<Box<PageBytes>>,
    /// One bit per eight bytes, set if a replayed function has read them.
    read: [u64; WORDS / 64],
}

/// The target's memory as it was when each page was first read, overlaid with the changes of replayed
/// functions, which the target never sees.
pub(crate) struct Overlay<'a> {
    memory: &'a dyn ReadMemory,
    pages: HashMap<u64, Page>,
    /// How many pages were requested from the target.
    fetched: u64,
    /// The next free byte of [`HEAP`].
    free: u64,
}

/// The start of the replayed functions' heap. Heap and stack lie in the kernel's half of the address space,
/// where no process has memory.
const HEAP: u64 = 0xffff_a000_0000_0000;
/// How much memory replayed functions may allocate, in bytes.
const HEAP_LEN: u64 = 1 << 30;
/// The end of the replayed functions' stack.
const STACK_TOP: u64 = 0xffff_9000_0010_0000;
/// The length of that stack, in bytes.
const STACK_LEN: u64 = 0x10_0000;

impl<'a> Overlay<'a> {
    /// An overlay without changes. Pages are read when they are needed.
    pub(crate) fn new(memory: &'a dyn ReadMemory) -> Self {
        Self {
            memory,
            pages: HashMap::new(),
            fetched: 0,
            free: HEAP,
        }
    }

    /// Reads these pages, by their numbers, in advance and within a short time. It reads them twice, so that
    /// [`Self::is_consistent`] can compare.
    pub(crate) fn prefetch(&mut self, numbers: &[u64]) {
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

    /// The numbers of the target's pages that replayed functions have read, in ascending order.
    pub(crate) fn pages_read(&self) -> Vec<u64> {
        let read = |(number, page): (&u64, &Page)| {
            let is_used = !Self::is_own(number * PAGE) && page.read != [0; WORDS / 64];
            is_used.then_some(*number)
        };
        let mut numbers: Vec<u64> = self.pages.iter().filter_map(read).collect();
        numbers.sort_unstable();
        numbers
    }

    /// How many pages were requested from the target so far.
    pub(crate) fn page_count(&self) -> u64 {
        self.fetched
    }

    /// The end of the memory that replayed functions use as their stack.
    pub(crate) fn stack_top() -> u64 {
        STACK_TOP
    }

    /// Whether an address lies in the heap or stack of replayed functions.
    fn is_own(address: u64) -> bool {
        (HEAP..HEAP + HEAP_LEN).contains(&address)
            || (STACK_TOP - STACK_LEN..STACK_TOP).contains(&address)
    }

    /// Allocates zeroed memory from the replayed functions' heap. `None` if it is full.
    pub(crate) fn allocate(&mut self, len: u64) -> Option<u64> {
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

    /// Splits `len` bytes at `address` by pages: page number, offset in the page and length of each part.
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

    /// Fills `bytes` from the memory at `address`.
    ///
    /// # Errors
    /// When not all of it is mapped.
    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
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

    /// Writes into the overlay.
    ///
    /// # Errors
    /// When not all of it is mapped.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Unreadable> {
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

    /// Reads a little-endian number of `width` bytes, at most 8.
    ///
    /// # Errors
    /// When it isn't mapped.
    pub(crate) fn number(&mut self, address: u64, width: usize) -> Result<u64, Unreadable> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..width.min(8)])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Whether everything that replayed functions have read of the target is unchanged when it is read
    /// again. Then all of it was in memory at the same time.
    pub(crate) fn is_consistent(&self) -> bool {
        let used = || {
            self.pages.iter().filter(|(number, page)| {
                !Self::is_own(*number * PAGE) && page.read != [0; WORDS / 64]
            })
        };
        // If every page was prefetched, its second reading is at hand. Otherwise all pages are read again: the
        // prefetched ones were read before the others.
        if used().all(|(_, page)| page.again.is_some()) {
            return used().all(|(_, page)| {
                let again = page.again.as_deref();
                again.is_some_and(|again| page.is_unchanged_in(again))
            });
        }
        let numbers: Vec<u64> = used().map(|(number, _)| *number).collect();
        let now = self.memory.pages(&numbers);
        used().zip(now).all(|((_, page), now)| {
            let now = now.as_deref();
            now.is_some_and(|now| page.is_unchanged_in(now))
        })
    }
}

impl Page {
    /// Whether the bytes of this page that were read are the same in `other`.
    fn is_unchanged_in(&self, other: &PageBytes) -> bool {
        (0..WORDS)
            .filter(|word| self.read[word / 64] & (1 << (word % 64)) != 0)
            .all(|word| {
                let bytes = word * 8..word * 8 + 8;
                other[bytes.clone()] == self.original[bytes]
            })
    }
}
