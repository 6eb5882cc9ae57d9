//! A process's memory, read from outside: nothing is written, nothing is stopped, and pages that
//! aren't there aren't asked for.

use std::{fs::File, io::IoSliceMut, ops::Range, os::unix::fs::FileExt as _, sync::Mutex, thread};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};
use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{TargetError, mapping::maps};
use crate::replay::{PAGE_LEN, PageBytes, ReadMemory, Unreadable};

const PAGE: u64 = 4096;

/// So much is read at a time while memory is searched: it fits the second-level cache.
const STRIDE: u64 = 256 << 10;

/// Reads a process's memory (`process_vm_readv`, Linux 3.2).
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
}

/// An eight-byte word of a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word {
    pub address: u64,
    pub value: u64,
}

impl ProcessMemory {
    pub fn of(pid: u32) -> Self {
        Self {
            pid: Pid::from_raw(pid as i32),
        }
    }

    /// Reads as much of `bytes.len()` bytes from `address` on as is mapped without a gap.
    fn read_some(&self, address: u64, bytes: &mut [u8]) -> usize {
        let (Ok(base), len) = (usize::try_from(address), bytes.len()) else {
            return 0;
        };
        let remote = RemoteIoVec { base, len };
        process_vm_readv(self.pid, &mut [IoSliceMut::new(bytes)], &[remote]).unwrap_or(0)
    }

    /// Where in the heap a word stands that has one of the `wanted` values: all of the process's
    /// private writable memory that no file backs, its main stack excepted.
    ///
    /// What isn't resident is left alone, since reading it would make it so. Blocks so large that
    /// `malloc` mapped them by themselves aren't searched behind their first page: an object whose
    /// class has a vtable isn't so large.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn find(&self, wanted: &[u64]) -> Result<Vec<Word>, TargetError> {
        let pid = self.pid.as_raw().unsigned_abs();
        let pagemap = PageMap::of(pid);
        let mut ranges = Vec::new();
        for map in maps(pid)?.iter().filter(|map| is_heap(map)) {
            for range in self.without_large_blocks(map.address.0..map.address.1) {
                pagemap.resident(range, &mut ranges);
            }
        }
        let found = Mutex::new(Vec::new());
        let next = Mutex::new(pieces(ranges));
        let workers = thread::available_parallelism().map_or(1, |n| n.get().min(4));
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| self.search(&next, wanted, &found));
            }
        });
        let mut found = found.into_inner().unwrap_or_default();
        found.sort_unstable();
        Ok(found)
    }

    fn search(
        &self,
        next: &Mutex<impl Iterator<Item = Range<u64>>>,
        wanted: &[u64],
        found: &Mutex<Vec<Word>>,
    ) {
        let (Some(least), Some(most)) = (wanted.iter().min(), wanted.iter().max()) else {
            return;
        };
        let span = most - least;
        let mut bytes = vec![0; STRIDE as usize];
        loop {
            let piece = next.lock().ok().and_then(|mut next| next.next());
            let Some(piece) = piece else { return };
            let len = self.read_some(
                piece.start,
                &mut bytes[..(piece.end - piece.start) as usize],
            );
            for (i, word) in bytes[..len].chunks_exact(8).enumerate() {
                let value = word
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte));
                if value.wrapping_sub(*least) <= span
                    && wanted.contains(&value)
                    && let Ok(mut found) = found.lock()
                {
                    found.push(Word {
                        address: piece.start + 8 * i as u64,
                        value,
                    });
                }
            }
        }
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

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        if self.read_some(address, bytes) == bytes.len() {
            Ok(())
        } else {
            Err(Unreadable { address })
        }
    }

    /// By few system calls: so little time lies between the first page and the last.
    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        /// `UIO_MAXIOV` (Linux, `include/uapi/linux/uio.h`).
        const MOST: usize = 1024;
        let mut pages: Vec<_> = numbers
            .iter()
            .map(|_| Some(Box::new([0; PAGE_LEN])))
            .collect();
        let mut begun = 0;
        while begun < pages.len() {
            let end = pages.len().min(begun + MOST);
            let remote: Vec<RemoteIoVec> = numbers[begun..end]
                .iter()
                .map(|number| RemoteIoVec {
                    base: (*number as usize).wrapping_mul(PAGE_LEN),
                    len: PAGE_LEN,
                })
                .collect();
            let mut local: Vec<IoSliceMut<'_>> = pages[begun..end]
                .iter_mut()
                .flatten()
                .map(|page| IoSliceMut::new(page.as_mut_slice()))
                .collect();
            let read = process_vm_readv(self.pid, &mut local, &remote).unwrap_or(0) / PAGE_LEN;
            begun += read;
            // It stops at a page that isn't mapped.
            if begun < end {
                pages[begun] = None;
                begun += 1;
            }
        }
        pages
    }
}

fn is_heap(map: &MemoryMap) -> bool {
    map.perms
        .contains(MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE)
        && matches!(
            map.pathname,
            MMapPath::Heap | MMapPath::Anonymous | MMapPath::Other(_)
        )
}

fn pieces(ranges: Vec<Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    ranges.into_iter().flat_map(|range| {
        let (start, end) = (range.start, range.end);
        (start..end)
            .step_by(STRIDE as usize)
            .map(move |at| at..(at + STRIDE).min(end))
    })
}

/// `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`): one word a page.
struct PageMap(Option<File>);

impl PageMap {
    fn of(pid: u32) -> Self {
        Self(File::open(format!("/proc/{pid}/pagemap")).ok())
    }

    /// Adds the resident parts of a range to `ranges`; all of it where that can't be known.
    fn resident(&self, range: Range<u64>, ranges: &mut Vec<Range<u64>>) {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        let mut words = vec![0; ((range.end - range.start) / PAGE * 8) as usize];
        let read = self.0.as_ref().is_some_and(|file| {
            file.read_exact_at(&mut words, range.start / PAGE * 8)
                .is_ok()
        });
        if !read {
            ranges.push(range);
            return;
        }
        let mut last: Option<Range<u64>> = None;
        for (i, word) in words.chunks_exact(8).enumerate() {
            let word = word
                .iter()
                .rev()
                .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            if word & (PRESENT | SWAPPED) == 0 {
                continue;
            }
            let at = range.start + i as u64 * PAGE;
            match &mut last {
                Some(last) if last.end == at => last.end += PAGE,
                _ => ranges.extend(last.replace(at..at + PAGE)),
            }
        }
        ranges.extend(last);
    }
}
