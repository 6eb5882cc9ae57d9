//! Memory for tests.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::target::{ReadMemory, Unreadable};

/// Pieces of memory by their addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces(BTreeMap<u64, Vec<u8>>);

impl Pieces {
    /// Writes bytes to the piece that begins at `address`, `at` bytes from its beginning.
    pub(super) fn put(&mut self, address: u64, at: u16, bytes: &[u8]) {
        let piece = self.0.entry(address).or_default();
        let (start, end) = (usize::from(at), usize::from(at) + bytes.len());
        piece.resize(piece.len().max(end), 0);
        piece[start..end].copy_from_slice(bytes);
    }

    pub(super) fn put_word(&mut self, address: u64, at: u16, word: u64) {
        self.put(address, at, &word.to_le_bytes());
    }
}

impl ReadMemory for Pieces {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let unreadable = Unreadable { address };
        let (start, piece) = self.0.range(..=address).next_back().ok_or(unreadable)?;
        let start = (address - start) as usize;
        let end = start.checked_add(bytes.len()).ok_or(unreadable)?;
        bytes.copy_from_slice(piece.get(start..end).ok_or(unreadable)?);
        Ok(())
    }
}

/// Memory with random content, the same at each reading. The seed determines all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    seed: u64,
}

impl Noise {
    /// Any such memory.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        any::<u64>().prop_map(|seed| Self { seed })
    }

    /// The byte at an address (splitmix64).
    fn byte(self, address: u64) -> u8 {
        let mut x = (self.seed ^ address).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as u8
    }
}

impl ReadMemory for Noise {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(address.wrapping_add(i as u64));
        }
        Ok(())
    }
}
