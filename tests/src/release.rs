//! The releases of `ttnn` that the tests run on.
//!
//! Environment variables name them: `TTNN_PYTHON_0_81_1` is a Python with that release, and
//! `TTNN_LIBRARY_0_62_2` a `libtt_metal.so` alone. Without any such variable the tests run on what
//! `cargo xtask ttnn` and `cargo xtask releases` have made.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

use crate::{need_root, target_dir, workspace};

/// A release of `ttnn` that is installed in a Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(&'static str);

impl Release {
    pub const V0_77_0: Self = Self("0.77.0");
    pub const V0_81_1: Self = Self("0.81.1");

    /// All installed releases, newest first.
    pub fn all() -> Vec<Self> {
        named("TTNN_PYTHON_", "ttnn", "venv/bin/python")
            .into_iter()
            // Leaked: a test may hold the version until the program ends.
            .map(|(version, _)| Self(version.leak()))
            .collect()
    }

    pub fn version(self) -> &'static str {
        self.0
    }

    /// The library of TT-Metal itself.
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

    /// Whether the release can open several chips. The stand-in simulator, for releases that refuse a mock
    /// cluster, has one chip.
    pub fn has_meshes(self) -> bool {
        self.set_up()["simulator"].is_null()
    }

    /// Whether the release dispatches programs as it does on hardware. Some releases can't on a mock device.
    pub fn dispatches_fast(self) -> bool {
        self.set_up()["variables"]["TT_METAL_SLOW_DISPATCH_MODE"].is_null()
    }

    /// Whether [`Self::has_meshes`] and [`Self::dispatches_fast`] both hold.
    pub fn dispatches_fast_to_meshes(self) -> bool {
        self.has_meshes() && self.dispatches_fast()
    }

    /// How `cargo xtask ttnn` has set it up to run without hardware.
    fn set_up(self) -> Value {
        let package = self.package();
        let set_up = package.with_file_name("tt_memtrace_mock.json");
        let set_up = fs::read_to_string(&set_up)
            .unwrap_or_else(|error| panic!("{}: {error}", set_up.display()));
        serde_json::from_str(&set_up).expect("cargo xtask ttnn wrote it")
    }

    /// Whether it keeps statistics in `/dev/shm/tt_device_…`: its library then contains that name.
    pub fn has_statistics(self) -> bool {
        let library = fs::read(self.library()).expect("the library can be read");
        let name = b"/tt_device_";
        library.windows(name.len()).any(|bytes| bytes == name)
    }

    /// The Python that it is installed in.
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
    /// All libraries, those of installed releases included, newest first.
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

/// A release or a library: there is one test for each.
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

/// The tests of a program that makes them at run time, with names like `test_name::on_0_81_1`.
pub struct Trials<T> {
    versions: Vec<T>,
    trials: Vec<Trial>,
}

impl<T: Versioned> Trials<T> {
    /// Tests on each of these. An empty list makes one test that fails.
    pub fn new(versions: Vec<T>) -> Self {
        let mut trials = Vec::new();
        if versions.is_empty() {
            trials.push(Trial::test("a_release_is_there", || {
                Err("no release of ttnn here: run `cargo xtask ttnn`".into())
            }));
        }
        Self { versions, trials }
    }

    /// Adds a test on each version for which the condition holds.
    pub fn add(&mut self, name: &str, test: fn(T), condition: fn(&T) -> bool) {
        for on in self.versions.iter().filter(|on| condition(on)).cloned() {
            let name = format!("{name}::on_{}", on.version().replace('.', "_"));
            self.trials.push(Trial::test(name, move || {
                if need_root() {
                    test(on);
                }
                Ok(())
            }));
        }
    }

    /// Runs them with libtest's command line arguments.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }
}

/// Versions and paths, newest first: from the environment variables with that prefix, or, if there is none, the
/// files `target/FOLDER/VERSION/FILE`.
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
            .map(|target| installed_in(&target.join(folder), file))
            .find(|found| !found.is_empty())
            .unwrap_or_default();
    }
    found.sort_by_key(|(version, _)| numbers(version));
    found.reverse();
    found
}

fn installed_in(folder: &Path, file: &str) -> Vec<(String, PathBuf)> {
    let Ok(versions) = fs::read_dir(folder) else {
        return Vec::new();
    };
    versions
        .flatten()
        // xtask writes this file last, so the rest is complete.
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

/// A key to sort versions by: 0.9 comes before 0.10.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}
