//! Which releases of `ttnn` there are to be tested.
//!
//! The environment says so: `TTNN_PYTHON_0_81_1` names a Python that has one, and
//! `TTNN_LIBRARY_0_62_2` a `libtt_metal.so` alone. Without any such variable it is what
//! `cargo xtask ttnn` and `cargo xtask releases` made.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

use crate::{need_root, target_dir, workspace};

/// A release of `ttnn` that can be run: a Python has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(&'static str);

impl Release {
    pub const V0_77_0: Self = Self("0.77.0");
    pub const V0_81_1: Self = Self("0.81.1");

    /// All that are there, newest first.
    pub fn all() -> Vec<Self> {
        named("TTNN_PYTHON_", "ttnn", "venv/bin/python")
            .into_iter()
            // They live as long as the tests.
            .map(|(version, _)| Self(version.leak()))
            .collect()
    }

    pub fn version(self) -> &'static str {
        self.0
    }

    /// TT-Metal itself.
    pub fn library(self) -> PathBuf {
        self.package().join("build/lib/libtt_metal.so")
    }

    /// The folder of the Python package.
    fn package(self) -> PathBuf {
        let python = self.python();
        let lib = python
            .ancestors()
            .nth(2)
            .expect("venv/bin/python")
            .join("lib");
        let versions =
            fs::read_dir(&lib).unwrap_or_else(|error| panic!("{}: {error}", lib.display()));
        versions
            .map(|version| version.expect("an entry").path().join("site-packages/ttnn"))
            .find(|package| package.exists())
            .unwrap_or_else(|| panic!("no ttnn in {}", lib.display()))
    }

    /// Whether several chips can be mocked. A stand-in simulator, for releases that refuse a mock
    /// cluster, is one chip.
    pub fn has_meshes(self) -> bool {
        self.set_up()["simulator"].is_null()
    }

    /// Whether programs are dispatched as on hardware: some releases can't on a mock device.
    pub fn dispatches_fast(self) -> bool {
        self.set_up()["variables"]["TT_METAL_SLOW_DISPATCH_MODE"].is_null()
    }

    /// Whether both hold.
    pub fn dispatches_fast_to_meshes(self) -> bool {
        self.has_meshes() && self.dispatches_fast()
    }

    /// How it is set up to run without hardware.
    fn set_up(self) -> Value {
        let package = self.package();
        let set_up = package.with_file_name("tt_memtrace_mock.json");
        let set_up = fs::read_to_string(&set_up)
            .unwrap_or_else(|error| panic!("{}: {error}", set_up.display()));
        serde_json::from_str(&set_up).expect("cargo xtask ttnn wrote it")
    }

    /// Whether it keeps statistics in `/dev/shm/tt_device_…`: its library has that name in it.
    pub fn has_statistics(self) -> bool {
        let library = fs::read(self.library()).expect("the library can be read");
        let name = b"/tt_device_";
        library.windows(name.len()).any(|bytes| bytes == name)
    }

    /// The Python that has it.
    pub fn python(self) -> PathBuf {
        let version = self.version();
        named("TTNN_PYTHON_", "ttnn", "venv/bin/python")
            .into_iter()
            .find_map(|(found, python)| (found == version).then_some(python))
            .unwrap_or_else(|| {
                panic!(
                    "no ttnn {version} here: run `cargo xtask ttnn`, or set {}",
                    variable("TTNN_PYTHON_", version)
                )
            })
    }
}

/// The `libtt_metal.so` of a release, and the release.
#[derive(Clone, Debug)]
pub struct Library {
    pub version: String,
    pub path: PathBuf,
}

impl Library {
    /// All that are there, those of runnable releases included, newest first.
    pub fn all() -> Vec<Self> {
        let mut libraries: BTreeMap<Vec<u64>, Self> = BTreeMap::new();
        let alone = named("TTNN_LIBRARY_", "releases", "libtt_metal.so");
        let of_runnable = Release::all()
            .into_iter()
            .map(|release| (release.version().to_owned(), release.library()));
        for (version, path) in alone.into_iter().chain(of_runnable) {
            libraries.insert(numbers(&version), Self { version, path });
        }
        libraries.into_values().rev().collect()
    }
}

/// What tests are made for each of.
pub trait Versioned: Clone + Send + 'static {
    fn version(&self) -> String;
}

impl Versioned for Release {
    fn version(&self) -> String {
        self.0.to_owned()
    }
}

impl Versioned for Library {
    fn version(&self) -> String {
        self.version.clone()
    }
}

/// The tests of a program that makes them at run time, called `test_name::on_0_81_1`.
pub struct Trials<T> {
    things: Vec<T>,
    trials: Vec<Trial>,
}

impl<T: Versioned> Trials<T> {
    /// Tests of each of these; that there is none is a failure.
    pub fn of(things: Vec<T>) -> Self {
        let mut trials = Vec::new();
        if things.is_empty() {
            trials.push(Trial::test("a_release_is_there", || {
                Err("no release of ttnn here: run `cargo xtask ttnn`".into())
            }));
        }
        Self { things, trials }
    }

    /// A test of those where the condition holds.
    pub fn add(&mut self, name: &str, test: fn(T), condition: fn(&T) -> bool) {
        for thing in self.things.iter().filter(|thing| condition(thing)).cloned() {
            let name = format!("{name}::on_{}", thing.version().replace('.', "_"));
            self.trials.push(Trial::test(name, move || {
                if need_root() {
                    test(thing);
                }
                Ok(())
            }));
        }
    }

    /// Runs them as libtest's arguments say.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }
}

/// What the variables of that prefix name; without any, what lies at `target/FOLDER/VERSION/FILE`.
/// By version, newest first.
fn named(prefix: &str, folder: &str, file: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = env::vars_os()
        .filter_map(|(name, path)| {
            let version = name.to_str()?.strip_prefix(prefix)?.replace('_', ".");
            Some((version, PathBuf::from(path)))
        })
        .collect();
    if found.is_empty() {
        found = [target_dir(), workspace().join("target")]
            .iter()
            .map(|target| lying_in(&target.join(folder), file))
            .find(|found| !found.is_empty())
            .unwrap_or_default();
    }
    found.sort_by_key(|(version, _)| numbers(version));
    found.reverse();
    found
}

fn lying_in(folder: &Path, file: &str) -> Vec<(String, PathBuf)> {
    let Ok(versions) = fs::read_dir(folder) else {
        return Vec::new();
    };
    versions
        .flatten()
        // Written last, so its presence says that the rest is complete.
        .filter(|version| version.path().join("stamp.json").exists())
        .map(|version| {
            let name = version.file_name().to_string_lossy().into_owned();
            (name, version.path().join(file))
        })
        .collect()
}

fn variable(prefix: &str, version: &str) -> String {
    format!("{prefix}{}", version.replace('.', "_"))
}

/// So that 0.9 comes before 0.10.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}
