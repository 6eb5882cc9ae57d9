//! Asks a function of the library what it would return, without running it in the target.
//!
//! [`Replay::call`] executes a function's machine code (from the library's file) on a [`Picture`]
//! of the target's memory: what it reads is fetched once and kept, what it writes stays in the
//! picture. So an accessor such as `AllocatorImpl::get_statistics` answers by the library's own
//! rules whatever the layout of the objects is, and the target is not touched.
//!
//! Only what accessors need is understood. A function that calls out of the library (but for the
//! few of [`library`]), throws, waits for a lock, or uses an instruction that isn't known, is an
//! error, and so is one that doesn't come to an end.

mod arithmetic;
mod error;
mod library;
mod machine;
mod picture;
#[cfg(test)]
mod tests;
mod vector;

pub use error::{ReplayError, Unreadable};
pub use machine::Replay;
pub use picture::{PAGE_LEN, PageBytes, Picture, ReadMemory};
