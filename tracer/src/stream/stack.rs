//! Records of the stacks' ring buffer.

use tracer_common::{
    CODE_OBJECT_LEN, CODE_PART_LEN, HAS_STACK, PYTHON_FRAME_LEN, STACK_CODE, STACK_NATIVE,
    STACK_OF_LEADER, STACK_PYTHON, STACK_SKIPPED, StackHeader,
};

use super::record::{number, read_header};
use crate::unwind::StackCopy;

/// The event that a stack belongs to, as its thread and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StackKey {
    /// By `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    pub tid: u32,
}

/// A decoded stack record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackRecord<'a> {
    pub key: StackKey,
    pub pid: u32,
    pub part: StackPart<'a>,
}

/// A part of a stack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StackPart<'a> {
    /// The innermost frames of the Python interpreter, each in [`PYTHON_FRAME_LEN`] bytes.
    Python {
        frames: &'a [u8],
        /// There are more frames than these.
        more: bool,
    },
    /// A copy of the stack's innermost bytes.
    Native(StackCopy<'a>),
    /// The Python code object of one of the frames.
    Code(SentCode<'a>),
}

/// A code object and its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentCode<'a> {
    pub address: u64,
    /// Its [`tracer_common::PythonWalk::code_word`].
    pub word: u64,
    /// Address and bytes of the object, its file's name, its own name and its line table. The bytes may be
    /// fewer than the part has.
    pub parts: [(u64, &'a [u8]); 4],
}

/// The stack of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackState {
    /// It has none.
    None,
    /// It was sent.
    Sent(StackKey),
    /// There was no room for it.
    Skipped,
    /// The event is a mesh member's, and its stack is that of the thread's last allocation on a mesh.
    OfMesh,
}

/// Reads the stack of an event from the event's record.
pub(crate) fn stack_state(record: &[u8]) -> StackState {
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

/// Decodes a stack record. `None` for one that the kernel side never sends.
pub(crate) fn stack(record: &[u8]) -> Option<StackRecord<'_>> {
    let header = read_header(record)?;
    let (start, rest) = record.split_at_checked(size_of::<StackHeader>())?;
    let [kind, count] = [24, 28].map(|at| number(&start[at..at + 4]) as u32);
    let [ip, sp, bp, end] = [32, 40, 48, 56].map(|at| number(&start[at..at + 8]));
    let part = match kind {
        STACK_PYTHON => StackPart::Python {
            frames: rest.get(..(count as usize).checked_mul(PYTHON_FRAME_LEN)?)?,
            more: end != 0,
        },
        STACK_NATIVE => StackPart::Native(StackCopy {
            ip,
            sp,
            bp,
            bytes: rest.get(..count as usize)?,
        }),
        STACK_CODE => {
            let (object, mut rest) = rest.split_at_checked(CODE_OBJECT_LEN)?;
            let mut parts = [(ip, object), (0, &[]), (0, &[]), (0, &[])];
            for (part, room) in parts[1..].iter_mut().zip(CODE_PART_LEN) {
                let (head, behind) = rest.split_at_checked(16)?;
                let (bytes, behind) = behind.split_at_checked(room)?;
                let len = usize::try_from(number(&head[8..])).ok()?;
                *part = (number(&head[..8]), bytes.get(..len)?);
                rest = behind;
            }
            StackPart::Code(SentCode {
                address: ip,
                word: sp,
                parts,
            })
        }
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
