//! `cargo xtask ttnn`: the real `ttnn` from PyPI, ready for mock devices, under `target/ttnn/`.
//!
//! A mock device runs TT-Metal's whole host side but no kernel, so a stand-in for Tenstorrent's
//! RISC-V compiler (`tests/mock-ttnn`) is put into the wheel in place of the real one.

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
pub use device::Device;
use stand_in::StandIn;

/// The releases that whole programs are tested on, newest first: the first with its fields behind a
/// pointer, the last with them in `Buffer`, and the oldest that a mock device runs on as it is.
pub const RELEASES: [&str; 3] = ["0.81.1", "0.77.0", "0.66.0"];

/// Releases of which the tests have `tt-memtrace check` look at the library, beside those.
pub const LIBRARIES: [&str; 6] = ["0.79.0", "0.74.0", "0.71.2", "0.68.0", "0.64.5", "0.62.2"];

/// Fetch the real ttnn and make it ready for mock devices.
///
/// Makes target/ttnn/VERSION/venv with the wheel from PyPI and the stand-ins of tests/mock-ttnn, and
/// finds out by a workload on which device without hardware the release runs. Needs CPython 3.10 or
/// 3.12, from PATH or ~/.pyenv/versions; installs binutils-riscv64-unknown-elf by apt when missing.
/// What is complete is left alone.
#[derive(clap::Args)]
pub struct Options {
    /// Releases of ttnn.
    #[arg(value_name = "VERSION", default_values_t = RELEASES.map(String::from))]
    versions: Vec<String>,
}

pub fn main(progress: &Progress, options: &Options) -> Result<()> {
    let versions: Vec<&str> = options.versions.iter().map(String::as_str).collect();
    let python = python::for_ttnn().ok_or_else(python::none_for_ttnn)?;
    for environment in prepare(progress, &python, &versions)? {
        println!("{}", environment.python.display());
    }
    Ok(())
}

/// A release of ttnn that can be run.
pub struct Environment {
    pub version: String,
    pub python: PathBuf,
    /// TT-Metal itself, `libtt_metal.so`.
    pub library: PathBuf,
    /// What it runs on.
    pub device: Device,
}

/// Makes the environments that aren't there yet, all at once.
pub fn prepare(progress: &Progress, python: &Path, versions: &[&str]) -> Result<Vec<Environment>> {
    // Each once: two threads must not make the same.
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

/// What makes environments.
pub struct Maker<'a> {
    base: &'a Path,
    stand_in: StandIn,
}

impl<'a> Maker<'a> {
    /// With the Python that the environments are made of.
    pub fn new(progress: &Progress, base: &'a Path) -> Result<Self> {
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

    /// Changes with what stands in for compiler and device.
    pub fn stand_in(&self) -> String {
        self.stand_in.hash()
    }

    /// Makes the environment of a release, or finds it complete. An error that is an [`Unrunnable`]
    /// says that all went well and the release just doesn't run.
    pub fn environment(&self, step: &Step, version: &str) -> Result<Environment> {
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
        step.say(&format!("ttnn {version} is there already"));
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
    // Last: its presence says that all the rest is there.
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
            // Without compiling all of it: a third of the time; the workload does what counts.
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
            step.tell(&format!("{device}: {reason}"));
            reasons.push(format!("{device}: {reason}"));
        } else {
            return Ok(device);
        }
    }
    bail!(Unrunnable { reasons })
}

/// Sets the device up and runs the workload on it. The reason, in a line, when that doesn't work.
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
        // Of another stand-in's kernels.
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

/// A release that is installed but runs on no device that can be had without hardware.
#[derive(Debug)]
pub struct Unrunnable {
    /// One for each device.
    pub reasons: Vec<String>,
}

impl fmt::Display for Unrunnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it doesn't run ({})", self.reasons.join("; "))
    }
}

impl std::error::Error for Unrunnable {}

/// What says that an environment is complete, for which stand-ins, and what it runs on.
struct Stamp<'a> {
    file: PathBuf,
    stand_in: String,
    version: &'a str,
}

impl Stamp<'_> {
    /// Changes with what an environment consists of.
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

/// Refuses what is no version, before it becomes part of a path.
pub fn check_version(version: &str) -> Result<()> {
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

/// Whether there is an environment of that release, of whichever stand-ins.
pub fn is_there(version: &str) -> bool {
    directory(version).join("stamp.json").exists()
}

/// Removes the environment, if there is one.
pub fn remove(version: &str) -> Result<()> {
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

/// The folder of the package `ttnn`, which importing would make slow to find out.
fn installed_package(python: &Path) -> Result<PathBuf> {
    let code = "import importlib.util as u, os; print(os.path.dirname(u.find_spec('ttnn').origin))";
    sh::output(Command::new(python).args(["-c", code]))
        .map(PathBuf::from)
        .with_context(|| format!("{} has no ttnn", python.display()))
}
