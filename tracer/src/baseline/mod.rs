//! What a process held before anybody traced it, read from its memory by the library's own rules.
//!
//! [`Surveyor`] asks each device for its allocator and each allocator for its buffers and banks, by
//! [`replay`](crate::replay)ing the library's accessors. The target goes on meanwhile, so what is
//! read may be half of one moment and half of the next; [`reconcile`] compares it with the events
//! that came in meanwhile and tells what was really there. Pure: memory is read through a trait.

mod allocator;
mod bank_map;
mod reconcile;
mod survey;
#[cfg(test)]
mod tests;

pub use bank_map::BankMap;
pub use reconcile::{Reading, reconcile, unexplained};
pub use survey::{Banks, DeviceState, Survey, Surveyor};
