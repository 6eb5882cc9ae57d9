//! Reads a process's memory from outside, without writing to it or stopping the process.

use std::{io::IoSliceMut, ops::Range};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

use super::{PAGE_LEN, PageBytes, ReadMemory, Unreadable};

/// The most parts that one system call reads: `UIO_MAXIOV` (Linux, `include/uapi/linux/uio.h`).
const MAX_PARTS: usize = 1024;

/// Reads a process's memory (`process_vm_readv`, Linux 3.2).
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pid: Pid,
}

impl ProcessMemory {
    pub(crate) fn new(pid: u32) -> Self {
        Self {
            pid: Pid::from_raw(pid as i32),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Reads up to `bytes.len()` bytes from `address` on, as far as memory is mapped without a gap.
    /// Returns how many.
    pub(super) fn read_some(&self, address: u64, bytes: &mut [u8]) -> usize {
        let (Ok(base), len) = (usize::try_from(address), bytes.len()) else {
            return 0;
        };
        let remote = RemoteIoVec { base, len };
        process_vm_readv(self.pid, &mut [IoSliceMut::new(bytes)], &[remote]).unwrap_or(0)
    }

    /// Reads many ranges and calls `each` with the address and the bytes of every range that is mapped.
    pub(super) fn read_each(&self, ranges: &[Range<u64>], mut each: impl FnMut(u64, &[u8])) {
        for ranges in ranges.chunks(MAX_PARTS) {
            let length = |range: &Range<u64>| (range.end - range.start) as usize;
            let mut bytes = vec![0; ranges.iter().map(length).sum()];
            let mut rest = bytes.as_mut_slice();
            let mut parts = Vec::with_capacity(ranges.len());
            for range in ranges {
                let (part, behind) = rest.split_at_mut(length(range));
                parts.push((range.start, part));
                rest = behind;
            }
            let read = self.gather(&mut parts);
            for ((address, bytes), _) in parts.iter().zip(read).filter(|(_, read)| *read) {
                each(*address, bytes);
            }
        }
    }

    /// Fills each part with what stands at its address. Few system calls do that, so that little time
    /// passes between the first part and the last. Returns for each part whether all of it is mapped.
    fn gather(&self, parts: &mut [(u64, &mut [u8])]) -> Vec<bool> {
        let mut whole = Vec::with_capacity(parts.len());
        while whole.len() < parts.len() {
            let begun = whole.len();
            let end = parts.len().min(begun + MAX_PARTS);
            let (remote, mut local): (Vec<RemoteIoVec>, Vec<IoSliceMut<'_>>) = parts[begun..end]
                .iter_mut()
                .map(|(address, bytes)| {
                    let (base, len) = (*address as usize, bytes.len());
                    (RemoteIoVec { base, len }, IoSliceMut::new(bytes))
                })
                .unzip();
            let mut read = process_vm_readv(self.pid, &mut local, &remote).unwrap_or(0);
            for part in remote {
                let Some(behind) = read.checked_sub(part.len) else {
                    break;
                };
                read = behind;
                whole.push(true);
            }
            // The system call stops at the first part that isn't mapped.
            if whole.len() < end {
                whole.push(false);
            }
        }
        whole
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

    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        let mut pages: Vec<Box<PageBytes>> =
            numbers.iter().map(|_| Box::new([0; PAGE_LEN])).collect();
        let mut parts: Vec<(u64, &mut [u8])> = numbers
            .iter()
            .zip(&mut pages)
            .map(|(number, page)| (number.wrapping_mul(PAGE_LEN as u64), page.as_mut_slice()))
            .collect();
        let whole = self.gather(&mut parts);
        pages
            .into_iter()
            .zip(whole)
            .map(|(page, whole)| whole.then_some(page))
            .collect()
    }
}
