//! The offsets of the fields of CPython's structures, in bytes: of x86-64 builds without `Py_GIL_DISABLED`
//! and `Py_TRACE_REFS`.
//!
//! CPython doesn't change these structures within a series (3.10.x) after its first release candidate. 3.13
//! describes itself (`description.rs`). The offsets of earlier series are those that `offsetof` yields
//! (`fixtures/offsets.c`) with the headers of 3.10.13, 3.11.2, 3.11.7 and 3.12.1. They are used only after
//! [`Python::verify`](super::Python::verify) has confirmed them in the process.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The fields that are needed to find the frames of a thread, and the file, function and line of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// Of `_PyRuntimeState`: `interpreters.head`, the first of the list of interpreters, which is the newest
    /// (`Include/internal/pycore_runtime.h`).
    pub(super) interpreters: u16,
    pub(super) interpreter: InterpreterLayout,
    pub(super) thread: ThreadLayout,
    pub(super) frame: FrameLayout,
    pub(super) code: CodeLayout,
    pub(super) text: TextLayout,
}

/// `PyInterpreterState` (`Include/internal/pycore_interp.h`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InterpreterLayout {
    pub next: u16,
    /// `int64_t`; 0 is the main interpreter.
    pub id: u16,
    /// The first of its thread states, which is the newest: `tstate_head` (3.10), `threads.head`.
    pub threads: u16,
}

/// `PyThreadState` (`Include/cpython/pystate.h`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ThreadLayout {
    /// The list is linked both ways.
    pub previous: u16,
    pub next: u16,
    pub interpreter: u16,
    /// `thread_id`, the result of `pthread_self`: with glibc and musl on x86-64 the base of the FS segment.
    pub id: u16,
    /// The way to the innermost frame: the offset of a pointer in the thread state, then that of a pointer in
    /// the structure that the first one points to.
    pub frame: Vec<u16>,
}

/// `PyFrameObject` of 3.10 (`Include/cpython/frameobject.h`), `_PyInterpreterFrame` of 3.11 and
/// newer (`Include/internal/pycore_frame.h`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FrameLayout {
    /// The frame of the caller: `f_back` (3.10), `previous`.
    pub previous: u16,
    /// `f_code` (to 3.12), `f_executable` (3.13).
    pub code: u16,
    pub position: Position,
    pub entry: Entry,
}

/// The field of a frame that has its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Position {
    /// `int f_lasti`, in code units of two bytes; -1 before the first (3.10).
    Index(u16),
    /// A pointer: `prev_instr` (3.11, 3.12), `instr_ptr` (3.13). CPython itself derives the line from it
    /// (`_PyInterpreterFrame_LASTI`).
    Pointer(u16),
}

/// How a frame that C code called is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// Every frame is one: a call of `_PyEval_EvalFrameDefault` executes one frame (3.10).
    Every,
    /// `bool is_entry`, next to `char owner` (3.11).
    Flag { is_entry: u16, owner: u16 },
    /// Its caller in the list of frames is a shim, a frame that belongs to no function, with
    /// `char owner == FRAME_OWNED_BY_CSTACK` (3.12, 3.13).
    Shim { owner: u16 },
}

/// `PyCodeObject` (`Include/cpython/code.h`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CodeLayout {
    pub file_name: u16,
    pub name: u16,
    /// `co_qualname`, from 3.11 on.
    pub qualified_name: Option<u16>,
    /// `int co_firstlineno`.
    pub first_line: u16,
    pub line_table: u16,
    /// From 3.11 on.
    pub instructions: Option<Instructions>,
}

/// The instructions, which are part of the code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instructions {
    /// `co_code_adaptive`.
    pub start: u16,
    /// `int _co_firsttraceable`: CPython doesn't show a frame that is before this instruction
    /// (`_PyFrame_IsIncomplete`).
    pub first_traceable: u16,
}

/// `PyASCIIObject`, `PyCompactUnicodeObject` (`Include/cpython/unicodeobject.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TextLayout {
    /// `Py_ssize_t`, in characters.
    pub length: u16,
    /// Bit fields in an `unsigned int`: `interned` 2, `kind` 3, `compact` 1, `ascii` 1.
    pub state: u16,
    /// `sizeof(PyASCIIObject)`, the offset of the characters of ASCII text.
    pub ascii: u16,
    /// `sizeof(PyCompactUnicodeObject)`, the offset of the characters of other text.
    pub compact: u16,
}

/// `PyObject.ob_type` (`Include/object.h`), in all versions.
pub(super) const OBJECT_TYPE: u64 = 8;
/// `PyTypeObject.tp_name`, `const char *` (`Include/cpython/object.h`), in all versions.
pub(super) const TYPE_NAME: u64 = 24;
/// `PyVarObject.ob_size`, of a `bytes` object its length (`Include/object.h`), in all versions.
pub(super) const BYTES_LENGTH: u64 = 16;
/// `PyBytesObject.ob_sval` (`Include/cpython/bytesobject.h`), in all versions.
pub(super) const BYTES_START: u64 = 32;

impl Layout {
    /// Where in a code object the pointer to its line table lies, in bytes: its fingerprint. Another code
    /// object that takes its place has another line table.
    pub(crate) fn fingerprint_offset(&self) -> u16 {
        self.code.line_table
    }

    /// Where in a code object the pointers to its file's name, its own name and its line table lie, in
    /// bytes: besides the object itself, [`CodeObject::read`](super::CodeObject::read) reads only these parts.
    pub(crate) fn code_part_offsets(&self) -> [u16; 3] {
        let code = &self.code;
        [
            code.file_name,
            code.qualified_name.unwrap_or(code.name),
            code.line_table,
        ]
    }

    /// The layout of a series that doesn't describe itself; `None` if it is unknown.
    pub(crate) fn of_series(series: (u8, u8)) -> Option<Self> {
        match series {
            (3, 10) => Some(Self::of_3_10()),
            (3, 11) => Some(Self::of_3_11()),
            (3, 12) => Some(Self::of_3_12()),
            _ => None,
        }
    }

    fn of_3_10() -> Self {
        Self {
            interpreters: 32,
            interpreter: InterpreterLayout {
                next: 0,
                id: 24,
                threads: 8,
            },
            thread: ThreadLayout {
                previous: 0,
                next: 8,
                interpreter: 16,
                id: 176,
                // frame
                frame: vec![24],
            },
            frame: FrameLayout {
                previous: 24,
                code: 32,
                position: Position::Index(96),
                entry: Entry::Every,
            },
            code: CodeLayout {
                file_name: 104,
                name: 112,
                qualified_name: None,
                first_line: 40,
                line_table: 120,
                instructions: None,
            },
            text: TextLayout {
                length: 16,
                state: 32,
                ascii: 48,
                compact: 72,
            },
        }
    }

    fn of_3_11() -> Self {
        Self {
            interpreters: 40,
            interpreter: InterpreterLayout {
                next: 0,
                id: 48,
                threads: 16,
            },
            thread: ThreadLayout {
                previous: 0,
                next: 8,
                interpreter: 16,
                id: 152,
                // cframe, then _PyCFrame.current_frame
                frame: vec![56, 8],
            },
            frame: FrameLayout {
                previous: 48,
                code: 32,
                position: Position::Pointer(56),
                entry: Entry::Flag {
                    is_entry: 68,
                    owner: 69,
                },
            },
            code: CodeLayout {
                file_name: 112,
                name: 120,
                qualified_name: Some(128),
                first_line: 72,
                line_table: 136,
                instructions: Some(Instructions {
                    start: 184,
                    first_traceable: 168,
                }),
            },
            text: TextLayout {
                length: 16,
                state: 32,
                ascii: 48,
                compact: 72,
            },
        }
    }

    fn of_3_12() -> Self {
        Self {
            interpreters: 40,
            interpreter: InterpreterLayout {
                next: 0,
                id: 8,
                threads: 72,
            },
            thread: ThreadLayout {
                previous: 0,
                next: 8,
                interpreter: 16,
                id: 136,
                // cframe, then _PyCFrame.current_frame
                frame: vec![56, 0],
            },
            frame: FrameLayout {
                previous: 8,
                code: 0,
                position: Position::Pointer(56),
                entry: Entry::Shim { owner: 70 },
            },
            code: CodeLayout {
                file_name: 112,
                name: 120,
                qualified_name: Some(128),
                first_line: 68,
                line_table: 136,
                instructions: Some(Instructions {
                    start: 192,
                    first_traceable: 176,
                }),
            },
            text: TextLayout {
                length: 16,
                state: 32,
                ascii: 40,
                compact: 56,
            },
        }
    }
}

impl FrameLayout {
    /// The part of a frame that contains all these fields, in whole words.
    pub(super) fn block(&self) -> Range<u16> {
        let position = match self.position {
            Position::Index(at) => (at, 4),
            Position::Pointer(at) => (at, 8),
        };
        let (entry, owner) = match self.entry {
            Entry::Every => (None, None),
            Entry::Flag { is_entry, owner } => (Some((is_entry, 1)), Some((owner, 1))),
            Entry::Shim { owner } => (None, Some((owner, 1))),
        };
        let fields = || {
            [(self.previous, 8), (self.code, 8), position]
                .into_iter()
                .chain(entry)
                .chain(owner)
        };
        let start = fields().map(|(at, _)| at).min().unwrap_or(0) & !7;
        let end = fields().map(|(at, width)| at.saturating_add(width)).max();
        start..end.map_or(start, |end| end.saturating_add(7) & !7)
    }
}
