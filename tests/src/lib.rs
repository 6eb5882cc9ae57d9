//! Whole-program tests of `tt-memtrace`: what several tests need.
//!
//! - [`Tracer`] and [`WorkDir`]: `tt-memtrace` itself, and a directory of the test's own for the files that
//!   `tt-memtrace` and TT-Metal write;
//! - [`Process`]: any program, with lines for its stdin and from its stdout, and a deadline for its end;
//! - [`Cpp`]: the small C++ target of `target/`, which obeys a test's commands;
//! - [`Ttnn`] and [`Cluster`]: the real `ttnn` on a mock device;
//! - [`Release`] and [`Library`]: the releases of `ttnn` that are installed;
//! - [`Summary`]: the summary of a trace, checked against the published schema;
//! - [`shm`]: TT-Metal's own shared-memory statistics, as a second source for the same figures.
//!
//! Nothing here waits for a fixed time: it waits for a line, a file or the end of a process, and gives up after
//! [`DEADLINE`]. A test sends signals only to its own children.

#![expect(clippy::print_stderr, reason = "a test's output shows why it failed")]

mod cpp;
mod elf;
mod events;
mod json;
mod process;
mod release;
pub mod shm;
mod size;
mod summary;
mod tracer;
mod ttnn;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cpp::{Cpp, Generation, UserBuild, Variant};
pub use elf::build_id;
pub use events::{UniqueIds, events_named, only_event, unique_ids};
pub use json::{list, parsed, pid, text, unsigned};
pub use process::{Finished, Process, wait_for};
pub use release::{Library, Release, Trials, Versioned};
pub use size::human_size;
pub use summary::{
    AttachSnapshot, Attached, BankMap, Block, BlockBuffer, Buffer, Capacity, Change, Core,
    CoreCoordinates, CoreRange, Count, Device, DeviceKind, DevicePrograms, DeviceSummary,
    Difference, EventCounts, Exit, Failure, Frame, FrameKind, Group, GroupChange, Leak, LiveBuffer,
    LoadedLibrary, Mark, MemorySince, NonOwning, OriginTotal, Peak, PlacedGroup, ProcessChange,
    ProcessSummary, Program, ProgramBuffer, ProgramMemory, ProgramRegions, Range, SinceMark, Stack,
    Summary, Temporary, Usage,
};
pub use tracer::{Tracer, WorkDir};
pub use ttnn::{Cluster, Ttnn};

/// How long anything may take before a test reports that it hangs. This is no measure of speed.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The top of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
}

/// The target directory that this test was built into.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/name-hash
    match test.ancestors().nth(3) {
        Some(dir) if test.parent().is_some_and(|deps| deps.ends_with("deps")) => dir.to_owned(),
        _ => workspace().join("target"),
    }
}

/// Whether this test may run: uprobes and BPF programs need root. Without root the test fails under
/// `CI=true`; elsewhere it prints that it was skipped.
#[must_use]
pub fn need_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{name} needs root (uprobes and BPF)"
    );
    // Not by `eprintln!`: the test harness hides its output where the test passes. Without a stderr there is
    // nowhere to report it.
    writeln!(
        std::io::stderr(),
        "SKIPPED: {name} needs root (uprobes and BPF)"
    )
    .ok();
    false
}

/// Turns each function that takes a [`Generation`] into one test for each generation.
#[macro_export]
macro_rules! for_each_generation {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn as_0_77_0() {
                if $crate::need_root() {
                    super::$name($crate::Generation::One);
                }
            }

            #[test]
            fn as_0_81_1() {
                if $crate::need_root() {
                    super::$name($crate::Generation::Two);
                }
            }
        }
    )*};
}

/// The `main` of a test program without the test harness: turns each function that takes a [`Release`] into one
/// test for each installed release of `ttnn`, or only for those whose method returns true (`name if method`).
#[macro_export]
macro_rules! for_each_release {
    ($($name:ident $(if $condition:ident)?),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            let mut trials = $crate::Trials::new($crate::Release::all());
            $(trials.add(
                stringify!($name),
                $name,
                |_release| true $(&& _release.$condition())?,
            );)*
            trials.run()
        }
    };
}

/// Likewise for each function that takes a [`Library`].
#[macro_export]
macro_rules! for_each_library {
    ($($name:ident),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            let mut trials = $crate::Trials::new($crate::Library::all());
            $(trials.add(stringify!($name), $name, |_| true);)*
            trials.run()
        }
    };
}
