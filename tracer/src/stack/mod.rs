//! Stack assembly: from the kernel side's records to call stacks with names.
//!
//! [`StackAssembler`] takes the stack records of all traced processes. It has `unwind` and `python` turn
//! them into native and Python frames, and merges these into one list when it names a stack. A stack is
//! named once, by [`StackAssembler::resolve_new`].
//!
//! Buffers on the member chips of a mesh share the stack of the mesh's own buffer. [`MeshFollowers`] derives
//! when the kernel side needn't send it again.

mod assembler;
mod code_files;
mod member_stacks;
mod merge;
mod mesh_followers;
mod process;
#[cfg(test)]
mod tests;

pub(crate) use assembler::{NamedStack, StackAssembler};
pub(crate) use mesh_followers::MeshFollowers;
