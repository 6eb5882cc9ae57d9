//! Computes what a function of the library would return, without running it in the target.
//!
//! [`Replay::call`] executes a function's machine code (from the library's file) on an [`Overlay`] of
//! the target's memory. What the function reads is fetched once and kept; what it writes stays in the
//! overlay. So an accessor such as `AllocatorImpl::get_statistics` works by the library's own rules,
//! whatever the layout of the objects is, and the target isn't touched.
//!
//! Only what accessors need is supported. It is an error if a function calls a function outside the
//! library (except the few in `library`), throws, waits for a lock, uses an unsupported instruction, or
//! doesn't come to an end.

mod arithmetic;
mod error;
mod execution;
mod flags;
mod library;
mod machine;
mod overlay;
#[cfg(test)]
mod tests;
mod vector;

pub(crate) use error::ReplayError;
pub(crate) use execution::Replay;
pub(crate) use overlay::Overlay;
