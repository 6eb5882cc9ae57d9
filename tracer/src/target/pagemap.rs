//! Which pages of a process are resident, found out without touching them.

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _};

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// The page is in memory.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is a file's, or shared anonymous memory: this process has made no copy of its own.
const OF_A_FILE: u64 = 1 << 61;

/// `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`): one word a page. `None` where it
/// can't be opened.
pub(super) struct PageMap(Option<File>);

impl PageMap {
    pub(super) fn open(pid: u32) -> Self {
        Self(File::open(format!("/proc/{pid}/pagemap")).ok())
    }

    /// The resident or swapped parts of a range; the whole range where the pagemap can't be read.
    pub(super) fn resident(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pages_with(range, |word| word & (PRESENT | SWAPPED) != 0)
    }

    /// The parts of a private range that the process has written to; the whole range where the pagemap
    /// can't be read.
    pub(super) fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pages_with(range, |word| {
            word & (PRESENT | SWAPPED) != 0 && word & OF_A_FILE == 0
        })
    }

    fn pages_with(&self, range: Range<u64>, is_wanted: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
        let first = range.start / PAGE;
        let mut words = vec![0; ((range.end.div_ceil(PAGE) - first) * 8) as usize];
        let read = self
            .0
            .as_ref()
            .is_some_and(|file| file.read_exact_at(&mut words, first * 8).is_ok());
        if !read {
            return vec![range];
        }
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (number, word) in (first..).zip(words.as_chunks::<8>().0) {
            if !is_wanted(u64::from_le_bytes(*word)) {
                continue;
            }
            let at = number * PAGE;
            match parts.last_mut() {
                Some(last) if last.end == at => last.end += PAGE,
                _ => parts.push(at..at + PAGE),
            }
        }
        parts
    }
}
