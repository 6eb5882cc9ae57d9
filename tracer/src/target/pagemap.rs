//! Which pages of a process are there, without asking for them.

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _};

pub(super) const PAGE: u64 = 4096;

/// Such a page is in memory.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// It is a file's, or shared: nobody wrote to it in this process alone.
const OF_A_FILE: u64 = 1 << 61;

/// `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`): one word a page.
pub(super) struct PageMap(Option<File>);

impl PageMap {
    pub(super) fn of(pid: u32) -> Self {
        Self(File::open(format!("/proc/{pid}/pagemap")).ok())
    }

    /// The resident parts of a range; all of it where that can't be known.
    pub(super) fn resident(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pages_with(range, |word| word & (PRESENT | SWAPPED) != 0)
    }

    /// The parts of a private range that the process wrote to; all of it where that can't be known.
    pub(super) fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pages_with(range, |word| {
            word & (PRESENT | SWAPPED) != 0 && word & OF_A_FILE == 0
        })
    }

    fn pages_with(&self, range: Range<u64>, wanted: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
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
            if !wanted(u64::from_le_bytes(*word)) {
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
