//! The walk over a thread's Python frames, as plain data: what the program in the kernel does on the
//! thread itself, and what [`Walk::stack`] does from outside.

use super::{
    PythonError,
    layout::{Entry, Layout, Position},
    objects::word,
};
use crate::replay::ReadMemory;

/// The longest block of a [`Walk`], in bytes.
pub const LONGEST_BLOCK: usize = 80;
/// The most [`Walk::frame`] has.
pub const MOST_DEREFS: usize = 2;
/// As many threads are looked at.
const MOST_THREADS: usize = 1 << 16;

/// How to get from a thread to its Python frames. Offsets and lengths in bytes.
///
/// The thread is that of the list whose `thread_id` is the base of its FS segment. Of several such
/// (a thread that is about to start has its creator's id for a moment in 3.10 and 3.11), it is the
/// first that has a frame. Threads of subinterpreters aren't in the list.
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Walk {
    /// The address of the pointer to the first thread state, the newest.
    pub thread_list_head: u64,
    /// Of a thread state: the pointer to the next one.
    pub next: u16,
    /// Of a thread state: eight bytes, the base of the thread's FS segment.
    pub thread_id: u16,
    /// From a thread state to its innermost frame: one or two offsets of pointers, see
    /// [`MOST_DEREFS`]. A null pointer means that the thread is in no Python code.
    pub frame: Vec<u16>,
    /// Where in a frame its block begins.
    pub block_start: u16,
    /// A multiple of 8, at most [`LONGEST_BLOCK`].
    pub block_len: u16,
    /// Where in the block the pointer to the caller's frame is.
    pub previous_in_block: u16,
}

/// A thread as the interpreter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The address of its `PyThreadState`.
    pub state: u64,
    /// The base of its FS segment.
    pub id: u64,
}

/// A stack as it was read: blocks of frames, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub bytes: Vec<u8>,
    /// Whether the outermost frame is there: not so if there were more than should be read.
    pub is_whole: bool,
}

/// Which instruction a frame is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// Its index in code units of two bytes, -1 before the first.
    Index(i32),
    /// Its address.
    Address(u64),
}

/// A frame of a Python function, or of one of the interpreter's own pieces of code, which
/// [`CodeObject::frame`](super::CodeObject::frame) knows from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawFrame {
    /// The address of its code object.
    pub code: u64,
    pub instruction: Instruction,
    /// Whether C code called it: it is the outermost of the frames that one run of
    /// `_PyEval_EvalFrameDefault` executes. What comes next in a native stack are the frames of
    /// whoever called that function.
    pub is_boundary: bool,
    /// Whether it is known to be a generator's or a coroutine's (3.11 and newer).
    pub is_generator: bool,
}

impl Walk {
    /// The walk over the threads that a list in the target has.
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

    /// The threads that the interpreter knows, the newest first.
    ///
    /// # Errors
    /// When the list can't be read or has no end.
    pub fn threads(&self, memory: &dyn ReadMemory) -> Result<Vec<Thread>, PythonError> {
        let mut threads = Vec::new();
        let mut state = word(memory, self.thread_list_head)?;
        while state != 0 {
            if threads.len() == MOST_THREADS {
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
    pub fn innermost(
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

    /// The Python stack of the thread whose FS base is this, of at most `most` frames, as far as it
    /// can be told while the thread runs on. `None` if there is no such thread or it is in no Python
    /// code.
    ///
    /// # Errors
    /// When a thread state or a frame can't be read.
    pub fn stack(
        &self,
        memory: &dyn ReadMemory,
        fs_base: u64,
        most: usize,
    ) -> Result<Option<Blocks>, PythonError> {
        for thread in self.threads(memory)? {
            if thread.id == fs_base
                && let Some(innermost) = self.innermost(memory, thread)?
            {
                return self.blocks(memory, innermost, most).map(Some);
            }
        }
        Ok(None)
    }

    /// The blocks of a frame and its callers.
    pub(super) fn blocks(
        &self,
        memory: &dyn ReadMemory,
        innermost: u64,
        most: usize,
    ) -> Result<Blocks, PythonError> {
        let mut blocks = Blocks::default();
        let mut frame = innermost;
        for _ in 0..most {
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
    /// Where in a block the address of the frame's code object stands.
    pub fn code_in_block(&self) -> u16 {
        self.frame.code - self.frame.block().start
    }

    /// What the blocks of a stack say, the innermost frame first. A part of a block at the end is left
    /// out.
    pub fn frames(&self, blocks: &[u8]) -> Vec<RawFrame> {
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
                // The shim lies between what it stands for and its caller.
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
