//! From field paths to capture programs, and from the kernel's records to [`Event`](crate::ledger::Event)s.

mod blocks;
mod buffers;
mod decode;
mod devices;
mod elements;
mod fields;
mod lists;
mod plan;
mod plausibility;
mod programs;
mod record;
mod stack;
#[cfg(test)]
mod tests;

pub(crate) use decode::{Decoded, Planned, Stream};
pub(crate) use plan::PlanError;
pub(crate) use plausibility::{Implausible, Plausibility};
pub(crate) use record::{DecodeError, point, time_ns};
pub(crate) use stack::{
    SentCode, StackKey, StackPart, StackRecord, StackState, stack, stack_state,
};
