//! Objects that a library's own data leads to.

use std::{collections::HashSet, ops::Range};

use super::{ProcessMemory, TargetError, mapping::maps, pagemap::PageMap, search::is_heap};

/// As much is looked at of an object: the pointers in an array of more than a hundred devices.
const OBJECT: u64 = 1024;

/// So many objects are looked at, the nearest ones first. In ttnn 0.62 to 0.81 each device that is
/// open is among the nearest 40,000 of a program that has just opened it; most of those are symbols'
/// hash tables and caches.
const MOST_OBJECTS: usize = 1 << 16;

/// The process's heap, to tell what may be a pointer into it.
struct Heap(Vec<Range<u64>>);

impl Heap {
    /// The range that an address lies in.
    fn around(&self, address: u64) -> Option<&Range<u64>> {
        let behind = self.0.partition_point(|range| range.start <= address);
        let range = self.0.get(behind.checked_sub(1)?)?;
        range.contains(&address).then_some(range)
    }
}

impl ProcessMemory {
    /// Where in the heap words stand that have one of the `wanted` values, as far as pointers lead
    /// there from `roots`, the writable data of a library: what the library keeps lists of. It takes
    /// as long in a process with much memory as in one with little.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn reach(&self, roots: &[Range<u64>], wanted: &[u64]) -> Result<Vec<u64>, TargetError> {
        let heap = Heap(
            maps(self.pid())?
                .iter()
                .filter(|map| is_heap(map))
                .map(|map| map.address.0..map.address.1)
                .collect(),
        );
        let pagemap = PageMap::of(self.pid());
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
                    } else if met.len() < MOST_OBJECTS
                        && word.is_multiple_of(8)
                        && let Some(range) = heap.around(word)
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
