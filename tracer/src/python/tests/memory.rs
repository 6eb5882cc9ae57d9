//! Memory that a test made up.

use std::collections::BTreeMap;

use crate::replay::{ReadMemory, Unreadable};

/// Pieces of memory by their addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces(BTreeMap<u64, Vec<u8>>);

impl Pieces {
    /// Puts bytes at an address, over what is there of the piece that begins there.
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

/// Memory that has something else everywhere, the same each time.
pub(super) struct Noise(pub u64);

impl ReadMemory for Noise {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = noise(self.0 ^ address.wrapping_add(i as u64)) as u8;
        }
        Ok(())
    }
}

/// A number that follows from another as if by chance (splitmix64).
pub(super) fn noise(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
