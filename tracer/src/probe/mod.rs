//! The kernel side: loading the programs, putting probes on and taking them off, draining the ring
//! buffers. It knows aya, and doesn't know what a record means.

mod attached;
mod btf;
mod error;
mod kernel;
mod links;
mod requirements;

pub(crate) use error::ProbeError;
pub(crate) use kernel::{Kernel, Recording, Reporting, StackDetail};
pub(crate) use links::{LinkScope, Probe};
pub(crate) use requirements::{HostName, Requirements, Unsupported};
