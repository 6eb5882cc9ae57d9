//! The kernel's side: loads the programs, attaches and detaches probes, drains the ring buffer.
//! Knows aya; doesn't know what a record means.

mod btf;
mod error;
mod kernel;
mod links;

pub use error::ProbeError;
pub use kernel::{Kernel, Recording, Reporting, Stacks, describes_types, supports_uprobes};
pub use links::{AttachedProbes, Probe, Scope};
