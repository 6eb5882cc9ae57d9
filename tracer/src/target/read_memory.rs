//! How the memory of a process is read, whatever stands for the process: tests read from a table.

use thiserror::Error;

/// Bytes of a page.
pub(crate) const PAGE_LEN: usize = 4096;

/// The contents of a page.
pub(crate) type PageBytes = [u8; PAGE_LEN];

/// Memory of the target that can't be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the target's memory at {address:#x} can't be read")]
pub(crate) struct Unreadable {
    pub address: u64,
}

/// Reads the target's memory.
pub(crate) trait ReadMemory {
    /// Fills `bytes` with what stands at `address`.
    ///
    /// # Errors
    /// When not all of it is mapped.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable>;

    /// Reads whole pages, by their numbers, within as short a time as possible. `None` stands for a page
    /// that isn't mapped.
    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        numbers
            .iter()
            .map(|number| {
                let mut bytes = Box::new([0; PAGE_LEN]);
                let read = self.read(number * PAGE_LEN as u64, bytes.as_mut_slice());
                read.is_ok().then_some(bytes)
            })
            .collect()
    }
}

impl<T: ReadMemory + ?Sized> ReadMemory for &T {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(address, bytes)
    }

    fn pages(&self, numbers: &[u64]) -> Vec<Option<Box<PageBytes>>> {
        (**self).pages(numbers)
    }
}
