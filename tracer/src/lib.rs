//! `tt-memtrace`, an external tracer of Tenstorrent device memory. `docs/design.md` shows its rooms and the
//! path of one allocation through them.

mod abi;
mod check;
mod cli;
mod clock;
mod cpp_name;
mod files;
mod frame;
mod ledger;
mod operation;
mod origin;
mod probe;
#[cfg(test)]
mod properties;
mod python;
mod replay;
mod report;
mod session;
mod sinks;
mod snapshot;
mod stack;
mod stream;
#[cfg(any(test, feature = "tape"))]
mod tape;
mod target;
mod unwind;

pub use cli::main;
