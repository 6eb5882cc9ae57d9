//! What a program needs of L1 according to its layout.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ledger::event::Device;

/// The address, in the target's own address space, of a C++ `tt::tt_metal::detail::ProgramImpl`. Once the
/// program is destroyed, another program may get the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProgramPointer(pub u64);

/// A worker core's logical coordinates, as in TT-Metal's `CoreCoord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Core {
    pub x: u32,
    pub y: u32,
}

/// A rectangle of cores including both corners, as in TT-Metal's `CoreRange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct CoreRange {
    pub start: Core,
    pub end: Core,
}

impl CoreRange {
    /// The cores of the rectangle, row by row.
    pub(crate) fn cores(self) -> impl Iterator<Item = Core> {
        (self.start.y..=self.end.y)
            .flat_map(move |y| (self.start.x..=self.end.x).map(move |x| Core { x, y }))
    }
}

/// A range of addresses in a core's L1; `end` is the address after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Region {
    pub begin: u64,
    pub end: u64,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RegionKind {
    CircularBuffers,
    /// Dataflow buffers and scratchpads: TT-Metal allocates both with the same allocators.
    DataflowBuffers,
}

/// The regions that one of a program's allocators gave on each core of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocated {
    pub kind: RegionKind,
    pub cores: CoreRange,
    pub regions: Vec<Region>,
}

/// The kind of a program's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProgramBufferKind {
    CircularBuffer,
    DataflowBuffer,
}

/// What owns the memory of a program's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Backing {
    /// The program: the buffer lies in one of its regions.
    Program,
    /// An L1 buffer or a global circular buffer, with which the memory is counted already.
    Buffer,
    /// Another dataflow buffer of the program.
    Alias,
}

/// A circular or dataflow buffer of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramBuffer {
    pub kind: ProgramBufferKind,
    /// The same on each core; `None` while the buffer has no address.
    pub address: Option<u64>,
    /// Bytes on each core.
    pub size: u64,
    pub cores: Vec<CoreRange>,
    pub backing: Backing,
}

/// A semaphore of a program. It lies in the ring of kernel configurations, below everything that is
/// allocated, and isn't counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramSemaphore {
    pub id: u32,
    pub initial_value: u32,
    pub cores: Vec<CoreRange>,
}

/// A program's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub program: ProgramPointer,
    /// `ProgramImpl::get_id()`, the number in TT-Metal's messages.
    pub id: u64,
    /// `ProgramImpl::get_runtime_id()`, the number of the operation.
    pub runtime_id: u64,
    /// The device that the program was laid out for; `None` if unknown.
    pub device: Option<Device>,
    pub allocated: Vec<Allocated>,
    /// `None` if the buffers can't be read one by one.
    pub buffers: Option<Vec<ProgramBuffer>>,
    /// `None` if the semaphores can't be read.
    pub semaphores: Option<Vec<ProgramSemaphore>>,
    /// Whether no part of the layout was lost.
    pub complete: bool,
}

impl Layout {
    /// The regions of each core's L1 that the program takes, of one kind or of all kinds. They are in order
    /// and don't overlap.
    pub(crate) fn by_core(&self, kind: Option<RegionKind>) -> BTreeMap<Core, Vec<Region>> {
        let mut by_core: BTreeMap<Core, Vec<Region>> = BTreeMap::new();
        for allocated in &self.allocated {
            if kind.is_none_or(|kind| kind == allocated.kind) && !allocated.regions.is_empty() {
                for core in allocated.cores.cores() {
                    by_core.entry(core).or_default().extend(&allocated.regions);
                }
            }
        }
        by_core.values_mut().for_each(merge);
        by_core
    }
}

/// Sorts regions, and merges those that overlap or adjoin.
pub(super) fn merge(regions: &mut Vec<Region>) {
    regions.sort_unstable();
    regions.dedup_by(|next, last| {
        let is_merged = next.begin <= last.end;
        if is_merged {
            last.end = last.end.max(next.end);
        }
        is_merged
    });
}

/// The total size of regions that don't overlap.
pub(super) fn total_bytes(regions: &[Region]) -> u64 {
    let lengths = regions
        .iter()
        .map(|region| region.end.saturating_sub(region.begin));
    lengths.sum()
}
