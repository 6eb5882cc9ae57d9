//! What happens to device memory, as the ledger sees it: one [`Event`] for each buffer that is allocated,
//! created, freed or destroyed, and one for each bulk free. Events are decoded from the kernel's records
//! and don't depend on any release's layout.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::StackId;

/// A point in time, in nanoseconds since the trace started.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct Nanoseconds(pub u64);

/// The address, in the target's own address space, of a C++ `tt::tt_metal::Buffer`. It identifies a live
/// buffer within its process. Once the object is destroyed, another object may get the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectPointer(pub u64);

/// The address, in the target's own address space, of the `AllocatorImpl` that owns a buffer's
/// memory. Each device and each sub-device manager has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AllocatorPointer(pub u64);

/// The type of memory that a buffer lies in: `tt::tt_metal::BufferType` (`buffer_types.fbs`; the values
/// are the same in every release since 0.62).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum BufferType {
    /// The device's DRAM, interleaved over its banks.
    Dram,
    /// The worker cores' L1.
    L1,
    /// Huge pages of the host. This is not device memory.
    SystemMemory,
    /// The part of L1 reserved for small buffers.
    L1Small,
    /// The part of DRAM reserved for captured traces.
    Trace,
}

impl BufferType {
    /// Every type, in display order.
    pub(crate) const ALL: [Self; 5] = [
        Self::Dram,
        Self::L1,
        Self::L1Small,
        Self::Trace,
        Self::SystemMemory,
    ];

    /// TT-Metal's number for the type.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Dram => 0,
            Self::L1 => 1,
            Self::SystemMemory => 2,
            Self::L1Small => 3,
            Self::Trace => 4,
        }
    }

    /// The type that has this number in TT-Metal, or `None` if no release has such a number.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
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

/// How a buffer's pages are distributed over the banks: `tt::tt_metal::TensorMemoryLayout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Layout {
    Interleaved,
    SingleBank,
    HeightSharded,
    WidthSharded,
    BlockSharded,
    NdSharded,
    /// A number that this version of the tool doesn't know.
    Unknown,
}

impl Layout {
    /// The layout that has this number in TT-Metal (`buffer_types.fbs`).
    pub(crate) fn from_number(number: u64) -> Self {
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

/// One chip, or a mesh of chips. TT-Metal numbers chips and meshes independently: a process may have both
/// a chip 1 and a mesh 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeviceKind {
    Mesh,
    Chip,
}

/// A device: its `IDevice::id()`, and the kind that makes this number unambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Device {
    pub kind: DeviceKind,
    pub id: u32,
}

/// Whether a buffer holds memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ownership {
    /// The allocator gave the buffer its address. When the buffer ends, the allocator gets the memory back.
    Owning,
    /// The buffer refers to memory that another buffer owns, or that no buffer owns: a mesh member, a view,
    /// a kernel binary, a preallocated system area.
    NonOwning,
}

/// A buffer as it was at the time of an event. Sizes are in bytes; `address` is the offset within each bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub object: ObjectPointer,
    pub allocator: AllocatorPointer,
    pub device: Device,
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// Bytes that the allocator took of each bank for the buffer, starting at `address`: the same in every
    /// bank of its type, whether or not one of the buffer's pages lies there. `None` if unknown.
    pub bytes_per_bank: Option<u64>,
    /// `Buffer::unique_id()`, where the release has one.
    pub unique_id: Option<u64>,
    pub ownership: Ownership,
}

impl Buffer {
    /// Whether both describe the same buffer. `bytes_per_bank` isn't compared: it may be known in only one
    /// of the descriptions.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let other = Self {
            bytes_per_bank: self.bytes_per_bank,
            ..*other
        };
        *self == other
    }

    /// Whether this can be the buffer on a member chip that TT-Metal creates for a mesh's buffer, in the same
    /// thread and right after it. Views and kernel binaries differ in address, type or size.
    pub(crate) fn is_share_of(&self, mesh: &Self) -> bool {
        self.device.kind == DeviceKind::Chip
            && (mesh.address, mesh.buffer_type, mesh.size)
                == (self.address, self.buffer_type, self.size)
    }
}

/// How a process ended, as `wait(2)` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The allocator gave an owning buffer its address.
    Allocate(Buffer),
    /// A graph capture that dispatches nothing replaced the allocator: the buffer has address 0 and no
    /// memory.
    Hooked(Buffer),
    /// An owning buffer ended without ever having had an address: the allocator threw an exception.
    Failed(Buffer),
    /// The attach snapshot contains an owning buffer: it was allocated before the tracer attached.
    Found(Buffer),
    /// An owning buffer gives its memory back to the allocator. The event has the buffer's object only: the
    /// rest is known from its allocation, and reading it again would cost the target time.
    Deallocate(ObjectPointer),
    /// A non-owning buffer was created.
    Create(Buffer),
    /// A non-owning buffer was destroyed.
    Destroy(ObjectPointer),
    /// An allocator frees all its buffers (`AllocatorImpl::deallocate_buffers`, when a device closes).
    BulkFree(AllocatorPointer),
    /// The process forked. The child has copies of the parent's objects; they hold no memory of the child.
    Fork {
        /// The child's pid.
        child: u32,
    },
    /// The process executed a program (`execve`). All that the process held went with the old program.
    Exec,
    /// The process ended, and all that it still held was freed. `None` if it isn't known how it ended.
    Exit(Option<Exit>),
    /// The ring buffer was full: this many events were not recorded since the previous `Lost` event.
    Lost(u64),
}

impl EventKind {
    /// Whether the event is about the process itself and not about device memory.
    pub(crate) fn is_process_event(&self) -> bool {
        matches!(self, Self::Fork { .. } | Self::Exec | Self::Exit(_))
    }
}

/// Something that happened in one thread of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub pid: u32,
    pub tid: u32,
    pub time: Nanoseconds,
    pub kind: EventKind,
    /// The thread's stack, for allocations, creations and failed allocations whose stack was captured.
    pub stack: Option<StackId>,
}
