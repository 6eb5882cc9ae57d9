//! Records of the stacks' ring buffer.

use tracer_common::{
    HAS_STACK, PYTHON_FRAME_LEN, STACK_NATIVE, STACK_OF_LEADER, STACK_PYTHON, STACK_SKIPPED,
    StackHeader,
};

use super::decode::{number, read_header};
use crate::unwind::Snapshot;

/// To which event a stack belongs: its thread, and its time by `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackKey {
    pub time_ns: u64,
    pub tid: u32,
}

/// What a stack record brings.
#[derive(Clone, Copy, Debug)]
pub struct StackRecord<'a> {
    pub key: StackKey,
    pub pid: u32,
    pub part: StackPart<'a>,
}

/// The two halves of a stack.
#[derive(Clone, Copy, Debug)]
pub enum StackPart<'a> {
    /// The innermost frames of the Python interpreter, each in so many bytes as
    /// [`tracer_common::PythonWalk`] says.
    Python {
        frames: &'a [u8],
        /// Whether there are more.
        more: bool,
    },
    Native(Snapshot<'a>),
}

/// What a record of an event says of its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackState {
    /// None was wanted.
    None,
    /// It was sent.
    Sent(StackKey),
    /// There was no room for it.
    Skipped,
    /// It is that of the same thread's last allocation on a mesh, whose member this is.
    OfMesh,
}

/// Whether a record of an event has a stack.
pub fn stack_state(record: &[u8]) -> StackState {
    match read_header(record) {
        Some(header) if header.faults & HAS_STACK != 0 => StackState::Sent(StackKey {
            time_ns: header.time_ns,
            tid: header.tid,
        }),
        Some(header) if header.faults & STACK_SKIPPED != 0 => StackState::Skipped,
        Some(header) if header.faults & STACK_OF_LEADER != 0 => StackState::OfMesh,
        _ => StackState::None,
    }
}

/// Reads a stack record; `None` for one that nobody sends.
pub fn stack(record: &[u8]) -> Option<StackRecord<'_>> {
    let header = read_header(record)?;
    let (start, rest) = record.split_at_checked(size_of::<StackHeader>())?;
    let [kind, count] = [24, 28].map(|at| number(&start[at..at + 4]) as u32);
    let [ip, sp, bp, end] = [32, 40, 48, 56].map(|at| number(&start[at..at + 8]));
    let part = match kind {
        STACK_PYTHON => StackPart::Python {
            frames: rest.get(..(count as usize).checked_mul(PYTHON_FRAME_LEN)?)?,
            more: end != 0,
        },
        STACK_NATIVE => StackPart::Native(Snapshot {
            ip,
            sp,
            bp,
            bytes: rest.get(..count as usize)?,
        }),
        _ => return None,
    };
    Some(StackRecord {
        key: StackKey {
            time_ns: header.time_ns,
            tid: header.tid,
        },
        pid: header.pid,
        part,
    })
}
