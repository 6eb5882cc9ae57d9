//! The Python frames of one process: its interpreter, and what it says of its frames.

use std::{collections::HashMap, io::Read as _};

use anyhow::Context as _;
use tracer_common::{PYTHON_CODE_AT, PYTHON_FRAME_LEN, PythonWalk};

use crate::{
    python::{CodeObject, Python, PythonError, RawFrame, Symbols},
    stack::{Frame, FrameKind},
    target::{MappedCode, ProcessMemory},
};

/// What the file name of an interpreter begins with, be it a program or a library.
const NAMES: [&str; 2] = ["python", "libpython"];

/// A Python stack of a process; equal ones have one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PythonStackId(u32);

/// Python frames, innermost first, in groups: each is what one run of the interpreter's loop executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonStack {
    pub groups: Vec<Vec<Frame>>,
    /// There were more frames than are sent.
    pub more: bool,
}

/// A frame as the kernel side sent it, with a word of its code object.
type SentFrame = (RawFrame, u64);

/// The Python stacks of one process.
pub struct PythonStacks {
    memory: ProcessMemory,
    interpreter: Option<Python>,
    frames: HashMap<SentFrame, Option<Frame>>,
    ids: HashMap<(Vec<SentFrame>, bool), PythonStackId>,
    stacks: Vec<PythonStack>,
}

/// Whether a file is one that a Python interpreter's code is in, as far as its name tells.
pub fn is_interpreter(part: &MappedCode) -> bool {
    let name = part.path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| NAMES.iter().any(|start| name.starts_with(start)))
}

impl PythonStacks {
    pub fn of(pid: u32) -> Self {
        Self {
            memory: ProcessMemory::of(pid),
            interpreter: None,
            frames: HashMap::new(),
            ids: HashMap::new(),
            stacks: Vec::new(),
        }
    }

    /// Looks for a Python interpreter in what a process has mapped, and tells how to walk its frames.
    /// `None` if there is none, or none that runs Python code yet, or one that can't be understood.
    pub fn find(&mut self, pid: u32, mapped: &[MappedCode]) -> Option<PythonWalk> {
        for part in mapped.iter().filter(|part| is_interpreter(part)) {
            match self.understand(part) {
                Ok(python) => {
                    let walk = walk(&python);
                    self.interpreter = Some(python);
                    return walk;
                }
                Err(error) => {
                    tracing::debug!("process {pid}: Python of {}: {error}", part.path.display());
                }
            }
        }
        None
    }

    fn understand(&self, part: &MappedCode) -> anyhow::Result<Python> {
        let first_byte = part.first_byte.context("its beginning isn't mapped")?;
        let mut file = Vec::new();
        part.open()?.read_to_end(&mut file)?;
        let symbols = Symbols::of(&file, first_byte)?;
        Ok(Python::verify(&self.memory, &symbols, None)?)
    }

    pub fn is_found(&self) -> bool {
        self.interpreter.is_some()
    }

    /// The stack that a record's frames are. Must be called soon: the code of a frame may be freed.
    pub fn stack(&mut self, sent: &[u8], more: bool) -> Option<PythonStackId> {
        let python = self.interpreter.as_ref()?;
        let len = usize::from(python.walk.block_len);
        let slots = sent.chunks_exact(PYTHON_FRAME_LEN);
        let blocks: Vec<u8> = slots
            .clone()
            .flat_map(|slot| &slot[..len])
            .copied()
            .collect();
        let frames = python.layout.frames(&blocks);
        // Those that stand for no function are left out, and so are their words.
        let words: HashMap<u64, u64> = slots
            .map(|slot| {
                let word = |at: usize| {
                    let bytes = slot[at..].first_chunk().copied();
                    u64::from_le_bytes(bytes.unwrap_or_default())
                };
                let code = usize::from(python.layout.code_in_block());
                (word(code), word(PYTHON_CODE_AT))
            })
            .collect();
        let sent: Vec<SentFrame> = frames
            .into_iter()
            .map(|frame| (frame, words.get(&frame.code).copied().unwrap_or_default()))
            .collect();
        let key = (sent, more);
        if let Some(id) = self.ids.get(&key) {
            return Some(*id);
        }
        let mut groups = vec![Vec::new()];
        for sent in &key.0 {
            let frame = self
                .frames
                .entry(*sent)
                .or_insert_with(|| understand(&self.memory, python, *sent));
            if let (Some(group), Some(frame)) = (groups.last_mut(), frame) {
                group.push(frame.clone());
            }
            if sent.0.is_boundary {
                groups.push(Vec::new());
            }
        }
        groups.pop_if(|last| last.is_empty());
        let id = PythonStackId(self.stacks.len() as u32);
        self.stacks.push(PythonStack { groups, more });
        self.ids.insert(key, id);
        Some(id)
    }

    pub fn frames(&self, id: PythonStackId) -> Option<&PythonStack> {
        self.stacks.get(id.0 as usize)
    }
}

/// A frame with its names; `None` for one that CPython doesn't show. What can't be told isn't.
fn understand(memory: &ProcessMemory, python: &Python, (raw, word): SentFrame) -> Option<Frame> {
    let code = CodeObject::read(memory, python, raw.code);
    // Another one may have taken its place.
    let witness = |code| CodeObject::witness(memory, &python.layout, code);
    let is_same = || witness(raw.code).is_ok_and(|now| now == word);
    let frame = code.and_then(|code| match is_same() {
        true => code.frame(&raw),
        false => Err(PythonError::Gone { code: raw.code }),
    });
    frame.unwrap_or_else(|error| {
        tracing::debug!("a Python frame can't be told: {error}");
        Some(Frame {
            kind: FrameKind::Python,
            function: None,
            file: None,
            line: None,
            module: None,
            offset: None,
        })
    })
}

/// The walk as the kernel side takes it.
fn walk(python: &Python) -> Option<PythonWalk> {
    let walk = &python.walk;
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
        code: python.layout.code_in_block().into(),
        code_word: CodeObject::witness_offset(&python.layout).into(),
        reserved: 0,
    })
}
