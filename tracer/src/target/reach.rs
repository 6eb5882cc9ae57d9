//! Finds objects in the heap by following pointers from a library's own variables.

use std::{collections::HashSet, ops::Range};

use super::{ProcessMemory, TargetError, mapping::maps, pagemap::PageMap, search::is_heap};

/// Bytes that are read of each object: enough for the pointers in an array of more than a hundred devices.
const OBJECT: u64 = 1024;

/// The largest number of objects that are read, the nearest ones first. In ttnn 0.62 to 0.81 each open
/// device is among the nearest 40,000 objects of a program that has just opened it; most of those are
/// symbols' hash tables and caches.
const MAX_OBJECTS: usize = 1 << 16;

/// The ranges of the process's heap, in order of address: what points into them may be a pointer.
struct Heap(Vec<Range<u64>>);

impl Heap {
    /// The range that an address lies in.
    fn range_of(&self, address: u64) -> Option<&Range<u64>> {
        let behind = self.0.partition_point(|range| range.start <= address);
        let range = self.0.get(behind.checked_sub(1)?)?;
        range.contains(&address).then_some(range)
    }
}

impl ProcessMemory {
    /// Follows pointers from `roots`, the writable data of a library, and returns the addresses of all
    /// words in the heap that have one of the `wanted` values. This finds whatever the library keeps lists
    /// of, and takes no longer in a process with much memory than in one with little.
    ///
    /// # Errors
    /// When the process has ended or this user may not look at it.
    pub(crate) fn find_reachable(
        &self,
        roots: &[Range<u64>],
        wanted: &[u64],
    ) -> Result<Vec<u64>, TargetError> {
        let heap = Heap(
            maps(self.pid())?
                .iter()
                .filter(|map| is_heap(map))
                .map(|map| map.address.0..map.address.1)
                .collect(),
        );
        let pagemap = PageMap::open(self.pid());
        let mut next: Vec<Range<u64>> = roots
            .iter()
            .flat_map(|root| pagemap.written(root.clone()))
            .collect();
        let mut met = HashSet::new();
        let mut found = HashSet::new();
        while !next.is_empty() {
            let mut further = Vec::new();
            self.read_each(&next, |address, bytes| {
                for (at, word) in (address..).step_by(8).zip(bytes.as_chunks::<8>().0) {
                    let word = u64::from_le_bytes(*word);
                    if wanted.contains(&word) {
                        found.insert(at);
                    } else if met.len() < MAX_OBJECTS
                        && word.is_multiple_of(8)
                        && let Some(range) = heap.range_of(word)
                        && met.insert(word)
                    {
                        further.push(word..range.end.min(word + OBJECT));
                    }
                }
            });
            next = further;
        }
        let mut found: Vec<u64> = found.into_iter().collect();
        found.sort_unstable();
        Ok(found)
    }
}
