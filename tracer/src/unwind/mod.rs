//! Unwinding: from a copy of a thread's stack to its call frames, by the compiler's unwinding rules in
//! `.eh_frame`. TT-Metal's code keeps no frame pointers.
//!
//! Unwinding is strict. Where a step is in doubt (code without rules, an unknown register, a part of the
//! stack that wasn't captured) the stack ends, and [`Broken`] has the reason. There is no guess by frame
//! pointers or by scanning.
//!
//! Most allocations come from the same few places. An [`Unwinder`] caches each result with all that it
//! depended on: the instruction, and the few words of the stack that were read. Another stack with the same
//! instruction and words has the same frames.

mod rules;
mod stack_copy;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind_info;
mod unwinder;

pub(crate) use stack_copy::StackCopy;
pub(crate) use symbols::Symbols;
pub(crate) use unwind_info::{NotElf, UnwindInfo};
pub(crate) use unwinder::{
    Broken, FileAddress, Mapping, NativeFrame, NativeStackId, UnwindInfoSource, Unwinder,
};
