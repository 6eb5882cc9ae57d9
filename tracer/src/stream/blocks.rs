//! The blocks of memory that allocators take, until the allocations come that they are for.

use std::collections::HashMap;

use tracer_common::Header;

/// The last block of each process and thread whose allocation hasn't come yet.
#[derive(Debug, Default)]
pub(super) struct Blocks(HashMap<(u32, u32), Block>);

#[derive(Debug)]
struct Block {
    /// The bytes that it takes of each bank.
    bytes: u64,
    /// The [`Header::losses`] of its record.
    losses: u32,
}

impl Blocks {
    /// Keeps a block until its thread's next allocation. `header`: of the block's record. An allocation that
    /// failed leaves a block behind, which this one replaces.
    pub(super) fn insert(&mut self, header: &Header, bytes: u64) {
        let losses = header.losses();
        self.0
            .insert((header.pid, header.tid), Block { bytes, losses });
    }

    /// Takes the block of an allocation. `header`: of the allocation's record.
    ///
    /// A block isn't returned if any record was lost since its own. The lost records may be those of the
    /// block's real allocation and of this allocation's real block.
    pub(super) fn take(&mut self, header: &Header) -> Option<u64> {
        let block = self.0.remove(&(header.pid, header.tid))?;
        (block.losses == header.losses()).then_some(block.bytes)
    }

    /// Removes a process's blocks.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|(owner, _), _| *owner != pid);
    }
}
