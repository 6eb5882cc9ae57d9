//! The Python frames of one process: its interpreter, and what it says of its frames.

use std::{
    collections::HashMap,
    io::Read as _,
    time::{Duration, Instant},
};

use tracer_common::{PYTHON_CODE_AT, PYTHON_FRAME_LEN, PythonWalk};

use crate::{
    python::{CodeObject, Python, PythonError, RawFrame, Symbols},
    replay::{ReadMemory, Unreadable},
    stack::{Frame, FrameKind},
    stream::SentCode,
    target::{MappedCode, ProcessMemory},
};

/// What the file name of an interpreter begins with, be it a program or a library.
const NAMES: [&str; 2] = ["python", "libpython"];

/// How long it takes until an interpreter is looked at again: longer each time.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

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
    /// When an interpreter is looked at again that runs no Python code yet.
    look_again: Option<Instant>,
    delay: Duration,
    /// By address and word.
    codes: HashMap<(u64, u64), CodeObject>,
    frames: HashMap<SentFrame, Option<Frame>>,
    /// Those whose frames haven't been told yet.
    new: HashMap<PythonStackId, Vec<SentFrame>>,
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
            look_again: None,
            delay: FIRST_DELAY,
            codes: HashMap::new(),
            frames: HashMap::new(),
            new: HashMap::new(),
            ids: HashMap::new(),
            stacks: Vec::new(),
        }
    }

    /// Looks for a Python interpreter in what a process has mapped, and tells how to walk its frames;
    /// `None` if that was told before, or there is none, or none that runs Python code yet.
    ///
    /// # Errors
    /// When it can't be understood: that is said once.
    pub fn find(&mut self, mapped: &[MappedCode]) -> Result<Option<PythonWalk>, PythonError> {
        self.look_again = None;
        if self.interpreter.is_some() {
            return Ok(None);
        }
        let mut problem = None;
        for part in mapped.iter().filter(|part| is_interpreter(part)) {
            match self.understand(part) {
                Ok(Some(python)) => {
                    let walk = walk(&python);
                    self.interpreter = Some(python);
                    return Ok(walk);
                }
                Err(PythonError::NotStarted | PythonError::NoWitness) => {
                    self.look_again = Some(Instant::now() + self.delay);
                    self.delay = (2 * self.delay).min(LONGEST_DELAY);
                }
                // Its code may be in a library.
                Ok(None) | Err(PythonError::NotCPython { .. }) => {}
                Err(error) => problem = Some(error),
            }
        }
        match problem {
            Some(problem) if self.look_again.is_none() => Err(problem),
            _ => Ok(None),
        }
    }

    /// Whether there is an interpreter that may be understood by now.
    pub fn wants_a_look(&self) -> bool {
        self.look_again.is_some_and(|at| at <= Instant::now())
    }

    /// `None` if the file can't be read.
    fn understand(&self, part: &MappedCode) -> Result<Option<Python>, PythonError> {
        let mut file = Vec::new();
        let read = part.open().and_then(|mut of| of.read_to_end(&mut file));
        let (Ok(_), Some(first_byte)) = (read, part.first_byte) else {
            return Ok(None);
        };
        let symbols = Symbols::of(&file, first_byte)?;
        Python::verify(&self.memory, &symbols, None).map(Some)
    }

    /// Takes in a code object as it was when it was first on a stack.
    pub fn code(&mut self, sent: &SentCode<'_>) {
        let Some(python) = &self.interpreter else {
            return;
        };
        let as_it_was = AsItWas {
            parts: sent.parts,
            now: &self.memory,
        };
        match CodeObject::read(&as_it_was, python, sent.address) {
            Ok(code) => drop(self.codes.insert((sent.address, sent.word), code)),
            Err(error) => tracing::debug!("a code object can't be told: {error}"),
        }
    }

    /// The stack that a record's frames are.
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
        let id = PythonStackId(self.stacks.len() as u32);
        self.stacks.push(PythonStack {
            groups: Vec::new(),
            more,
        });
        self.new.insert(id, key.0.clone());
        self.ids.insert(key, id);
        Some(id)
    }

    /// Tells a stack's frames, unless that was done. All records of its event must have been taken in: the
    /// code objects come behind the frames.
    pub fn settle(&mut self, id: PythonStackId) {
        let (Some(python), Some(sent)) = (&self.interpreter, self.new.remove(&id)) else {
            return;
        };
        let mut groups = vec![Vec::new()];
        for sent in sent {
            let frame = self
                .frames
                .entry(sent)
                .or_insert_with(|| tell(&self.codes, &self.memory, python, sent));
            if let (Some(group), Some(frame)) = (groups.last_mut(), frame) {
                group.push(frame.clone());
            }
            if sent.0.is_boundary {
                groups.push(Vec::new());
            }
        }
        groups.pop_if(|last| last.is_empty());
        self.stacks[id.0 as usize].groups = groups;
    }

    pub fn frames(&self, id: PythonStackId) -> Option<&PythonStack> {
        self.stacks.get(id.0 as usize)
    }
}

/// A frame with its names; `None` for one that CPython doesn't show. What can't be told isn't.
fn tell(
    codes: &HashMap<(u64, u64), CodeObject>,
    memory: &ProcessMemory,
    python: &Python,
    (raw, word): SentFrame,
) -> Option<Frame> {
    let frame = match codes.get(&(raw.code, word)) {
        Some(code) => code.frame(&raw),
        // It was sent to another tracer's life, or there was no room. Another one may have taken its
        // place since.
        None => CodeObject::read(memory, python, raw.code).and_then(|code| {
            match CodeObject::witness(memory, &python.layout, raw.code)? == word {
                true => code.frame(&raw),
                false => Err(PythonError::Gone { code: raw.code }),
            }
        }),
    };
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

/// A process's memory: some of it as it was, the rest as it is now.
struct AsItWas<'a> {
    parts: [(u64, &'a [u8]); 4],
    now: &'a ProcessMemory,
}

impl ReadMemory for AsItWas<'_> {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        for (start, part) in self.parts {
            let at = address
                .checked_sub(start)
                .and_then(|at| usize::try_from(at).ok());
            let was = at.and_then(|at| part.get(at..at.checked_add(bytes.len())?));
            if let Some(was) = was {
                bytes.copy_from_slice(was);
                return Ok(());
            }
        }
        self.now.read(address, bytes)
    }
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
        code_parts: CodeObject::part_offsets(&python.layout).map(u32::from),
    })
}
