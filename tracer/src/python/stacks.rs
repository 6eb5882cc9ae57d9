//! From the frames and code objects that the kernel side sends to Python frames with names.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tracer_common::{PYTHON_CODE_AT, PYTHON_FRAME_LEN};

use super::{CodeObject, Python, PythonError, RawFrame};
use crate::{
    frame::Frame,
    stream::SentCode,
    target::{ReadMemory, Unreadable},
};

/// A Python stack of a process; equal stacks have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PythonStackId(u32);

/// Python frames with names, innermost first, in groups: one run of the interpreter's loop executes one
/// group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PythonStack {
    pub groups: Vec<Vec<Frame>>,
    /// Whether the thread had more frames than the kernel side sends.
    pub more: bool,
}

/// The memory of a process that can't be read, such as one that was recorded.
#[derive(Debug)]
pub(crate) struct NoMemory;

impl ReadMemory for NoMemory {
    fn read(&self, address: u64, _: &mut [u8]) -> Result<(), Unreadable> {
        Err(Unreadable { address })
    }
}

/// A frame as the kernel side sent it. The fingerprint tells its code object from another one that had
/// the same address earlier or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SentFrame {
    raw: RawFrame,
    fingerprint: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SentStack {
    frames: Vec<SentFrame>,
    more: bool,
}

/// The Python stacks of one process.
pub(crate) struct PythonStacks {
    memory: Box<dyn ReadMemory + Send>,
    interpreter: Option<Python>,
    /// By address and fingerprint.
    codes: HashMap<(u64, u64), CodeObject>,
    /// `None` for a frame that CPython doesn't show.
    frames: HashMap<SentFrame, Option<Frame>>,
    /// Stacks whose frames aren't in `frames` yet.
    unfinished: HashSet<PythonStackId>,
    ids: HashMap<Arc<SentStack>, PythonStackId>,
    stacks: Vec<Arc<SentStack>>,
}

impl PythonStacks {
    /// `memory`: of the process.
    pub(crate) fn new(memory: Box<dyn ReadMemory + Send>) -> Self {
        Self {
            memory,
            interpreter: None,
            codes: HashMap::new(),
            frames: HashMap::new(),
            unfinished: HashSet::new(),
            ids: HashMap::new(),
            stacks: Vec::new(),
        }
    }

    /// From now on, frames are those of this interpreter.
    pub(crate) fn set_interpreter(&mut self, python: Python) {
        self.interpreter = Some(python);
    }

    /// The process's interpreter, if it is known.
    pub(crate) fn interpreter(&self) -> Option<&Python> {
        self.interpreter.as_ref()
    }

    /// Adds a code object, which was sent when it was on a stack for the first time.
    pub(crate) fn add_code(&mut self, sent: &SentCode<'_>) {
        let Some(python) = &self.interpreter else {
            return;
        };
        let as_sent = SentMemory {
            parts: sent.parts,
            now: &*self.memory,
        };
        match CodeObject::read(&as_sent, python, sent.address) {
            Ok(code) => drop(self.codes.insert((sent.address, sent.word), code)),
            Err(error) => tracing::debug!("a Python code object can't be read: {error}"),
        }
    }

    /// Adds the stack that consists of the frames of a record. `None` as long as the interpreter isn't
    /// known. `more`: see [`PythonStack::more`].
    pub(crate) fn add_stack(&mut self, sent: &[u8], more: bool) -> Option<PythonStackId> {
        let python = self.interpreter.as_ref()?;
        let stack = Arc::new(SentStack {
            frames: sent_frames(python, sent),
            more,
        });
        if let Some(id) = self.ids.get(&stack) {
            return Some(*id);
        }
        let id = PythonStackId(self.stacks.len() as u32);
        self.unfinished.insert(id);
        self.stacks.push(Arc::clone(&stack));
        self.ids.insert(stack, id);
        Some(id)
    }

    /// Gives the frames of a stack their names, unless they have them. All records of the stack's event
    /// must have been added: code objects are sent after the frames.
    pub(crate) fn finish_stack(&mut self, id: PythonStackId) {
        let Some(python) = &self.interpreter else {
            return;
        };
        if !self.unfinished.remove(&id) {
            return;
        }
        let Some(stack) = self.stacks.get(id.0 as usize) else {
            return;
        };
        for sent in &stack.frames {
            self.frames
                .entry(*sent)
                .or_insert_with(|| named(*sent, &self.codes, &*self.memory, python));
        }
    }

    /// A stack with the names of its frames, once it is finished.
    pub(crate) fn stack(&self, id: PythonStackId) -> Option<PythonStack> {
        let SentStack { frames, more } = &**self.stacks.get(id.0 as usize)?;
        let mut groups = vec![Vec::new()];
        for sent in frames {
            let frame = self.frames.get(sent).cloned().flatten();
            if let (Some(group), Some(frame)) = (groups.last_mut(), frame) {
                group.push(frame);
            }
            if sent.raw.is_boundary {
                groups.push(Vec::new());
            }
        }
        groups.pop_if(|last| last.is_empty());
        Some(PythonStack {
            groups,
            more: *more,
        })
    }
}

/// The frames of a record: each has the block of a [`Walk`](super::Walk), and at [`PYTHON_CODE_AT`] the
/// fingerprint of its code object.
fn sent_frames(python: &Python, sent: &[u8]) -> Vec<SentFrame> {
    let block_len = usize::from(python.walk.block_len);
    let slots = sent.chunks_exact(PYTHON_FRAME_LEN);
    let blocks: Vec<u8> = slots
        .clone()
        .filter_map(|slot| slot.get(..block_len))
        .flatten()
        .copied()
        .collect();
    // By code object: a frame that stands for no function is no frame, so the numbers differ.
    let fingerprints: HashMap<u64, u64> = slots
        .map(|slot| {
            let word = |at: usize| {
                let bytes = slot.get(at..).and_then(|rest| rest.first_chunk());
                bytes.copied().map_or(0, u64::from_le_bytes)
            };
            let code = usize::from(python.layout.code_in_block());
            (word(code), word(PYTHON_CODE_AT))
        })
        .collect();
    let frames = python.layout.frames(&blocks).into_iter();
    frames
        .map(|raw| SentFrame {
            raw,
            fingerprint: fingerprints.get(&raw.code).copied().unwrap_or_default(),
        })
        .collect()
}

/// A frame with its names; `None` for one that CPython doesn't show. The names of a frame stay unknown if
/// its code object can't be read.
fn named(
    sent: SentFrame,
    codes: &HashMap<(u64, u64), CodeObject>,
    memory: &dyn ReadMemory,
    python: &Python,
) -> Option<Frame> {
    let SentFrame { raw, fingerprint } = sent;
    let frame = match codes.get(&(raw.code, fingerprint)) {
        Some(code) => code.frame(&raw),
        // The code object was sent to an earlier tracer, or the ring buffer had no room for it. Another
        // code object may have taken its place since.
        None => CodeObject::read(memory, python, raw.code).and_then(|code| {
            match CodeObject::read_fingerprint(memory, &python.layout, raw.code)? == fingerprint {
                true => code.frame(&raw),
                false => Err(PythonError::Gone { code: raw.code }),
            }
        }),
    };
    frame.unwrap_or_else(|error| {
        tracing::debug!("a Python frame can't be named: {error}");
        Some(Frame::unknown_python())
    })
}

/// A process's memory: the parts that were sent as they were then, the rest as it is now.
struct SentMemory<'a> {
    parts: [(u64, &'a [u8]); 4],
    now: &'a dyn ReadMemory,
}

impl ReadMemory for SentMemory<'_> {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        for (start, part) in self.parts {
            let at = address
                .checked_sub(start)
                .and_then(|at| usize::try_from(at).ok());
            let sent = at.and_then(|at| part.get(at..at.checked_add(bytes.len())?));
            if let Some(sent) = sent {
                bytes.copy_from_slice(sent);
                return Ok(());
            }
        }
        self.now.read(address, bytes)
    }
}
