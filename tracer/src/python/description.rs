//! The layout of CPython 3.13, which describes itself: `_Py_DebugOffsets`, the first field of `_PyRuntime`
//! (`Include/internal/pycore_runtime.h` of 3.13).

use super::{
    PythonError, Version,
    layout::{
        BYTES_LENGTH, BYTES_START, CodeLayout, Entry, FrameLayout, Instructions, InterpreterLayout,
        Layout, OBJECT_TYPE, Position, TYPE_NAME, TextLayout, ThreadLayout,
    },
    walk::MAX_BLOCK_LEN,
};

/// `_Py_Debug_Cookie`.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
/// The words of the description up to `unicode_object.asciiobject_size`, the last one that is used.
const WORDS: usize = 71;
/// The length of these words in bytes.
pub(super) const LEN: usize = WORDS * 8;

impl Layout {
    /// The layout of a CPython of this version, from the first bytes of its `_PyRuntime`.
    ///
    /// # Errors
    /// When these are no description of this version, or an implausible one.
    pub(super) fn described(bytes: &[u8; LEN], version: Version) -> Result<Self, PythonError> {
        let wrong = |reason| PythonError::Description { reason };
        let word = |index: usize| {
            let bytes = bytes[index * 8..].first_chunk().copied();
            bytes.map_or(0, u64::from_le_bytes)
        };
        if word(COOKIE_AT) != COOKIE {
            return Err(wrong("isn't there"));
        }
        if word(VERSION) != u64::from(version.0) {
            return Err(wrong("is of another version"));
        }
        if word(FREE_THREADED) != 0 {
            return Err(wrong("is of a free-threaded build, which isn't supported"));
        }
        let constants = [
            (OB_TYPE, OBJECT_TYPE),
            (TP_NAME, TYPE_NAME),
            (BYTES_OB_SIZE, BYTES_LENGTH),
            (BYTES_OB_SVAL, BYTES_START),
        ];
        if constants.iter().any(|(index, is)| word(*index) != *is) {
            return Err(wrong("has objects of an unknown shape"));
        }
        let offset = |index| u16::try_from(word(index)).map_err(|_| wrong("is out of range"));
        let instructions = offset(CODE_ADAPTIVE)?;
        let ascii = offset(ASCII_SIZE)?;
        let layout = Self {
            interpreters: offset(INTERPRETERS_HEAD)?,
            interpreter: InterpreterLayout {
                next: offset(INTERPRETER_NEXT)?,
                id: offset(INTERPRETER_ID)?,
                threads: offset(THREADS_HEAD)?,
            },
            thread: ThreadLayout {
                previous: offset(THREAD_PREV)?,
                next: offset(THREAD_NEXT)?,
                interpreter: offset(THREAD_INTERP)?,
                id: offset(THREAD_ID)?,
                frame: vec![offset(CURRENT_FRAME)?],
            },
            frame: FrameLayout {
                previous: offset(FRAME_PREVIOUS)?,
                code: offset(FRAME_EXECUTABLE)?,
                position: Position::Pointer(offset(INSTR_PTR)?),
                entry: Entry::Shim {
                    owner: offset(FRAME_OWNER)?,
                },
            },
            code: CodeLayout {
                file_name: offset(CODE_FILENAME)?,
                name: offset(CODE_NAME)?,
                qualified_name: Some(offset(CODE_QUALNAME)?),
                first_line: offset(CODE_FIRSTLINENO)?,
                line_table: offset(CODE_LINETABLE)?,
                instructions: Some(Instructions {
                    start: instructions,
                    // Not in the description: `int _co_firsttraceable; void *co_extra; char co_code_adaptive[]`
                    // (`Include/cpython/code.h` of 3.13).
                    first_traceable: instructions
                        .checked_sub(16)
                        .ok_or(wrong("is out of range"))?,
                }),
            },
            text: TextLayout {
                length: offset(TEXT_LENGTH)?,
                state: offset(TEXT_STATE)?,
                ascii,
                // `PyASCIIObject`, then `Py_ssize_t utf8_length; char *utf8;`
                // (`Include/cpython/unicodeobject.h` of 3.13).
                compact: ascii.saturating_add(16),
            },
        };
        if layout.frame.block().len() > MAX_BLOCK_LEN {
            return Err(wrong("has the fields of a frame too far apart"));
        }
        Ok(layout)
    }
}

// The words of the description, by their index.
const COOKIE_AT: usize = 0;
const VERSION: usize = 1;
const FREE_THREADED: usize = 2;
const INTERPRETERS_HEAD: usize = 5;
const INTERPRETER_ID: usize = 7;
const INTERPRETER_NEXT: usize = 8;
const THREADS_HEAD: usize = 9;
const THREAD_PREV: usize = 20;
const THREAD_NEXT: usize = 21;
const THREAD_INTERP: usize = 22;
const CURRENT_FRAME: usize = 23;
const THREAD_ID: usize = 24;
const FRAME_PREVIOUS: usize = 29;
const FRAME_EXECUTABLE: usize = 30;
const INSTR_PTR: usize = 31;
const FRAME_OWNER: usize = 33;
const CODE_FILENAME: usize = 35;
const CODE_NAME: usize = 36;
const CODE_QUALNAME: usize = 37;
const CODE_LINETABLE: usize = 38;
const CODE_FIRSTLINENO: usize = 39;
const CODE_ADAPTIVE: usize = 43;
const OB_TYPE: usize = 45;
const TP_NAME: usize = 47;
const BYTES_OB_SIZE: usize = 65;
const BYTES_OB_SVAL: usize = 66;
const TEXT_STATE: usize = 68;
const TEXT_LENGTH: usize = 69;
const ASCII_SIZE: usize = 70;
