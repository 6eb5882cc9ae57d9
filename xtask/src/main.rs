//! `cargo xtask`: building, testing and measuring this repository.
//!
//! Each command installs what it needs, can be stopped and run again, and reports what to do when it
//! can't go on. The output of the programs that it runs goes to logs under `target/xtask/`; if one
//! fails, the end of its log is shown.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people"
)]

mod bench;
mod ci;
mod demo;
mod ebpf;
mod program;
mod progress;
mod python;
mod releases;
mod sh;
mod tape;
mod test;
mod totals;
mod ttnn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use progress::Progress;

/// Build, demonstrate, test and measure tt-memtrace.
///
/// Works on Debian 12 or newer with rustup's stable Rust. Each command installs what else it needs:
/// packages by apt (as root, or by sudo), everything else under target/ and ~/.local/share.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Options),
    Test(test::Options),
    Ci(ci::Options),
    Bench(bench::Options),
    Ebpf(ebpf::Options),
    Ttnn(ttnn::Options),
    Releases(releases::Options),
    Tape(tape::Options),
}

fn main() -> ExitCode {
    // Returning the error from main would print a backtrace of xtask with RUST_BACKTRACE set.
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    match Arguments::parse().command {
        Command::Demo(options) => demo::main(&progress, &options)?,
        Command::Test(options) => return test::main(&progress, &options),
        Command::Ci(options) => return ci::main(&progress, &options),
        Command::Bench(options) => bench::main(&progress, &options)?,
        Command::Ebpf(options) => ebpf::main(&progress, &options)?,
        Command::Releases(options) => return releases::main(&progress, &options),
        Command::Tape(options) => tape::main(&progress, &options)?,
        Command::Ttnn(options) => ttnn::main(&progress, &options)?,
    }
    Ok(ExitCode::SUCCESS)
}
