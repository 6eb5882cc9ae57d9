//! External tracer of Tenstorrent device memory.

pub mod ledger;
pub mod probe;
pub mod report;
