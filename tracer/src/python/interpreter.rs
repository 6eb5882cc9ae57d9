//! The interpreter of a process.

use serde::{Deserialize, Serialize};
use tracer_common::{PYTHON_CODE_AT, PythonWalk};

use super::{Layout, Version, Walk, objects::Types};

/// An interpreter in a process: all that is needed to read its threads' stacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Python {
    pub version: Version,
    pub layout: Layout,
    /// The walk over the threads of the main interpreter.
    pub walk: Walk,
    pub(super) types: Types,
}

impl Python {
    /// The walk in the form that the kernel side takes. `None` if the kernel side can't do it: it follows
    /// one or two pointers to the innermost frame and has [`PYTHON_CODE_AT`] bytes for a block.
    pub(crate) fn kernel_walk(&self) -> Option<PythonWalk> {
        let Self { layout, walk, .. } = self;
        let (frame, frame_deref) = match walk.frame[..] {
            [frame] => (frame.into(), u32::MAX),
            [first, second] => (first.into(), second.into()),
            _ => return None,
        };
        (usize::from(walk.block_len) <= PYTHON_CODE_AT).then_some(PythonWalk {
            threads: walk.thread_list_head,
            next: walk.next.into(),
            thread_id: walk.thread_id.into(),
            frame,
            frame_deref,
            block: walk.block_start.into(),
            block_len: walk.block_len.into(),
            previous: walk.previous_in_block.into(),
            code: layout.code_in_block().into(),
            code_word: layout.fingerprint_offset().into(),
            code_parts: layout.code_part_offsets().map(u32::from),
        })
    }
}
