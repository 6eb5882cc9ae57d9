//! What a program needs of L1, as it said when it was laid out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::Device;

/// The address, in the target's own address space, of a C++ `tt::tt_metal::detail::ProgramImpl`. After
/// the program's end another one may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramPointer(pub u64);

/// A worker core by its logical coordinates, as TT-Metal's `CoreCoord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Core {
    pub x: u32,
    pub y: u32,
}

/// A rectangle of cores, both ends included, as TT-Metal's `CoreRange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CoreRange {
    pub start: Core,
    pub end: Core,
}

impl CoreRange {
    /// Each of its cores.
    pub fn cores(self) -> impl Iterator<Item = Core> {
        (self.start.y..=self.end.y)
            .flat_map(move |y| (self.start.x..=self.end.x).map(move |x| Core { x, y }))
    }

    /// How many they are.
    pub fn count(self) -> u64 {
        let side = |start: u32, end: u32| u64::from(end.saturating_sub(start)) + 1;
        side(self.start.x, self.end.x) * side(self.start.y, self.end.y)
    }
}

/// Bytes of a core's L1, from the first on to the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Region {
    pub begin: u64,
    pub end: u64,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionKind {
    CircularBuffers,
    /// Dataflow buffers and scratchpads: TT-Metal keeps them in the same allocators.
    DataflowBuffers,
}

/// What one of a program's allocators gave, on each core of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocated {
    pub kind: RegionKind,
    pub cores: CoreRange,
    pub regions: Vec<Region>,
}

/// Which kind of buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramBufferKind {
    CircularBuffer,
    DataflowBuffer,
}

/// Whose memory a program's buffer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// The program's: it lies in one of its regions.
    Program,
    /// That of an L1 buffer or a global circular buffer, where it is counted already.
    Buffer,
    /// That of another dataflow buffer of the program.
    Alias,
}

/// A circular or dataflow buffer of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramBuffer {
    pub kind: ProgramBufferKind,
    /// The same on each core; `None` while it has none.
    pub address: Option<u64>,
    /// Bytes on each core.
    pub size: u64,
    pub cores: Vec<CoreRange>,
    pub backing: Backing,
}

/// A semaphore of a program. It lies in the ring of kernel configurations, below all that is allocated,
/// and counts as nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSemaphore {
    pub id: u32,
    pub initial_value: u32,
    pub cores: Vec<CoreRange>,
}

/// A program as it was laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub program: ProgramPointer,
    /// `ProgramImpl::get_id()`, the number in TT-Metal's messages.
    pub id: u64,
    /// `ProgramImpl::get_runtime_id()`: the number of the operation.
    pub runtime_id: u64,
    /// For which device; `None` where that isn't told.
    pub device: Option<Device>,
    pub allocated: Vec<Allocated>,
    /// `None` where the single buffers can't be told.
    pub buffers: Option<Vec<ProgramBuffer>>,
    /// `None` where they can't be told.
    pub semaphores: Option<Vec<ProgramSemaphore>>,
    /// Nothing of it was lost on the way.
    pub complete: bool,
}

impl Layout {
    /// The bytes that it takes of each core's L1, of one kind or of all; regions that overlap count
    /// once.
    pub fn by_core(&self, kind: Option<RegionKind>) -> BTreeMap<Core, Vec<Region>> {
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

/// Puts regions in order, and makes one of those that overlap or touch.
pub fn merge(regions: &mut Vec<Region>) {
    regions.sort_unstable();
    regions.dedup_by(|next, last| {
        let joined = next.begin <= last.end;
        if joined {
            last.end = last.end.max(next.end);
        }
        joined
    });
}

/// The bytes of regions that don't overlap.
pub fn bytes(regions: &[Region]) -> u64 {
    let lengths = regions
        .iter()
        .map(|region| region.end.saturating_sub(region.begin));
    lengths.sum()
}
