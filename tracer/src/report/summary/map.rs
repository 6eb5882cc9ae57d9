//! Which buffer lies at which addresses in the banks of a device.

use serde::Serialize;

use super::device::DeviceMemory;
use crate::{frame::StackId, ledger::Nanoseconds, origin::Origin};

/// The banks of one type of memory of one allocator; for a mesh, those of each member. One list of
/// addresses stands for all banks, because an allocator uses the same addresses in each bank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MapSummary {
    #[serde(flatten)]
    pub memory: DeviceMemory,
    /// When the allocator freed all that is shown, as it does when a device closes; `None` if the buffers
    /// are still live.
    pub freed_at_ns: Option<Nanoseconds>,
    /// The number of banks. `None` if the allocator couldn't be read; the same holds for `start` and `end`.
    pub banks: Option<u64>,
    /// The first address that the allocator can give.
    pub start: Option<u64>,
    /// The address behind the last one.
    pub end: Option<u64>,
    #[serde(flatten)]
    pub space: SpaceSummary,
    /// By address. Free blocks are listed only if `space` is known: then each block begins where the one
    /// before it ends.
    pub blocks: Vec<Block>,
}

/// The used and free space of each bank. `None` if the allocator's range couldn't be read, or not every
/// block in use is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SpaceSummary {
    pub allocated_per_bank: Option<u64>,
    pub free_per_bank: Option<u64>,
    /// The largest free block.
    pub largest_free_per_bank: Option<u64>,
    /// The part of the free space that is not in the largest free block, from 0 to 1; 0 if nothing is free.
    pub fragmentation: Option<f64>,
}

/// Addresses of one buffer, or free ones between two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Block {
    pub address: u64,
    /// Bytes of each bank; `None` if it isn't known how much the buffer takes.
    pub bytes: Option<u64>,
    /// `None` if the block is free.
    pub buffer: Option<BlockBuffer>,
}

/// The buffer in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BlockBuffer {
    /// The size of the whole buffer, as in `live_buffers`.
    pub size: u64,
    pub unique_id: Option<u64>,
    pub before_attach: bool,
    pub stack: Option<StackId>,
    pub origin: Origin,
}
