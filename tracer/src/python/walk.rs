//! The walk over a thread's Python frames, as plain data. The kernel side does it in the thread itself,
//! `Walk::stack`, for tests, does it from outside.

use serde::{Deserialize, Serialize};

use super::{
    PythonError,
    layout::{Entry, Layout, Position},
    objects::word,
};
use crate::target::ReadMemory;

/// The longest block of a [`Walk`], in bytes.
pub(super) const MAX_BLOCK_LEN: usize = 80;
/// The most offsets that [`Walk::frame`] has.
#[cfg(test)]
pub(super) const MAX_DEREFS: usize = 2;
/// The most threads in the list that are read.
const MAX_THREADS: usize = 1 << 16;

/// The way from a thread to its Python frames. Offsets and lengths are in bytes.
///
/// The thread is found in the list by its `thread_id`, which is the base of its FS segment. If several thread
/// states have this id, the first one with a frame is taken: in 3.10 and 3.11 a thread that is about to start
/// has its creator's id for a moment. Threads of subinterpreters aren't in the list.
///
/// ```text
/// state = [thread_list_head]
/// until state is 0:
///     if [state + thread_id] == fs base:
///         frame = state, then for each offset of `frame`: frame = [frame + offset]
///         if frame isn't 0: that's the thread
///     state = [state + next]
/// until frame is 0:
///     block = block_len bytes at frame + block_start
///     frame = the word of block at previous_in_block
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Walk {
    /// The address of the pointer to the first thread state, the newest.
    pub thread_list_head: u64,
    /// Of a thread state: the pointer to the next one.
    pub next: u16,
    /// Of a thread state: eight bytes, the base of the thread's FS segment.
    pub thread_id: u16,
    /// The way from a thread state to its innermost frame: the offsets of one or two pointers, see
    /// `MAX_DEREFS`. A null pointer means that the thread is in no Python code.
    pub frame: Vec<u16>,
    /// The offset of the block in a frame.
    pub block_start: u16,
    /// A multiple of 8, at most [`MAX_BLOCK_LEN`].
    pub block_len: u16,
    /// The offset of the pointer to the caller's frame in the block.
    pub previous_in_block: u16,
}

/// A thread of an interpreter's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    /// The address of its `PyThreadState`.
    pub state: u64,
    /// The base of its FS segment.
    pub id: u64,
}

/// The blocks of a stack's frames, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub bytes: Vec<u8>,
    /// Whether the outermost frame is there. It isn't if the stack has more frames than were asked for.
    pub is_whole: bool,
}

/// The instruction that a frame is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Instruction {
    /// Its index in code units of two bytes, -1 before the first.
    Index(i32),
    /// Its address.
    Address(u64),
}

/// A frame of a Python function or of the interpreter's own code.
/// [`CodeObject::frame`](super::CodeObject::frame) tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RawFrame {
    /// The address of its code object.
    pub code: u64,
    pub instruction: Instruction,
    /// Whether C code called it: it is the outermost of the frames that one run of
    /// `_PyEval_EvalFrameDefault` executes.
    pub is_boundary: bool,
    /// Whether it is known to be a generator's or a coroutine's (3.11 and newer).
    pub is_generator: bool,
}

impl Walk {
    /// The walk over a list of threads. `thread_list_head`: see [`Walk`].
    pub(super) fn new(layout: &Layout, thread_list_head: u64) -> Self {
        let block = layout.frame.block();
        Self {
            thread_list_head,
            next: layout.thread.next,
            thread_id: layout.thread.id,
            frame: layout.thread.frame.clone(),
            block_start: block.start,
            block_len: block.end - block.start,
            previous_in_block: layout.frame.previous - block.start,
        }
    }

    /// The threads of the interpreter, the newest first.
    ///
    /// # Errors
    /// When the list can't be read or has no end.
    pub(crate) fn threads(&self, memory: &dyn ReadMemory) -> Result<Vec<Thread>, PythonError> {
        let mut threads = Vec::new();
        let mut state = word(memory, self.thread_list_head)?;
        while state != 0 {
            if threads.len() == MAX_THREADS {
                return Err(PythonError::Endless { what: "threads" });
            }
            let id = word(memory, at(state, self.thread_id))?;
            threads.push(Thread { state, id });
            state = word(memory, at(state, self.next))?;
        }
        Ok(threads)
    }

    /// The address of a thread's innermost frame; `None` if it is in no Python code.
    ///
    /// # Errors
    /// When its state can't be read.
    pub(crate) fn innermost(
        &self,
        memory: &dyn ReadMemory,
        thread: Thread,
    ) -> Result<Option<u64>, PythonError> {
        let mut frame = thread.state;
        for offset in &self.frame {
            frame = word(memory, at(frame, *offset))?;
            if frame == 0 {
                return Ok(None);
            }
        }
        Ok(Some(frame))
    }

    /// The innermost `max` frames of the thread with this FS base. They are reliable only if the thread
    /// doesn't run. `None` if there is no such thread, or it is in no Python code.
    ///
    /// # Errors
    /// When a thread state or a frame can't be read.
    #[cfg(test)]
    pub(crate) fn stack(
        &self,
        memory: &dyn ReadMemory,
        fs_base: u64,
        max: usize,
    ) -> Result<Option<Blocks>, PythonError> {
        for thread in self.threads(memory)? {
            if thread.id == fs_base
                && let Some(innermost) = self.innermost(memory, thread)?
            {
                return self.blocks(memory, innermost, max).map(Some);
            }
        }
        Ok(None)
    }

    /// The blocks of a frame and its callers.
    pub(super) fn blocks(
        &self,
        memory: &dyn ReadMemory,
        innermost: u64,
        max: usize,
    ) -> Result<Blocks, PythonError> {
        let mut blocks = Blocks::default();
        let mut frame = innermost;
        for _ in 0..max {
            if frame == 0 {
                break;
            }
            let mut block = vec![0; usize::from(self.block_len)];
            memory.read(at(frame, self.block_start), &mut block)?;
            frame = word_of(&block, self.previous_in_block);
            blocks.bytes.append(&mut block);
        }
        blocks.is_whole = frame == 0;
        Ok(blocks)
    }
}

impl Layout {
    /// The offset in a block of the pointer to the frame's code object.
    pub(crate) fn code_in_block(&self) -> u16 {
        self.frame.code - self.frame.block().start
    }

    /// Decodes the blocks of a stack, the innermost frame first. An incomplete block at the end is left out.
    pub(crate) fn frames(&self, blocks: &[u8]) -> Vec<RawFrame> {
        let span = self.frame.block();
        let mut frames: Vec<RawFrame> = Vec::new();
        for block in blocks.chunks_exact(span.len().max(1)) {
            let byte = |at: u16| byte_of(block, at - span.start);
            let (owner, is_boundary) = match self.frame.entry {
                Entry::Every => (OWNED_BY_THREAD, true),
                Entry::Flag { is_entry, owner } => (byte(owner), byte(is_entry) != 0),
                Entry::Shim { owner } => (byte(owner), false),
            };
            if owner == OWNED_BY_C_STACK {
                // The shim lies between a frame that C code called and the caller of the C code.
                if let Some(inner) = frames.last_mut() {
                    inner.is_boundary = true;
                }
                continue;
            }
            let instruction = match self.frame.position {
                Position::Index(at) => {
                    Instruction::Index(word_of(block, at - span.start) as u32 as i32)
                }
                Position::Pointer(at) => Instruction::Address(word_of(block, at - span.start)),
            };
            frames.push(RawFrame {
                code: word_of(block, self.frame.code - span.start),
                instruction,
                is_boundary,
                is_generator: owner == OWNED_BY_GENERATOR,
            });
        }
        frames
    }
}

// `enum _frameowner` (`Include/internal/pycore_frame.h` of 3.11, 3.12, 3.13).
const OWNED_BY_THREAD: u8 = 0;
const OWNED_BY_GENERATOR: u8 = 1;
/// From 3.12 on.
const OWNED_BY_C_STACK: u8 = 3;

fn at(address: u64, offset: u16) -> u64 {
    address.wrapping_add(offset.into())
}

fn byte_of(block: &[u8], at: u16) -> u8 {
    block.get(usize::from(at)).copied().unwrap_or_default()
}

fn word_of(block: &[u8], at: u16) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| byte_of(block, at + i as u16)))
}
