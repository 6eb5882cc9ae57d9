//! The shape of a line.

use serde::Serialize;

use crate::{
    frame::StackId,
    ledger::{BufferType, DeviceKind, Exit, Layout, Nanoseconds},
};

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventName {
    /// A buffer that was live at attach.
    Found,
    Allocate,
    Deallocate,
    Create,
    Destroy,
    BulkFree,
    Failed,
    Hooked,
    Fork,
    Exec,
    Exit,
    Lost,
    /// A program was given addresses in L1, for the first time or different ones.
    ProgramLaidOut,
    ProgramDispatched,
    ProgramEnded,
    Mark,
}

/// What is unusual about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Note {
    /// The event was not seen, but the event of the lines that follow proves that it happened.
    Implied,
    /// The buffer's allocation or creation was not seen.
    Unmatched,
    /// The buffer object no longer held memory, or never did.
    HadNoMemory,
    /// The event came after the end of its process and was not counted.
    AfterExit,
}

/// One line. Fields that the kind of line does not have are left out. Sizes are in bytes, times in
/// nanoseconds since the start of the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EventLine {
    pub event: EventName,
    pub time_ns: Nanoseconds,
    /// The process of the event. It has no meaning for `lost`, and is 0 for `mark`.
    pub pid: u32,
    pub tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    #[serde(flatten)]
    pub detail: Detail,
}

/// The fields that only some kinds of line have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Detail {
    /// For lines about one buffer.
    Buffer(BufferDetail),
    /// For `allocate`, `create`, `failed` and `hooked`.
    BufferWithStack {
        #[serde(flatten)]
        buffer: BufferDetail,
        /// The thread's stack: the id of one of the process's stacks in the summary; `null` if it wasn't
        /// captured.
        stack: Option<StackId>,
    },
    /// For frees and destructions whose buffer isn't known.
    Unknown {},
    /// For `bulk_free`.
    BulkFree {
        /// How many live owning buffers it freed.
        freed_buffers: u64,
        /// Sum of their sizes; for buffers on a mesh, the size on each member.
        freed_bytes: u64,
        /// The device that they were on; `null` if there were none.
        device_id: Option<u32>,
        device_kind: Option<DeviceKind>,
    },
    /// For `fork`.
    Fork {
        /// The new process's pid.
        child: u32,
    },
    /// For `exec`, which frees all that the old program held.
    Exec {
        /// How many live owning buffers it freed.
        freed_buffers: u64,
        /// Sum of their sizes; for buffers on a mesh, the size on each member.
        freed_bytes: u64,
    },
    /// For `exit`: the exit status, or `null` if it isn't known.
    Exit { exit: Option<Exit> },
    /// For `program_laid_out`.
    Layout {
        /// The program's `number` in the summary.
        program: u64,
        /// TT-Metal's own number.
        id: u64,
        /// `null` if the device isn't known.
        device_id: Option<u32>,
        device_kind: Option<DeviceKind>,
        /// The L1 that it takes when it is dispatched, on all cores.
        bytes: u64,
        /// The number of cores that it takes L1 on.
        cores: u64,
        /// The thread's stack, as in `BufferWithStack`.
        stack: Option<StackId>,
    },
    /// For `program_dispatched` and `program_ended`.
    Program {
        /// The program's `number`; `null` if its layout was not seen.
        program: Option<u64>,
    },
    /// For `lost`: the number of events that were not recorded since the last such line.
    Lost { count: u64 },
    /// For `mark`.
    Mark {
        /// From 1 on.
        number: u32,
        name: Option<String>,
    },
}

/// The buffer of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BufferDetail {
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// How much of each bank the allocator took for the buffer; `None` if that isn't known.
    pub bytes_per_bank: Option<u64>,
    pub device_id: u32,
    pub device_kind: DeviceKind,
    pub unique_id: Option<u64>,
    pub owns_data: bool,
    /// `None` if it isn't known.
    pub before_attach: Option<bool>,
    /// When the buffer was allocated or created; `None` if that was not seen or never happened.
    pub allocated_at_ns: Option<Nanoseconds>,
}
