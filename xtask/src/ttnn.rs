//! `cargo xtask ttnn`: the real `ttnn` from PyPI, ready for mock devices, under `target/ttnn/`.
//!
//! A mock device runs TT-Metal's whole host side but no kernel, so a stand-in for Tenstorrent's
//! RISC-V compiler (`tests/mock-ttnn`) is put into the wheel in place of the real one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;

use crate::{
    progress::{Progress, Step},
    python, sh,
};

/// The releases that the project is tested on, newest first.
pub const RELEASES: [&str; 2] = ["0.81.1", "0.77.0"];

/// Python runs the import lines of a `.pth` file at its start, whoever starts it.
const HOOK: &str = "tt-memtrace.pth";

/// Fetch the real ttnn and make it ready for mock devices.
///
/// Makes target/ttnn/VERSION/venv with the wheel from PyPI and the stand-in device compiler of
/// tests/mock-ttnn. Needs CPython 3.10 or 3.12, from PATH or ~/.pyenv/versions; installs
/// binutils-riscv64-unknown-elf by apt when missing. What is complete is left alone.
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
    let stand_in = StandIn::read()?;
    if sh::on_path("riscv64-unknown-elf-ld").is_none() {
        progress.step("RISC-V binutils", |step| {
            sh::apt_install(step, &["binutils-riscv64-unknown-elf"])
        })?;
    }
    thread::scope(|scope| {
        let threads: Vec<_> = versions
            .into_iter()
            .map(|version| {
                let stand_in = &stand_in;
                scope.spawn(move || {
                    progress.step(&format!("ttnn {version}"), |step| {
                        environment(step, python, version, stand_in)
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

fn environment(step: &Step, base: &Path, version: &str, stand_in: &StandIn) -> Result<Environment> {
    if !version
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '.')
    {
        bail!(
            "{version:?} is no version of ttnn: expected something like {}",
            RELEASES[0]
        );
    }
    let dir = sh::target_dir().join("ttnn").join(version);
    let stamp = dir.join("stamp.json");
    let python = dir.join("venv/bin/python");
    let complete = json!({ "ttnn": version, "stand_in": stand_in.hash(), "layout": 2 }).to_string();
    if fs::read_to_string(&stamp).is_ok_and(|found| found == complete)
        && let Ok(package) = installed_package(&python)
    {
        step.say(&format!("ttnn {version} is there already"));
        return Ok(Environment::new(version, python, &package));
    }

    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| {
            format!(
                "remove {} (if a command under sudo left files there, remove it by sudo)",
                dir.display()
            )
        })?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    step.run(
        Command::new(base)
            .args(["-m", "venv"])
            .arg(dir.join("venv")),
    )?;
    step.run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--disable-pip-version-check"])
            // Without compiling all of it: a third of the time; the import below does what counts.
            .args([
                "--progress-bar",
                "off",
                "--only-binary",
                "ttnn",
                "--no-compile",
            ])
            .arg(format!("ttnn=={version}")),
    )
    .with_context(|| format!("can't install ttnn {version} from PyPI"))?;
    let package = installed_package(&python)?;
    stand_in.install(step, &package)?;
    let site_packages = package.parent().context("site-packages")?;
    let hook = site_packages.join(HOOK);
    fs::write(&hook, environment_hook(&dir.join("cache")))
        .with_context(|| format!("write {}", hook.display()))?;
    step.run(
        Command::new(&python)
            .args(["-c", "import ttnn"])
            .current_dir(&dir),
    )
    .with_context(|| format!("ttnn {version} is installed but can't be imported"))?;
    // Last: its presence says that all the rest is there.
    fs::write(&stamp, complete).with_context(|| format!("write {}", stamp.display()))?;
    Ok(Environment::new(version, python, &package))
}

impl Environment {
    fn new(version: &str, python: PathBuf, package: &Path) -> Self {
        Self {
            version: version.to_owned(),
            python,
            library: package.join("build/lib/libtt_metal.so"),
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

/// Python code that sets what is otherwise unset: where compiled kernels are kept, each release and
/// each stand-in its own; that Open MPI leaves no 16 MiB of shared memory behind; and that `import
/// ttnn` doesn't print its configuration.
fn environment_hook(cache: &Path) -> String {
    // A JSON string is a Python string, too.
    let cache = json!(cache.to_string_lossy());
    format!(
        "import os; os.environ.setdefault('TT_METAL_CACHE', {cache}); \
         os.environ.setdefault('OMPI_MCA_btl', 'self'); \
         os.environ.setdefault('LOGURU_LEVEL', 'WARNING')\n"
    )
}

/// What stands in for the device compiler: a compiler driver and the one kernel it links.
struct StandIn {
    compiler: PathBuf,
    kernel: PathBuf,
    contents: Vec<u8>,
}

impl StandIn {
    fn read() -> Result<Self> {
        let dir = sh::root().join("tests/mock-ttnn");
        let compiler = dir.join("riscv-tt-elf-g++");
        let kernel = dir.join("kernel.s");
        let mut contents = Vec::new();
        for file in [&compiler, &kernel] {
            let read = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            contents.extend_from_slice(&read);
        }
        Ok(Self {
            compiler,
            kernel,
            contents,
        })
    }

    /// FNV-1a, 64 bits: it has to notice an edit, no more.
    fn hash(&self) -> String {
        let hash = self
            .contents
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    }

    fn install(&self, step: &Step, package: &Path) -> Result<()> {
        let bin = package.join("runtime/sfpi/compiler/bin");
        fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
        let to = bin.join("riscv-tt-elf-g++");
        fs::copy(&self.compiler, &to).with_context(|| format!("write {}", to.display()))?;
        make_executable(&to)?;
        step.run(
            Command::new("riscv64-unknown-elf-as")
                .args(["-march=rv32im", "-mabi=ilp32"])
                .arg(&self.kernel)
                .arg("-o")
                .arg(bin.join("kernel.o")),
        )
    }
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", file.display()))
}
