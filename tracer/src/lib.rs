//! External tracer of Tenstorrent device memory.

pub mod abi;
pub mod baseline;
pub mod cli;
pub mod cpp_name;
pub mod ledger;
pub mod operation;
pub mod origin;
pub mod probe;
pub mod python;
pub mod replay;
pub mod report;
pub mod stack;
pub mod stream;
pub mod target;
pub mod unwind;
