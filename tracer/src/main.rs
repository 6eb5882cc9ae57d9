//! `tt-memtrace`: see `tt-memtrace --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tt_memtrace::main()
}
