//! Searches a process's whole heap.

use std::ops::Range;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{
    ProcessMemory, TargetError,
    mapping::maps,
    pagemap::{PAGE, PageMap},
};

/// Bytes that are read at a time: they fit the second-level cache.
const STRIDE: u64 = 256 << 10;

impl ProcessMemory {
    /// Returns the addresses of all words in the heap that have one of the `wanted` values. The heap is
    /// all private writable memory of the process that no file backs, but for its main stack. Calls
    /// `goes_on` before each read and returns `None` once that returns false.
    ///
    /// Pages that aren't resident are skipped, since reading would make them resident. Of a block so
    /// large that `malloc` mapped it by itself only the first page is searched: no object whose class
    /// has a vtable is so large.
    ///
    /// # Errors
    /// When the process has ended or this user may not look at it.
    pub(crate) fn find_in_heap(
        &self,
        wanted: &[u64],
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<Vec<u64>>, TargetError> {
        let (Some(least), Some(most)) = (wanted.iter().min(), wanted.iter().max()) else {
            return Ok(Some(Vec::new()));
        };
        let span = most - least;
        let pagemap = PageMap::open(self.pid());
        let mut found = Vec::new();
        let mut bytes = vec![0; STRIDE as usize];
        for map in maps(self.pid())?.iter().filter(|map| is_heap(map)) {
            let parts = self
                .without_large_blocks(map.address.0..map.address.1)
                .into_iter()
                .flat_map(|range| pagemap.resident(range))
                .flat_map(pieces);
            for piece in parts {
                if !goes_on() {
                    return Ok(None);
                }
                let len = (piece.end - piece.start) as usize;
                let len = self.read_some(piece.start, &mut bytes[..len]);
                for (at, word) in (piece.start..)
                    .step_by(8)
                    .zip(bytes[..len].as_chunks::<8>().0)
                {
                    let word = u64::from_le_bytes(*word);
                    if word.wrapping_sub(*least) <= span && wanted.contains(&word) {
                        found.push(at);
                    }
                }
            }
        }
        Ok(Some(found))
    }

    /// A range without what lies behind the first page of blocks that `malloc` mapped by themselves.
    fn without_large_blocks(&self, range: Range<u64>) -> Vec<Range<u64>> {
        /// The low three bits of `malloc_chunk::mchunk_size` (glibc, `malloc/malloc.c`) are flags. A
        /// block that was mapped by itself has only this one set, and its size is a multiple of a page.
        const IS_MMAPPED: u64 = 2;
        let mut kept = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let mut size = [0; 8];
            let length = match self.read_some(at + 8, &mut size) {
                8 => u64::from_le_bytes(size),
                _ => 0,
            };
            let block = length.wrapping_sub(IS_MMAPPED);
            if block.is_multiple_of(PAGE) && block >= PAGE && block <= range.end - at {
                kept.push(at..at + PAGE);
                at += block;
            } else {
                kept.push(at..range.end);
                break;
            }
        }
        kept
    }
}

/// Whether a memory allocator may have put objects into a mapping.
pub(super) fn is_heap(map: &MemoryMap) -> bool {
    map.perms
        .contains(MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE)
        && matches!(
            map.pathname,
            MMapPath::Heap | MMapPath::Anonymous | MMapPath::Other(_)
        )
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(STRIDE as usize)
        .map(move |at| at..(at + STRIDE).min(end))
}
