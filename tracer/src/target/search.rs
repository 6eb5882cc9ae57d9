//! A process's heap, searched from end to end.

use std::ops::Range;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{
    ProcessMemory, TargetError,
    mapping::maps,
    pagemap::{PAGE, PageMap},
};

/// So much is read at a time: it fits the second-level cache.
const STRIDE: u64 = 256 << 10;

impl ProcessMemory {
    /// Where in the heap a word stands that has one of the `wanted` values: all of the process's
    /// private writable memory that no file backs, its main stack excepted. Asks `go_on` now and then
    /// and returns `None` when it says no.
    ///
    /// What isn't resident is left alone, since reading it would make it so. Blocks so large that
    /// `malloc` mapped them by themselves aren't searched behind their first page: an object whose
    /// class has a vtable isn't so large.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn find(
        &self,
        wanted: &[u64],
        go_on: impl Fn() -> bool,
    ) -> Result<Option<Vec<u64>>, TargetError> {
        let (Some(least), Some(most)) = (wanted.iter().min(), wanted.iter().max()) else {
            return Ok(Some(Vec::new()));
        };
        let span = most - least;
        let pagemap = PageMap::of(self.pid());
        let mut found = Vec::new();
        let mut bytes = vec![0; STRIDE as usize];
        for map in maps(self.pid())?.iter().filter(|map| is_heap(map)) {
            let parts = self
                .without_large_blocks(map.address.0..map.address.1)
                .into_iter()
                .flat_map(|range| pagemap.resident(range))
                .flat_map(pieces);
            for piece in parts {
                if !go_on() {
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

    /// Leaves out what lies behind the first page of blocks that `malloc` mapped by themselves.
    fn without_large_blocks(&self, range: Range<u64>) -> Vec<Range<u64>> {
        /// `malloc_chunk::mchunk_size` (glibc, `malloc/malloc.c`): of its low three bits, mapped by
        /// itself sets only this one; its size is in pages.
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

/// Whether `malloc` or the like may have put objects there.
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
