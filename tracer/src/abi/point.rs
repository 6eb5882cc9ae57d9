//! Probe points: what a hit means, where the probed instruction is, and how the object is reached there.

use std::fmt;

use serde::Serialize;

use super::interpreter::RegisterNumber;

/// What a hit of a probe point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PointKind {
    /// An owning buffer has got its address, or a hook (graph capture) has replaced the allocator.
    Allocate,
    /// An owning buffer returns its memory to the allocator.
    Deallocate,
    /// A non-owning buffer has been created.
    Create,
    /// A buffer is destroyed.
    Destroy,
    /// An allocator frees all its buffers at once.
    BulkFree,
    /// A program's circular buffers, dataflow buffers and scratchpads have got their addresses in L1.
    LaidOut,
    /// A program is dispatched to the device.
    Dispatched,
    /// A program is destroyed.
    ProgramEnd,
    /// An allocator takes a block of its banks for a buffer. Not every library has such a point.
    Block,
}

impl PointKind {
    /// The points for buffers, in the order in which probes are attached. Probes on deallocations and
    /// destructions come before those on allocations and creations, so that every buffer whose start is
    /// seen is also seen to end.
    pub(crate) const ATTACH_ORDER: [Self; 6] = [
        Self::BulkFree,
        Self::Destroy,
        Self::Deallocate,
        Self::Create,
        Self::Block,
        Self::Allocate,
    ];

    /// The points for programs, in the order in which probes are attached.
    pub(crate) const PROGRAM_ATTACH_ORDER: [Self; 3] =
        [Self::ProgramEnd, Self::LaidOut, Self::Dispatched];
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allocate => "allocate",
            Self::Deallocate => "deallocate",
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::BulkFree => "bulk free",
            Self::LaidOut => "laid out",
            Self::Dispatched => "dispatched",
            Self::ProgramEnd => "program end",
            Self::Block => "block",
        })
    }
}

/// How the kernel executes the probed instruction, which is most of a hit's cost. Measured on Linux 6.18;
/// `arch/x86/kernel/uprobes.c` decides which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cost {
    /// Emulated in place: 0.1 to 0.2 µs.
    Emulated,
    /// Executed out of line under single-step: about 2.4 µs.
    SingleStepped,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulated => "emulated, about 0.2 µs a hit",
            Self::SingleStepped => "single-stepped, about 2.4 µs a hit",
        })
    }
}

/// Where the pointer to the object is found at a probe point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Register(RegisterNumber),
    /// On the stack, this many bytes above the stack pointer.
    Stack(i64),
}

/// An instruction to probe.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub kind: PointKind,
    /// The function, demangled and short.
    pub function: String,
    /// The virtual address of the probed instruction.
    pub address: u64,
    /// The instruction's offset in the library's file, in bytes.
    pub file_offset: u64,
    /// The instruction's offset in the function, in bytes.
    pub into: u64,
    pub instruction: String,
    pub cost: Cost,
    pub holder: Holder,
    /// Offsets of the pointers to follow from the holder's pointer to the object.
    pub derefs: Vec<i64>,
    /// The register that holds the device, where the device isn't reached from the object.
    pub device: Option<RegisterNumber>,
}
