//! Options, wiring, exit codes.

mod args;
mod attach;
mod banks;
mod before;
mod books;
mod check;
mod clock;
mod deed;
mod everyone;
mod failure;
mod host;
mod libraries;
mod linker;
mod mark;
mod marks;
mod meshes;
mod output;
mod python;
mod reading;
mod run;
mod session;
mod signals;
mod spaces;
mod stacks;

use std::{io, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use args::{Arguments, Command};
use failure::{Failure, Kind};

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything of ours runs in what is to become another program.
    if let Command::ExecHeld { command } = &arguments.command {
        return tell(&run::exec_held(command));
    }
    let filter = EnvFilter::try_from_env("TT_MEMTRACE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,aya=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tell(&Failure::new(Kind::Host, error)),
    };
    let result = match arguments.command {
        Command::Run(options) => runtime.block_on(run::run(options)),
        Command::Attach(options) => runtime
            .block_on(attach::attach(options))
            .map(|()| ExitCode::SUCCESS),
        Command::Mark(options) => mark::mark(&options).map(|()| ExitCode::SUCCESS),
        Command::Check(options) => check::check(&options),
        Command::ExecHeld { .. } => Ok(ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|failure| tell(&failure))
}

fn tell(failure: &Failure) -> ExitCode {
    eprintln!("tt-memtrace: {failure}");
    failure.code()
}
