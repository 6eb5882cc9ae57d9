//! The Python stack of a thread of another process: of CPython 3.10 to 3.13, read from outside.
//!
//! [`Symbols`] are of the interpreter's file, which may be an executable or a library.
//! [`Python::verify`] finds by them the interpreter in the process, and a [`Layout`] that its data
//! confirms. What the kernel needs of it is a [`Walk`], plain data: from the base of a thread's FS
//! segment to the blocks of bytes of its frames. [`Layout::frames`] says what those are, and
//! [`CodeObject`] what file, function and line each is of.
//!
//! Nothing here is I/O: the target's memory is a [`ReadMemory`](crate::replay::ReadMemory).

mod code;
mod description;
mod error;
mod layout;
mod lines;
mod objects;
mod symbols;
#[cfg(test)]
mod tests;
mod verify;
mod version;
mod walk;

pub use code::CodeObject;
pub use error::PythonError;
pub use layout::Layout;
pub use lines::{LineTable, Span};
pub use symbols::Symbols;
pub use verify::Python;
pub use version::Version;
pub use walk::{Blocks, Instruction, LONGEST_BLOCK, MOST_DEREFS, RawFrame, Thread, Walk};
