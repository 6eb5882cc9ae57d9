//! From field paths to capture programs, and from the kernel's records to [`Event`]s.

mod decode;
mod elements;
mod lists;
mod plan;
mod programs;
mod stack;
#[cfg(test)]
mod tests;
mod witness;

pub use decode::{DecodeError, Decoded, Planned, Stream, point, time_ns};
pub use plan::PlanError;
pub use stack::{SentCode, StackKey, StackPart, StackRecord, StackState, stack, stack_state};
pub use witness::{Implausible, Witness};
