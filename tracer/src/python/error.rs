use thiserror::Error;

use super::Version;
use crate::target::Unreadable;

/// Why the Python stacks of a process can't be read. Doubt is an error, never a guess.
#[derive(Debug, Error)]
pub(crate) enum PythonError {
    /// A file that isn't an ELF file, or is cut short.
    #[error("not a readable ELF file: {0}")]
    NotElf(#[from] object::Error),

    /// A file without an interpreter.
    #[error("not CPython: its .dynsym lacks {symbol}")]
    NotCPython { symbol: &'static str },

    /// A version whose structures are unknown.
    #[error("CPython {version} isn't supported: Python stacks need a release of 3.10 to 3.13")]
    UnknownVersion { version: Version },

    /// A version before 3.10. Its symbols don't show which one.
    #[error("CPython before 3.10 isn't supported: Python stacks need a release of 3.10 to 3.13")]
    TooOld,

    /// The description of the structures that CPython 3.13 contains is implausible.
    #[error("CPython's description of itself (_Py_DebugOffsets) {reason}")]
    Description { reason: &'static str },

    /// The interpreter is mapped, but `Py_Initialize` hasn't run. A later attempt may succeed.
    #[error("the interpreter isn't initialized")]
    NotStarted,

    /// No thread runs Python code, which the layout could be checked against. A later attempt may succeed.
    #[error("no living thread is in Python code")]
    NoThreadInPython,

    /// The address of a type's symbol has no such type: the file isn't the one that is mapped there.
    #[error("the symbol of type `{name}` leads to {address:#x}, where this type isn't")]
    WrongType { name: &'static str, address: u64 },

    /// The list of interpreters has no main interpreter.
    #[error("the list of interpreters has no interpreter with id 0")]
    NoMainInterpreter,

    /// A thread state belongs to another interpreter than the one that lists it.
    #[error("the thread state at {address:#x} doesn't point back to its interpreter")]
    ForeignThread { address: u64 },

    /// A thread state that doesn't point back to the one before it in the list.
    #[error("the thread state at {address:#x} isn't linked to the one before it")]
    Unlinked { address: u64 },

    /// A list without an end.
    #[error("the list of {what} doesn't end")]
    Endless { what: &'static str },

    /// An object of another type.
    #[error("the object at {address:#x} isn't a `{expected}`")]
    NotA {
        expected: &'static str,
        address: u64,
    },

    /// Text, bytes or numbers that no code object has.
    #[error("the {what} at {address:#x} is implausible: {reason}")]
    Implausible {
        what: &'static str,
        address: u64,
        reason: &'static str,
    },

    /// A frame whose instruction lies outside its code object.
    #[error("a frame's instruction isn't in its code object at {code:#x}")]
    InstructionOutside { code: u64 },

    /// A code object was freed before it could be read, and another may have taken its place.
    #[error("the code object at {code:#x} is gone")]
    Gone { code: u64 },

    /// Memory that can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}
