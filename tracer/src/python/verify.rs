//! Finds the interpreter in a process's memory and checks the layout against the process's data.

use std::collections::BTreeSet;

use super::{
    CodeObject, InterpreterSymbols, Layout, Python, PythonError, Version, Walk, description,
    layout::Entry,
    objects::{Types, expect, expect_type, int, word},
    walk::Thread,
};
use crate::target::ReadMemory;

/// The process runs on. What is read while frames come and go may not fit together, so there are several
/// attempts.
const ATTEMPTS: usize = 16;
/// The most interpreters in the list that are read.
const MAX_INTERPRETERS: usize = 1 << 10;
/// The most frames of a thread that are checked, the innermost ones.
const MAX_FRAMES: usize = 32;

impl Python {
    /// Finds the main interpreter of a process, and checks the layout of its version against the process's
    /// data:
    ///
    /// - The types have the names of their symbols.
    /// - The thread states point back to their interpreter and to one another.
    /// - The innermost frames of each running thread have code objects with text and line tables, and their
    ///   instructions belong to these code objects. At least one thread must be in Python code.
    ///
    /// A thread runs if its id is among `fs_bases`. If `fs_bases` isn't given, a thread runs if its id is the
    /// address of a word that contains this address: the System V ABI for x86-64 demands that of the base of
    /// FS.
    ///
    /// # Errors
    /// When anything is in doubt. After [`PythonError::NotStarted`] and [`PythonError::NoThreadInPython`] a
    /// later attempt may succeed.
    pub(crate) fn verify(
        memory: &dyn ReadMemory,
        symbols: &InterpreterSymbols,
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
        symbols: &InterpreterSymbols,
        fs_bases: Option<&BTreeSet<u64>>,
    ) -> Result<Self, PythonError> {
        let version = version(memory, symbols)?;
        let layout = layout(memory, symbols, version)?;
        Self::with_layout(memory, symbols, version, layout, fs_bases)
    }

    /// Finds the interpreter with a given layout, and checks this layout.
    pub(super) fn with_layout(
        memory: &dyn ReadMemory,
        symbols: &InterpreterSymbols,
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
        let is_running = |thread: &Thread| match fs_bases {
            Some(fs_bases) => fs_bases.contains(&thread.id),
            None => word(memory, thread.id) == Ok(thread.id),
        };
        let mut confirmations = 0;
        for thread in threads.into_iter().filter(is_running) {
            confirmations += usize::from(python.confirms_layout(memory, thread)?);
        }
        if confirmations == 0 {
            return Err(PythonError::NoThreadInPython);
        }
        Ok(python)
    }

    /// Whether a thread's frames confirm the layout. A thread without frames confirms nothing.
    fn confirms_layout(
        &self,
        memory: &dyn ReadMemory,
        thread: Thread,
    ) -> Result<bool, PythonError> {
        let Some(innermost) = self.walk.innermost(memory, thread)? else {
            return Ok(false);
        };
        if self.layout.frame.entry == Entry::Every {
            // The frames of 3.10 are objects.
            expect(memory, innermost, self.types.frame, "frame")?;
        }
        let blocks = self.walk.blocks(memory, innermost, MAX_FRAMES)?;
        let frames = self.layout.frames(&blocks.bytes);
        let mut is_confirmed = false;
        for frame in frames {
            let code = CodeObject::read(memory, self, frame.code)?;
            let is_shown = code.frame(&frame)?.is_some();
            // A call is never the first instruction of a function, so a zero confirms nothing.
            is_confirmed |= is_shown && code.index_of(frame.instruction) > Some(0);
        }
        Ok(is_confirmed)
    }
}

/// The content of `Py_Version`. Without this symbol but with `Py_NewRef`, some release of 3.10.
fn version(memory: &dyn ReadMemory, symbols: &InterpreterSymbols) -> Result<Version, PythonError> {
    match symbols.version {
        Some(address) => Ok(Version(int(memory, address)? as u32)),
        None if symbols.is_3_10_or_newer => Ok(Version(0x030a_00f0)),
        None => Err(PythonError::TooOld),
    }
}

fn layout(
    memory: &dyn ReadMemory,
    symbols: &InterpreterSymbols,
    version: Version,
) -> Result<Layout, PythonError> {
    if !version.has_stable_layout() {
        return Err(PythonError::UnknownVersion { version });
    }
    if version.series() == (3, 13) {
        let mut bytes = [0; description::LEN];
        memory.read(symbols.runtime, &mut bytes)?;
        return Layout::described(&bytes, version);
    }
    Layout::of_series(version.series()).ok_or(PythonError::UnknownVersion { version })
}

fn types(memory: &dyn ReadMemory, symbols: &InterpreterSymbols) -> Result<Types, PythonError> {
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
    symbols: &InterpreterSymbols,
    layout: &Layout,
) -> Result<u64, PythonError> {
    let field = |address: u64, offset: u16| word(memory, address.wrapping_add(offset.into()));
    let mut interpreter = field(symbols.runtime, layout.interpreters)?;
    if interpreter == 0 {
        return Err(PythonError::NotStarted);
    }
    for _ in 0..MAX_INTERPRETERS {
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
