//! `cargo xtask ttnn`: installs the real `ttnn` from PyPI under `target/ttnn/`, ready for mock devices.
//!
//! A mock device runs TT-Metal's whole host side but no kernel, so a stand-in (`tests/mock-ttnn`) replaces
//! Tenstorrent's RISC-V compiler in the wheel.

mod device;
mod stand_in;

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::json;

use crate::{
    progress::{Progress, Step},
    python, sh,
};
pub(crate) use device::Device;
use stand_in::StandIn;

/// The releases that the whole-program tests run on, newest first. 0.81.1 has its fields behind a pointer, 0.77.0 has
/// them in `Buffer`, and 0.66.0 is the oldest that runs on a mock device without further settings.
pub(crate) const RELEASES: [&str; 3] = ["0.81.1", "0.77.0", "0.66.0"];

/// Further releases whose library the tests check with `tt-memtrace check`.
pub(crate) const LIBRARIES: [&str; 6] =
    ["0.79.0", "0.74.0", "0.71.2", "0.68.0", "0.64.5", "0.62.2"];

/// Fetch the real ttnn and make it ready for mock devices.
///
/// Makes target/ttnn/VERSION/venv with the wheel from PyPI and the stand-ins of tests/mock-ttnn, and
/// runs a workload to find out on which device without hardware the release runs. Needs CPython 3.10
/// or 3.12, from PATH or ~/.pyenv/versions; installs binutils-riscv64-unknown-elf by apt if it is
/// missing. Complete environments are kept.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Releases of ttnn.
    #[arg(value_name = "VERSION", default_values_t = RELEASES.map(String::from))]
    versions: Vec<String>,
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<()> {
    let versions: Vec<&str> = options.versions.iter().map(String::as_str).collect();
    let python = python::for_ttnn().ok_or_else(python::none_for_ttnn)?;
    for environment in prepare(progress, &python, &versions)? {
        println!("{}", environment.python.display());
    }
    Ok(())
}

/// An installed release of ttnn.
pub(crate) struct Environment {
    pub version: String,
    pub python: PathBuf,
    /// TT-Metal's `libtt_metal.so`.
    pub library: PathBuf,
    /// The device that it runs on.
    pub device: Device,
}

/// Makes the environments that are missing, all at the same time.
pub(crate) fn prepare(
    progress: &Progress,
    python: &Path,
    versions: &[&str],
) -> Result<Vec<Environment>> {
    // Without duplicates: two threads must not make the same environment.
    let mut seen = BTreeSet::new();
    let versions: Vec<&str> = versions
        .iter()
        .copied()
        .filter(|version| seen.insert(*version))
        .collect();
    let maker = Maker::new(progress, python)?;
    thread::scope(|scope| {
        let threads: Vec<_> = versions
            .into_iter()
            .map(|version| {
                let maker = &maker;
                scope.spawn(move || {
                    progress.step(&format!("ttnn {version}"), |step| {
                        maker.environment(step, version)
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("preparing ttnn panicked")))
            })
            .collect()
    })
}

/// Makes environments.
pub(crate) struct Maker<'a> {
    base: &'a Path,
    stand_in: StandIn,
}

impl<'a> Maker<'a> {
    /// A maker of environments of this Python.
    pub(crate) fn new(progress: &Progress, base: &'a Path) -> Result<Self> {
        if sh::on_path("riscv64-unknown-elf-ld").is_none() {
            progress.step("RISC-V binutils", |step| {
                sh::apt_install(step, &["binutils-riscv64-unknown-elf"])
            })?;
        }
        Ok(Self {
            base,
            stand_in: StandIn::read()?,
        })
    }

    /// Changes with the stand-ins for the compiler and the devices.
    pub(crate) fn stand_in(&self) -> String {
        self.stand_in.hash()
    }

    /// Makes the environment of a release, unless it is complete. An error that is an [`Unrunnable`] means that the
    /// release is installed but doesn't run.
    pub(crate) fn environment(&self, step: &Step, version: &str) -> Result<Environment> {
        environment(step, self.base, version, &self.stand_in)
    }
}

fn environment(step: &Step, base: &Path, version: &str, stand_in: &StandIn) -> Result<Environment> {
    check_version(version)?;
    let dir = directory(version);
    let stamp = Stamp {
        file: dir.join("stamp.json"),
        stand_in: stand_in.hash(),
        version,
    };
    let python = dir.join("venv/bin/python");
    if let Some(device) = stamp.read()
        && let Ok(package) = installed_package(&python)
    {
        step.say(&format!("ttnn {version} is installed already"));
        return Ok(Environment::new(version, python, &package, device));
    }

    let installed = dir.join("installed");
    if !installed.exists() {
        install(step, base, version, &dir, &python)?;
        fs::write(&installed, version).with_context(|| format!("write {}", installed.display()))?;
    }
    let package = installed_package(&python)?;
    stand_in.install_compiler(step, &package)?;
    let device = find_device(step, &python, &package, &dir, stand_in)?;
    // Written last, so that the rest is complete if it exists.
    stamp.write(device)?;
    Ok(Environment::new(version, python, &package, device))
}

/// Makes a virtual environment with the wheel.
fn install(step: &Step, base: &Path, version: &str, dir: &Path, python: &Path) -> Result<()> {
    remove(version)?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    step.run(
        Command::new(base)
            .args(["-m", "venv"])
            .arg(dir.join("venv")),
    )?;
    step.run(
        Command::new(python)
            .args(["-m", "pip", "install", "--disable-pip-version-check"])
            // Without compiling, which takes two thirds of the time; the workload compiles what it imports.
            .args([
                "--progress-bar",
                "off",
                "--only-binary",
                "ttnn",
                "--no-compile",
            ])
            .arg(format!("ttnn=={version}")),
    )
    .with_context(|| format!("can't install ttnn {version} from PyPI"))
}

/// The first device that the release runs the workload on.
fn find_device(
    step: &Step,
    python: &Path,
    package: &Path,
    dir: &Path,
    stand_in: &StandIn,
) -> Result<Device> {
    let mut reasons = Vec::new();
    for device in Device::ALL {
        if let Err(reason) = try_device(step, python, package, dir, stand_in, device)? {
            step.report(&format!("{device}: {reason}"));
            reasons.push(format!("{device}: {reason}"));
        } else {
            return Ok(device);
        }
    }
    bail!(Unrunnable { reasons })
}

/// Sets up the device and runs the workload on it. The inner error is one line with the reason why that failed.
fn try_device(
    step: &Step,
    python: &Path,
    package: &Path,
    dir: &Path,
    stand_in: &StandIn,
    device: Device,
) -> Result<Result<(), String>> {
    let cache = dir.join(format!("cache-{}", device.name()));
    if cache.exists() {
        // It may hold kernels of other stand-ins.
        fs::remove_dir_all(&cache).with_context(|| format!("remove {}", cache.display()))?;
    }
    if device.simulator().is_some()
        && let Err(error) = stand_in.build_simulators(step, python, package, &dir.join("simulator"))
    {
        return Ok(Err(format!("{error:#}")));
    }
    stand_in.write_hook(package, dir, &cache, device)?;
    device::try_workload(python, dir)
}

/// An installed release that runs on no device without hardware.
#[derive(Debug)]
pub(crate) struct Unrunnable {
    /// One reason for each device.
    pub reasons: Vec<String>,
}

impl fmt::Display for Unrunnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it doesn't run ({})", self.reasons.join("; "))
    }
}

impl std::error::Error for Unrunnable {}

/// The file that marks an environment as complete, with its stand-ins and its device.
struct Stamp<'a> {
    file: PathBuf,
    stand_in: String,
    version: &'a str,
}

impl Stamp<'_> {
    /// To be changed when an environment consists of something else.
    const LAYOUT: u32 = 3;

    fn text(&self, device: Device) -> String {
        json!({
            "ttnn": self.version,
            "stand_in": self.stand_in,
            "layout": Self::LAYOUT,
            "device": device.name(),
        })
        .to_string()
    }

    fn read(&self) -> Option<Device> {
        let found = fs::read_to_string(&self.file).ok()?;
        Device::ALL
            .into_iter()
            .find(|device| found == self.text(*device))
    }

    fn write(&self, device: Device) -> Result<()> {
        fs::write(&self.file, self.text(device))
            .with_context(|| format!("write {}", self.file.display()))
    }
}

/// Refuses text that is no version, before it becomes part of a path.
pub(crate) fn check_version(version: &str) -> Result<()> {
    ensure!(
        version
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.')
            && version.starts_with(|c: char| c.is_ascii_digit()),
        "{version:?} is no version of ttnn: expected something like {}",
        RELEASES[0]
    );
    Ok(())
}

fn directory(version: &str) -> PathBuf {
    sh::target_dir().join("ttnn").join(version)
}

/// Whether there is an environment of that release, with any stand-ins.
pub(crate) fn is_there(version: &str) -> bool {
    directory(version).join("stamp.json").exists()
}

/// Removes the environment if it exists.
pub(crate) fn remove(version: &str) -> Result<()> {
    let dir = directory(version);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| {
            format!(
                "remove {} (if a command under sudo left files there, remove it by sudo)",
                dir.display()
            )
        })?;
    }
    Ok(())
}

impl Environment {
    fn new(version: &str, python: PathBuf, package: &Path, device: Device) -> Self {
        Self {
            version: version.to_owned(),
            python,
            library: package.join("build/lib/libtt_metal.so"),
            device,
        }
    }
}

/// The folder of the package `ttnn`, found without the slow import.
fn installed_package(python: &Path) -> Result<PathBuf> {
    let code = "import importlib.util as u, os; print(os.path.dirname(u.find_spec('ttnn').origin))";
    sh::output(Command::new(python).args(["-c", code]))
        .map(PathBuf::from)
        .with_context(|| format!("{} has no ttnn", python.display()))
}
