//! The command line: options, wiring, signals, exit codes, printing.

mod args;
mod attach;
mod check;
mod command;
mod failure;
mod mark;
mod mark_socket;
mod outputs;
mod run;
mod signals;
mod terminal;
mod trace;

use std::{io, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use args::{Arguments, Command};
use failure::{Failure, Kind};
use terminal::Terminal;

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything of ours runs in what is to become another program.
    if let Command::ExecHeld { command } = &arguments.command {
        return end(&command::exec_held(command));
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
        Err(error) => return end(&Failure::new(Kind::Host, error)),
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
    result.unwrap_or_else(|failure| end(&failure))
}

fn end(failure: &Failure) -> ExitCode {
    Terminal::new(true).warn(&failure.to_string());
    failure.code()
}
