use thiserror::Error;

use super::Version;
use crate::replay::Unreadable;

/// Why the Python stacks of a process can't be read. A doubt is one of these, never a guess.
#[derive(Debug, Error)]
pub enum PythonError {
    /// Not an ELF file, or one cut short.
    #[error("not a readable ELF file: {0}")]
    NotElf(#[from] object::Error),

    /// A file that doesn't contain an interpreter.
    #[error("not CPython: its .dynsym lacks {symbol}")]
    NotCPython { symbol: &'static str },

    /// A version whose structures aren't known.
    #[error("CPython {version}: Python stacks are known of the releases of 3.10 to 3.13")]
    UnknownVersion { version: Version },

    /// Older than 3.10; which one, its symbols don't tell.
    #[error("a CPython before 3.10: Python stacks are known of the releases of 3.10 to 3.13")]
    TooOld,

    /// What CPython 3.13 says of itself doesn't hold water.
    #[error("CPython's description of itself (_Py_DebugOffsets) {reason}")]
    Description { reason: &'static str },

    /// The interpreter is mapped, but `Py_Initialize` hasn't run: worth another try later.
    #[error("the interpreter isn't initialized")]
    NotStarted,

    /// No thread runs Python code that could confirm the layout: worth another try later.
    #[error("no living thread is in Python code")]
    NoWitness,

    /// A symbol of a type doesn't lead to that type: the file isn't the one that is mapped there.
    #[error("what the symbol of type `{name}` leads to, {address:#x}, isn't that type")]
    WrongType { name: &'static str, address: u64 },

    /// The interpreters' list has no main interpreter.
    #[error("no interpreter with id 0 is in the list of interpreters")]
    NoMainInterpreter,

    /// A thread state belongs to another interpreter than the one that lists it.
    #[error("the thread state at {address:#x} doesn't point back to its interpreter")]
    ForeignThread { address: u64 },

    /// A thread state that doesn't know of the one that leads to it.
    #[error("the thread state at {address:#x} isn't linked to the one before it")]
    Unlinked { address: u64 },

    /// A list that has no end.
    #[error("the list of {what} doesn't come to an end")]
    Endless { what: &'static str },

    /// An object of another type.
    #[error("what is at {address:#x} isn't a `{expected}` object")]
    NotA {
        expected: &'static str,
        address: u64,
    },

    /// Text, bytes or numbers beyond what code objects have.
    #[error("the {what} at {address:#x} can't be true: {reason}")]
    Implausible {
        what: &'static str,
        address: u64,
        reason: &'static str,
    },

    /// A frame whose instruction isn't one of its code object.
    #[error("a frame's instruction isn't in its code object at {code:#x}")]
    InstructionOutside { code: u64 },

    /// A code object was freed before it could be read, and another may have taken its place.
    #[error("the code object at {code:#x} is gone")]
    Gone { code: u64 },

    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}
