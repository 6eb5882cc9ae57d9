//! Reads which addresses the allocators of traced processes can give: when an event first names an
//! allocator, and again when an allocation has failed. A reading takes less than a millisecond, and no
//! longer in a large process.

use std::collections::{BTreeMap, HashMap};

use super::{banks::BankMap, target_library::TargetLibrary};
use crate::ledger::{AllocatorPointer, BankRange, Buffer, BufferType, Event, EventKind};

/// How often an allocator that can't be read is tried: each attempt costs time.
const MAX_ATTEMPTS: u32 = 5;

/// Which addresses an allocator can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllocatorRanges {
    pub allocator: AllocatorPointer,
    pub ranges: Vec<(BufferType, BankRange)>,
    /// The block lengths that the probes record aren't those that the allocator uses: every length that
    /// was recorded so far is wrong.
    pub lengths_are_wrong: bool,
}

/// How far the reading of an allocator has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Whether the last reading still holds.
    is_current: bool,
    was_read: bool,
    /// Failed attempts since the last reading.
    attempts: u32,
}

/// Reads allocators when events give a reason to.
#[derive(Default)]
pub(crate) struct RangeReader {
    /// By process, which may have loaded several copies of the library.
    libraries: HashMap<u32, Vec<TargetLibrary>>,
    allocators: HashMap<(u32, AllocatorPointer), Progress>,
    /// Whether the recorded block lengths of a process are right, where that was checked.
    lengths_are_right: HashMap<u32, bool>,
}

impl RangeReader {
    /// Adds a process that has this library.
    pub(crate) fn want(&mut self, library: TargetLibrary) {
        let libraries = self.libraries.entry(library.pid()).or_default();
        let is_known = |known: &TargetLibrary| known.file.file == library.file.file;
        if !libraries.iter().any(is_known) {
            libraries.push(library);
        }
    }

    /// A process has ended or executed another program.
    pub(crate) fn forget(&mut self, pid: u32) {
        self.libraries.remove(&pid);
        self.allocators.retain(|(of, _), _| *of != pid);
        self.lengths_are_right.remove(&pid);
    }

    /// Reads the allocator that an event names, if the event is a reason to. Removes the event's block
    /// length where recorded lengths are known to be wrong.
    pub(crate) fn observe(&mut self, event: &mut Event) -> Option<AllocatorRanges> {
        let pid = event.pid;
        match &mut event.kind {
            EventKind::Allocate(buffer) => {
                let ranges = self.read(pid, buffer, false);
                if self.lengths_are_right.get(&pid) == Some(&false) {
                    buffer.bytes_per_bank = None;
                }
                ranges
            }
            // The ranges may have changed: an allocator can be shrunk.
            EventKind::Failed(buffer) => self.read(pid, buffer, true),
            EventKind::BulkFree(allocator) => {
                self.allocators.remove(&(pid, *allocator));
                None
            }
            _ => None,
        }
    }

    /// Reads a buffer's allocator. `again`: even if its ranges are known.
    fn read(&mut self, pid: u32, buffer: &Buffer, again: bool) -> Option<AllocatorRanges> {
        let &Buffer {
            allocator,
            buffer_type,
            ..
        } = buffer;
        let libraries = self.libraries.get(&pid)?;
        let progress = self.allocators.entry((pid, allocator)).or_default();
        if progress.is_current && !again || progress.attempts == MAX_ATTEMPTS {
            return None;
        }
        progress.attempts += 1;
        let (library, maps) = read_maps(libraries, allocator)?;
        let is_new = !progress.was_read;
        *progress = Progress {
            is_current: true,
            was_read: true,
            attempts: 0,
        };
        if is_new {
            // A new allocator may have taken its addresses from another one, as with sub-devices.
            for ((of, other), progress) in &mut self.allocators {
                progress.is_current &= *of != pid || *other == allocator;
            }
        }
        let mut lengths_are_wrong = false;
        if !self.lengths_are_right.contains_key(&pid)
            && let Some(are_right) = library.recorded_lengths_are_right(allocator, buffer_type)
        {
            self.lengths_are_right.insert(pid, are_right);
            lengths_are_wrong = !are_right;
        }
        Some(AllocatorRanges {
            allocator,
            ranges: ranges(maps),
            lengths_are_wrong,
        })
    }

    /// Reads every allocator of the running processes again, at the end of a trace.
    pub(crate) fn read_again(&self) -> Vec<(u32, AllocatorRanges)> {
        let allocators = self.allocators.iter();
        allocators
            .filter(|(_, progress)| progress.was_read)
            .filter_map(|((pid, allocator), _)| {
                let (_, maps) = read_maps(self.libraries.get(pid)?, *allocator)?;
                let ranges = AllocatorRanges {
                    allocator: *allocator,
                    ranges: ranges(maps),
                    lengths_are_wrong: false,
                };
                Some((*pid, ranges))
            })
            .collect()
    }
}

/// Reads the maps of an allocator by the library that it belongs to.
fn read_maps(
    libraries: &[TargetLibrary],
    allocator: AllocatorPointer,
) -> Option<(&TargetLibrary, BTreeMap<BufferType, BankMap>)> {
    let mut libraries = libraries.iter();
    libraries.find_map(|library| Some((library, library.bank_maps(allocator)?)))
}

fn ranges(maps: BTreeMap<BufferType, BankMap>) -> Vec<(BufferType, BankRange)> {
    let maps = maps.into_iter();
    maps.map(|(buffer_type, map)| (buffer_type, map.range))
        .collect()
}
