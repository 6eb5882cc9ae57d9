//! The Python stacks of another process: CPython 3.10 to 3.13, read from outside.
//!
//! - [`InterpreterSearch`] finds the interpreter of a running process. It reads the [`InterpreterSymbols`] of
//!   the interpreter's file, an executable or a library. [`Python::verify`] finds the interpreter by them, and
//!   a [`Layout`] that the process's data confirms.
//! - The kernel side gets a [`Walk`], plain data: the way from the base of a thread's FS segment to its frames.
//!   It sends a block of bytes of each frame. [`Layout::frames`] decodes the blocks, and [`CodeObject`] has the
//!   file, function and line of a frame.
//! - [`PythonStacks`] has the stacks of one process. It turns the blocks and code objects that the kernel side
//!   sends into frames with names.
//!
//! Only [`InterpreterSearch`] reads files. The process's memory is a
//! [`ReadMemory`](crate::target::ReadMemory).

mod code;
mod description;
mod error;
mod interpreter;
mod layout;
mod lines;
mod objects;
mod search;
mod stacks;
mod symbols;
#[cfg(test)]
pub(crate) mod tests;
mod verify;
mod version;
mod walk;

pub(crate) use code::CodeObject;
pub(crate) use error::PythonError;
pub(crate) use interpreter::Python;
pub(crate) use layout::Layout;
pub(crate) use lines::LineTable;
pub(crate) use search::{InterpreterSearch, is_interpreter};
pub(crate) use stacks::{NoMemory, PythonStackId, PythonStacks};
pub(crate) use symbols::InterpreterSymbols;
pub(crate) use version::Version;
pub(crate) use walk::{Instruction, RawFrame, Walk};
