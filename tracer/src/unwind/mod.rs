//! From a thread's stack as it was, to its call frames: by what the compiler says of each instruction
//! in `.eh_frame`, since TT-Metal's code keeps no frame pointers.
//!
//! Strict: where a step is in doubt (code that nobody describes, a register that nobody knows, a part
//! of the stack that wasn't captured), the stack ends there and says why. There is no guess by frame
//! pointers or by scanning.
//!
//! Most allocations come from where others came from. What unwinding a stack depended on (the
//! instruction, and the few words of the stack that were read) is remembered with its result: another
//! stack of which all of these are the same has the same frames.

mod code;
mod frames;
mod memory;
mod rules;
mod symbols;
#[cfg(test)]
mod tests;

pub use code::{Code, CodeError};
pub use frames::{Broken, Codes, Mapping, NativeFrame, NativeStack, NativeStackId, Unwinder};
pub use memory::Snapshot;
pub use symbols::Symbols;
