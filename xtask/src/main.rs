//! `cargo xtask`: everything that is done to this repository rather than by it.
//!
//! Each command sets up what it needs, can be stopped and run again, and says what to do when it
//! can't go on. Long output goes to a log under `target/xtask/`; what went wrong is shown.

mod ebpf;
#[expect(dead_code, reason = "the demo is yet to come")]
mod progress;
mod sh;
#[expect(dead_code, reason = "the demo is yet to come")]
mod ttnn;

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
    Ebpf(ebpf::Options),
    Ttnn(ttnn::Options),
}

fn main() -> anyhow::Result<()> {
    let progress = Progress::new();
    match Arguments::parse().command {
        Command::Ebpf(options) => ebpf::main(&progress, &options),
        Command::Ttnn(options) => ttnn::main(&progress, &options),
    }
}
