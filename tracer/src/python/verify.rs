//! Whether a layout holds in a process.

use std::collections::BTreeSet;

use super::{
    CodeObject, Layout, PythonError, Symbols, Version, Walk, description,
    layout::Entry,
    objects::{Types, expect, expect_type, int, word},
    walk::Thread,
};
use crate::replay::ReadMemory;

/// So often a process that runs on is looked at: what is read while frames come and go may not fit
/// together.
const ATTEMPTS: usize = 16;
/// As many interpreters are looked at.
const MOST_INTERPRETERS: usize = 1 << 10;
/// As many frames of a thread are looked at, the innermost ones.
const MOST_FRAMES: usize = 32;

/// An interpreter in a process, known well enough to read its threads' stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    pub version: Version,
    pub layout: Layout,
    /// Over the threads of the main interpreter.
    pub walk: Walk,
    pub(super) types: Types,
}

impl Python {
    /// Finds the main interpreter of a process, and has its own data confirm the layout of its
    /// version: types are called what their symbols are, thread states point back to their
    /// interpreter and to one another, and of each living thread the innermost frames have code objects with text and
    /// line tables, and are at an instruction that these have. At least one thread must be in Python
    /// code.
    ///
    /// A living thread is one whose id is among `fs_bases` or, if none are given, is the address of a
    /// word that has this address: the System V ABI for x86-64 wants that of the base of FS.
    ///
    /// # Errors
    /// When anything is in doubt. [`PythonError::NotStarted`] and [`PythonError::NoWitness`] may pass.
    pub fn verify(
        memory: &dyn ReadMemory,
        symbols: &Symbols,
        fs_bases: Option<&BTreeSet<u64>>,
    ) -> Result<Self, PythonError> {
        let mut python = Self::attempt(memory, symbols, fs_bases);
        for _ in 1..ATTEMPTS {
            if python.is_ok() {
                break;
            }
            python = Self::attempt(memory, symbols, fs_bases);
        }
        python
    }

    fn attempt(
        memory: &dyn ReadMemory,
        symbols: &Symbols,
        fs_bases: Option<&BTreeSet<u64>>,
    ) -> Result<Self, PythonError> {
        let version = version(memory, symbols)?;
        let layout = layout(memory, symbols, version)?;
        Self::with_layout(memory, symbols, version, layout, fs_bases)
    }

    /// An interpreter of which a layout is told; only the rest is looked for.
    pub(super) fn with_layout(
        memory: &dyn ReadMemory,
        symbols: &Symbols,
        version: Version,
        layout: Layout,
        fs_bases: Option<&BTreeSet<u64>>,
    ) -> Result<Self, PythonError> {
        let types = types(memory, symbols)?;
        let interpreter = main_interpreter(memory, symbols, &layout)?;
        let thread_list_head = interpreter.wrapping_add(layout.interpreter.threads.into());
        let python = Self {
            version,
            walk: Walk::new(&layout, thread_list_head),
            layout,
            types,
        };
        let threads = python.walk.threads(memory)?;
        let mut before = 0;
        for &Thread { state: address, .. } in &threads {
            let field = |offset: u16| word(memory, address.wrapping_add(offset.into()));
            if field(python.layout.thread.interpreter)? != interpreter {
                return Err(PythonError::ForeignThread { address });
            }
            if field(python.layout.thread.previous)? != before {
                return Err(PythonError::Unlinked { address });
            }
            before = address;
        }
        let lives = |thread: &Thread| match fs_bases {
            Some(fs_bases) => fs_bases.contains(&thread.id),
            None => word(memory, thread.id) == Ok(thread.id),
        };
        let mut witnesses = 0;
        for thread in threads.into_iter().filter(lives) {
            witnesses += usize::from(python.is_witness(memory, thread)?);
        }
        if witnesses == 0 {
            return Err(PythonError::NoWitness);
        }
        Ok(python)
    }

    /// Whether a thread's frames confirm the layout; not if it has none.
    fn is_witness(&self, memory: &dyn ReadMemory, thread: Thread) -> Result<bool, PythonError> {
        let Some(innermost) = self.walk.innermost(memory, thread)? else {
            return Ok(false);
        };
        if self.layout.frame.entry == Entry::Every {
            // The frames of 3.10 are objects.
            expect(memory, innermost, self.types.frame, "frame")?;
        }
        let blocks = self.walk.blocks(memory, innermost, MOST_FRAMES)?;
        let frames = self.layout.frames(&blocks.bytes);
        let mut is_witness = false;
        for frame in frames {
            let code = CodeObject::read(memory, self, frame.code)?;
            let is_shown = code.frame(&frame)?.is_some();
            // No call is a function's first instruction: a zero is nobody's word.
            is_witness |= is_shown && code.index_of(frame.instruction) > Some(0);
        }
        Ok(is_witness)
    }
}

/// `Py_Version`, or 3.10 (some release of it), which is the one that has `Py_NewRef` but not that.
fn version(memory: &dyn ReadMemory, symbols: &Symbols) -> Result<Version, PythonError> {
    match symbols.version {
        Some(address) => Ok(Version(int(memory, address)? as u32)),
        None if symbols.is_3_10_or_newer => Ok(Version(0x030a_00f0)),
        None => Err(PythonError::TooOld),
    }
}

fn layout(
    memory: &dyn ReadMemory,
    symbols: &Symbols,
    version: Version,
) -> Result<Layout, PythonError> {
    if !version.is_settled() {
        return Err(PythonError::UnknownVersion { version });
    }
    if version.series() == (3, 13) {
        let mut bytes = [0; description::LEN];
        memory.read(symbols.runtime, &mut bytes)?;
        return Layout::described(&bytes, version);
    }
    Layout::of_series(version.series()).ok_or(PythonError::UnknownVersion { version })
}

fn types(memory: &dyn ReadMemory, symbols: &Symbols) -> Result<Types, PythonError> {
    expect_type(memory, symbols.code_type, "code")?;
    expect_type(memory, symbols.text_type, "str")?;
    expect_type(memory, symbols.bytes_type, "bytes")?;
    expect_type(memory, symbols.frame_type, "frame")?;
    Ok(Types {
        code: symbols.code_type,
        text: symbols.text_type,
        bytes: symbols.bytes_type,
        frame: symbols.frame_type,
    })
}

/// The interpreter with id 0.
fn main_interpreter(
    memory: &dyn ReadMemory,
    symbols: &Symbols,
    layout: &Layout,
) -> Result<u64, PythonError> {
    let field = |address: u64, offset: u16| word(memory, address.wrapping_add(offset.into()));
    let mut interpreter = field(symbols.runtime, layout.interpreters)?;
    if interpreter == 0 {
        return Err(PythonError::NotStarted);
    }
    for _ in 0..MOST_INTERPRETERS {
        if interpreter == 0 {
            return Err(PythonError::NoMainInterpreter);
        }
        if field(interpreter, layout.interpreter.id)? == 0 {
            return Ok(interpreter);
        }
        interpreter = field(interpreter, layout.interpreter.next)?;
    }
    Err(PythonError::Endless {
        what: "interpreters",
    })
}
