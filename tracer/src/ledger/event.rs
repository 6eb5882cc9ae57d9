//! What happens to device memory, as the ledger sees it: one [`Event`] per birth, death or mass
//! death of buffers, already decoded from the kernel's records and free of any release's layout.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stack::StackId;

/// A point in time, in nanoseconds since the trace started.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanoseconds(pub u64);

/// The address, in the target's own address space, of a C++ `tt::tt_metal::Buffer`. It is what
/// tells two live buffers of one process apart; after the object's end it may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPointer(pub u64);

/// The address, in the target's own address space, of the `AllocatorImpl` that owns a buffer's
/// memory. Each device, and each sub-device manager, has one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocatorPointer(pub u64);

/// Where a buffer lies: `tt::tt_metal::BufferType` (`buffer_types.fbs`; the values have been the
/// same in every release since 0.62).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BufferType {
    /// The device's DRAM, interleaved over its banks.
    Dram,
    /// The worker cores' L1.
    L1,
    /// Huge pages of the host; not device memory.
    SystemMemory,
    /// The part of L1 kept for small buffers.
    L1Small,
    /// The part of DRAM kept for captured traces.
    Trace,
}

impl BufferType {
    /// Every type, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Dram,
        Self::L1,
        Self::L1Small,
        Self::Trace,
        Self::SystemMemory,
    ];

    /// TT-Metal's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Dram => 0,
            Self::L1 => 1,
            Self::SystemMemory => 2,
            Self::L1Small => 3,
            Self::Trace => 4,
        }
    }

    /// The type with TT-Metal's number, or `None` for a number that no release has.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Dram,
            1 => Self::L1,
            2 => Self::SystemMemory,
            3 => Self::L1Small,
            4 => Self::Trace,
            _ => return None,
        })
    }
}

impl fmt::Display for BufferType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dram => "DRAM",
            Self::L1 => "L1",
            Self::SystemMemory => "SYSTEM_MEMORY",
            Self::L1Small => "L1_SMALL",
            Self::Trace => "TRACE",
        })
    }
}

/// How a buffer's pages are spread: `tt::tt_metal::TensorMemoryLayout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Layout {
    Interleaved,
    SingleBank,
    HeightSharded,
    WidthSharded,
    BlockSharded,
    NdSharded,
    /// A number that this version of the tool has no name for.
    Unknown,
}

impl Layout {
    /// The layout with TT-Metal's number (`buffer_types.fbs`).
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Interleaved,
            1 => Self::SingleBank,
            2 => Self::HeightSharded,
            3 => Self::WidthSharded,
            4 => Self::BlockSharded,
            5 => Self::NdSharded,
            _ => Self::Unknown,
        }
    }
}

/// One chip, or a mesh of them. TT-Metal numbers the two independently of each other: a process
/// may well have a chip 1 and a mesh 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Mesh,
    Chip,
}

/// A device as `IDevice::id()` names it, with the kind that makes the number unambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    pub kind: DeviceKind,
    pub id: u32,
}

/// Whether a buffer holds memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// The allocator gave it its address; its end gives the memory back.
    Owning,
    /// It stands for memory that another buffer, or nobody, owns: a mesh's member, a view, a kernel
    /// binary, a preallocated system area.
    NonOwning,
}

/// A buffer as it was at an event. Sizes in bytes; `address` is the offset within each bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub object: ObjectPointer,
    pub allocator: AllocatorPointer,
    pub device: Device,
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// How much of each bank the allocator took for it, from `address` on: the same in all banks of its
    /// type, whether or not a page lies there. `None` where that isn't known.
    pub bytes_per_bank: Option<u64>,
    /// `Buffer::unique_id()`, where the release has one.
    pub unique_id: Option<u64>,
    pub ownership: Ownership,
}

impl Buffer {
    /// Whether both are one buffer. How much of each bank it takes may be known of only one of them.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let other = Self {
            bytes_per_bank: self.bytes_per_bank,
            ..*other
        };
        *self == other
    }
}

/// How a process ended, as `wait(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The allocator gave an owning buffer its address.
    Allocate(Buffer),
    /// A graph capture that dispatches nothing took the place of the allocator: the buffer has
    /// address 0 and no memory.
    Hooked(Buffer),
    /// An owning buffer ended without ever getting an address: the allocator threw.
    Failed(Buffer),
    /// An owning buffer was there before the tracer came: its process's memory says so.
    Found(Buffer),
    /// An owning buffer gives its memory back to the allocator. Its object is all that an end tells:
    /// the rest was told at its birth, and reading it again would cost the target time.
    Deallocate(ObjectPointer),
    /// A non-owning buffer came into being.
    Create(Buffer),
    /// A non-owning buffer ended.
    Destroy(ObjectPointer),
    /// An allocator frees all that it ever gave (`AllocatorImpl::deallocate_buffers`, when a device
    /// closes).
    BulkFree(AllocatorPointer),
    /// The process forked: the child has copies of its objects, which hold no memory of the child's.
    Fork {
        /// The child's pid.
        child: u32,
    },
    /// The process executed a program: what it held went with the old one.
    Exec,
    /// The process ended, and what it still held went with it. `None`: how it ended isn't known.
    Exit(Option<Exit>),
    /// The ring buffer was full: so many events were not recorded since the last such event.
    Lost(u64),
}

impl EventKind {
    /// Whether it is about the process itself and not about device memory.
    pub fn is_of_life(&self) -> bool {
        matches!(self, Self::Fork { .. } | Self::Exec | Self::Exit(_))
    }
}

/// One thing that happened in one thread of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub pid: u32,
    pub tid: u32,
    pub time: Nanoseconds,
    pub kind: EventKind,
    /// Where the thread was, of births and failed allocations whose stack was captured.
    pub stack: Option<StackId>,
}
