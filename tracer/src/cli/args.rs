//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::mark_socket::mark_name;
use crate::{ledger::Ledger, probe};

/// Shows who holds Tenstorrent device memory, from outside.
///
/// Traces every device-memory buffer of a process that uses TT-Metal (libtt_metal.so, through
/// ttnn or directly): no rebuild, no environment variable, no server. Needs root, or CAP_BPF and
/// CAP_PERFMON (and CAP_SYS_PTRACE for other users' processes).
#[derive(Debug, Parser)]
#[command(
    name = "tt-memtrace",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done; 2 wrong usage; 3 no such process, or several; 4 no TT-Metal in \
                  the process; 5 not enough privilege, or a kernel that can't; 6 a library that can't \
                  be traced; 7 a result that can't be written; 8 a leak (--fail-on-leak). `run` exits as its command does: with \
                  its code, or 128 + N when signal N ended it; 127 when there is no such command, \
                  126 when it can't be started."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Trace a command from its first buffer
    Run(Run),
    /// Trace running processes
    Attach(Attach),
    /// Mark a moment in a running trace: what has changed since?
    ///
    /// Returns once the mark is set: what happens then comes after it. Prints what is live, and what is new
    /// and gone since the mark before. The trace's report shows what has changed since the last mark, its
    /// summary since each. SIGUSR1 to the tracer sets a mark without a name.
    Mark(Mark),
    /// Tell whether tracing works here, and what was found in a library
    Check(Check),
    /// Executes a command after stopping itself: what `run` starts
    #[command(hide = true)]
    ExecHeld {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub tracing: Tracing,
    /// The command and its arguments; its input, output and exit code stay its own
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).multiple(true))]
pub(super) struct Attach {
    /// A process, by its number; may be given several times
    #[arg(long, group = "target", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// A process, by the name of its command, its program, or the script that it runs; may be given
    /// several times
    #[arg(long, group = "target")]
    pub name: Vec<String>,
    /// Every process that has loaded TT-Metal, or does so later, until Ctrl-C or --duration
    #[arg(long, group = "target", conflicts_with_all = ["pid", "name", "wait"])]
    pub all: bool,
    /// Wait for the processes to appear (--name) and for them to load TT-Metal
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub tracing: Tracing,
}

/// What `run` and `attach` share.
#[derive(Debug, Args)]
pub(super) struct Tracing {
    /// Write the summary as JSON to this file (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Write every event to this file (`-`: standard output), one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Stop tracing after this time, such as 90s or 5min; the target goes on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Room for events on their way from the kernel, such as 64MiB; what doesn't fit is counted
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = ring_size)]
    pub ring_size: u32,
    /// What to capture of the stack that makes a buffer: nothing, the Python frames, or also the C++ frames
    #[arg(long, value_enum, default_value_t = Stacks::Full)]
    pub stacks: Stacks,
    /// Exit with code 8 if a process that ended held more than this until then (0 if not said, such as
    /// 64KiB), not counting what TT-Metal holds for itself: programs, traces, semaphores. `run` does so
    /// only where its command's own code is 0
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0",
        value_parser = size
    )]
    pub fail_on_leak: Option<u64>,
    /// Tell what has changed against this earlier summary. With --fail-on-leak only what exceeds it counts
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Count allocations as temporary that are freed with at most so many others in between
    #[arg(long, value_name = "N", default_value_t = Ledger::TEMPORARY)]
    pub temporary: u64,
}

/// How much is captured of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stacks {
    None,
    Python,
    Full,
}

impl From<Stacks> for probe::StackDetail {
    fn from(stacks: Stacks) -> Self {
        match stacks {
            Stacks::None => Self::None,
            Stacks::Python => Self::Python,
            Stacks::Full => Self::Full,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Mark {
    /// The tracer, by its number, if there are several
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// What to call the moment
    #[arg(value_parser = mark_name)]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Look at the library of this process
    #[arg(long, conflicts_with = "library")]
    pub pid: Option<u32>,
    /// Look at this libtt_metal.so
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write the functions that were looked at to this file, to attach to a report about a library
    /// that can't be traced
    #[arg(long, value_name = "FILE")]
    pub excerpt: Option<PathBuf>,
}

/// The size of a ring buffer: a power of two and a multiple of the page size, as the kernel wants.
fn ring_size(text: &str) -> Result<u32, String> {
    let page = rustix::param::page_size() as u64;
    u32::try_from(size(text)?)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && u64::from(*bytes) >= page && *bytes <= 1 << 30)
        .ok_or_else(|| format!("must be a power of two from {} KiB to 1 GiB", page / 1024))
}

/// A size in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` doesn't begin with a number"))?;
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        unit => return Err(format!("`{unit}` is no unit; use KiB, MiB or GiB")),
    };
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .ok_or_else(|| format!("`{text}` is more than any memory has"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_leak_is_any_or_of_a_size() {
        let limit = |option: &str| {
            let words = ["tt-memtrace", "run", option, "python", "train.py"];
            match Arguments::try_parse_from(words).map(|arguments| arguments.command) {
                Ok(Command::Run(run)) => {
                    assert_eq!(run.command, ["python", "train.py"]);
                    Some(run.tracing.fail_on_leak)
                }
                _ => None,
            }
        };
        assert_eq!(limit("--quiet"), Some(None));
        assert_eq!(limit("--fail-on-leak"), Some(Some(0)));
        assert_eq!(limit("--fail-on-leak=64KiB"), Some(Some(65536)));
        assert_eq!(limit("--fail-on-leak=3MiB"), Some(Some(3 << 20)));
        for wrong in ["--fail-on-leak=some", "--fail-on-leak=17179869184GiB"] {
            assert_eq!(limit(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two_with_units() {
        assert_eq!(ring_size("4KiB"), Ok(4096));
        assert_eq!(ring_size("16MiB"), Ok(16 << 20));
        assert_eq!(ring_size("65536"), Ok(65536));
        for wrong in [
            "",
            "KiB",
            "3MiB",
            "1KiB",
            "4GiB",
            "16MB",
            "-4KiB",
            "18446744073709551615GiB",
        ] {
            assert!(ring_size(wrong).is_err(), "{wrong}");
        }
    }
}
