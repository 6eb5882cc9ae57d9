//! Whole-program tests of `tt-memtrace`: what each test needs and none says twice.
//!
//! - [`Tracer`] and [`WorkDir`]: `tt-memtrace` itself, and a directory of the test's own for what
//!   it and TT-Metal write;
//! - [`Process`]: any program, talked to by lines and waited for with a deadline;
//! - [`Cpp`]: the small C++ target of `target/`, which does what a test tells it;
//! - [`Ttnn`] and [`Cluster`]: the real `ttnn` on a mock device;
//! - [`Release`] and [`Library`]: which releases of it there are to test on;
//! - [`Summary`]: what `tt-memtrace` wrote, held against the published schema;
//! - [`shm`]: TT-Metal's own shared-memory statistics, a second opinion.
//!
//! Nothing here waits for a time: it waits for a line, a file or an end, and gives up after
//! [`DEADLINE`]. Only children of the test itself are ever signalled.

mod cpp;
mod process;
mod release;
pub mod shm;
mod summary;
mod tracer;
mod ttnn;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cpp::{Cpp, Generation, UserBuild, Variant};
pub use process::{Finished, Process, wait_for};
pub use release::{Library, Release, Trials, Versioned};
pub use summary::{
    Live, ProcessSummary, Summary, UniqueIds, events_named, list, text, unique_ids, unsigned,
};
pub use tracer::{Tracer, WorkDir};
pub use ttnn::{Cluster, Ttnn};

/// How long anything may take before a test says that it hangs. It is no measure of speed.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The top of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
}

/// The target directory that this test was built into, whichever cargo was told to use.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/name-hash
    match test.ancestors().nth(3) {
        Some(dir) if test.parent().is_some_and(|deps| deps.ends_with("deps")) => dir.to_owned(),
        _ => workspace().join("target"),
    }
}

/// Whether this test may run: uprobes and BPF programs are root's. Without root it fails under
/// `CI=true` and says loudly elsewhere that it was skipped.
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
    // Not by `eprintln!`: the test harness swallows that of tests that pass. Nothing is to be done
    // where there is no stderr.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {name} needs root (uprobes and BPF)"
    );
    false
}

/// Makes of each function that takes a [`Generation`] a test for each generation.
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

/// The `main` of a test program without the test harness: makes of each function that takes a
/// [`Release`] a test for each release of `ttnn` that is there, or of those where a method of the
/// release says so (`name if method`).
#[macro_export]
macro_rules! for_each_release {
    ($($name:ident $(if $condition:ident)?),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            let mut trials = $crate::Trials::of($crate::Release::all());
            $(trials.add(
                stringify!($name),
                $name,
                |_release| true $(&& _release.$condition())?,
            );)*
            trials.run()
        }
    };
}

/// Likewise of each function that takes a [`Library`].
#[macro_export]
macro_rules! for_each_library {
    ($($name:ident),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            let mut trials = $crate::Trials::of($crate::Library::all());
            $(trials.add(stringify!($name), $name, |_| true);)*
            trials.run()
        }
    };
}
