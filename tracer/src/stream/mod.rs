//! From field paths to capture programs, and from the kernel's records to [`Event`]s.

mod decode;
mod plan;
#[cfg(test)]
mod tests;

pub use decode::{DecodeError, Decoded, Stream};
pub use plan::PlanError;
