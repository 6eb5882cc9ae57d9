//! `cargo xtask`: everything that is done to this repository rather than by it.
//!
//! Each command sets up what it needs, can be stopped and run again, and says what to do when it
//! can't go on. Long output goes to a log under `target/xtask/`; what went wrong is shown.

mod bench;
mod ci;
mod demo;
mod ebpf;
mod program;
mod progress;
mod python;
mod releases;
mod sh;
mod test;
mod totals;
mod ttnn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use progress::Progress;

/// Build, demonstrate, test and measure tt-memtrace.
///
/// Works on a Debian 12 or newer machine with rustup's stable Rust. What else a command needs it
/// installs: packages by apt (as root, or by sudo), the rest under target/ and ~/.local/share.
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
}

fn main() -> ExitCode {
    // Not returned from main: with RUST_BACKTRACE set that would print our own stack.
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
        Command::Ttnn(options) => ttnn::main(&progress, &options)?,
    }
    Ok(ExitCode::SUCCESS)
}
