//! A symbolic interpreter for one function of the library. It finds what the function reads, writes,
//! compares, calls and returns, in terms of the function's arguments.
//!
//! It is not an emulator. It follows every branch and keeps only what holds on all paths that meet.
//! A value is an argument, the memory at an address, the result of a call or the like, plus a
//! constant ([`Value`]); anything else is [`Value::Unknown`].
//!
//! A library that wasn't optimised calls a function for each `->` of a smart pointer. Such a call is
//! followed: the called code is interpreted as if it stood in its caller's place, with the caller's
//! values. Only calls that an optimiser could have inlined are followed: small functions that are
//! inline (weak symbols) or of the same source file (local symbols). Any other function may be bound
//! to another library's, so its effect is known by its name or not at all. Such a call is assumed to
//! keep the registers that the System V ABI preserves, and the stack slots whose addresses weren't
//! passed to it.

mod analysis;
mod call;
mod explore;
mod instruction;
mod observation;
mod state;
mod step;
mod value;

pub(crate) use analysis::Analysis;
pub(crate) use call::never_returns;
pub(crate) use explore::MAX_FOLLOWED_LEN;
pub(crate) use observation::{Action, Callee};
pub(crate) use state::{ARGUMENTS, State, number};
pub(crate) use value::{Base, MemoryLocation, RegisterNumber, Value};
