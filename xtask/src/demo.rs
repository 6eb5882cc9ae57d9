//! `cargo xtask demo`: from a clean clone to a traced process in one command.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::{
    program,
    progress::Progress,
    python, sh,
    ttnn::{self, RELEASES},
};

/// The commands for the C++ target, where there is no Python for the real ttnn.
const TARGET_COMMANDS: &str = "mesh 1\n\
                               alloc DRAM 524288 2048\n\
                               alloc DRAM 1048576 2048\n\
                               alloc L1 65536 2048\n\
                               create-view 1 0 4096\n\
                               free 1\n\
                               close\n";

/// Build tt-memtrace and trace the real ttnn with it, on a mock device.
///
/// Builds the release binary, fetches ttnn 0.81.1, runs tests/mock-ttnn/workload.py on a mock
/// Wormhole n150 under `tt-memtrace run`, and shows the table. Tracing needs root: that step runs by
/// sudo if you are not root. Without CPython 3.10 or 3.12 it traces the small C++ target of the tests
/// instead.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn main(progress: &Progress, _: &Options) -> Result<()> {
    let (tracer, workload) = thread::scope(|scope| {
        let workload = scope.spawn(|| Workload::prepare(progress));
        let tracer = program::tracer(progress);
        let workload = workload
            .join()
            .unwrap_or_else(|_| Err(anyhow!("preparing the workload panicked")));
        Ok::<_, anyhow::Error>((tracer?, workload?))
    })?;

    let dir = sh::target_dir().join("demo");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let summary = dir.join("summary.json");
    if summary.exists() {
        fs::remove_file(&summary).with_context(|| format!("remove {}", summary.display()))?;
    }
    let result = workload.trace(&tracer, &dir, &summary);
    sh::give_back(&[dir.clone(), sh::target_dir().join("ttnn")])?;
    result?;
    check(&summary)?;
    println!("\nThe JSON summary: {}", summary.display());
    println!(
        "The workload's own output: {}",
        dir.join("workload.txt").display()
    );
    Ok(())
}

enum Workload {
    Ttnn { python: PathBuf },
    CppTarget { program: PathBuf },
}

impl Workload {
    fn prepare(progress: &Progress) -> Result<Self> {
        match python::for_ttnn() {
            Some(python) => {
                let environments = ttnn::prepare(progress, &python, &RELEASES[..1])?;
                let [environment] = <[_; 1]>::try_from(environments)
                    .map_err(|_| anyhow!("expected one environment"))?;
                Ok(Self::Ttnn {
                    python: environment.python,
                })
            }
            None => {
                eprintln!(
                    "{}.\nTracing the small C++ target of tests/target instead, which exports \
                     TT-Metal's symbols.",
                    python::none_for_ttnn()
                );
                Ok(Self::CppTarget {
                    program: program::cpp_target(progress)?.join("gen2/target"),
                })
            }
        }
    }

    fn trace(&self, tracer: &Path, dir: &Path, summary: &Path) -> Result<()> {
        let mock = sh::root().join("tests/mock-ttnn");
        let mut command = sh::as_root(&tracer.to_string_lossy())?;
        command.args(["run", "--summary"]).arg(summary).arg("--");
        match self {
            Self::Ttnn { python } => command
                .arg(python)
                // Without bytecode: under sudo its files would be root's.
                .arg("-B")
                .arg(mock.join("workload.py"))
                .arg(mock.join("wormhole_n150.yaml"))
                .stdin(Stdio::null()),
            Self::CppTarget { program } => {
                let commands = dir.join("commands.txt");
                fs::write(&commands, TARGET_COMMANDS)
                    .with_context(|| format!("write {}", commands.display()))?;
                command.arg(program).stdin(File::open(&commands)?)
            }
        };
        let printed = dir.join("workload.txt");
        let printed = File::create(&printed).with_context(|| format!("{}", printed.display()))?;
        if !sh::is_root()? {
            println!("Tracing needs root; sudo may ask for your password.");
        }
        println!("\n$ {}\n", sh::show(&command));
        run(command.current_dir(dir).stdout(printed), dir)
    }
}

fn run(command: &mut Command, dir: &Path) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't start `{}`", sh::show(command)))?;
    ensure!(
        status.success(),
        "the trace failed ({status}); `tt-memtrace check` may report why. The workload's output is in {}",
        dir.display()
    );
    Ok(())
}

/// Fails if the summary has no allocation.
fn check(summary: &Path) -> Result<()> {
    let text = fs::read(summary).with_context(|| format!("read {}", summary.display()))?;
    let json: Value =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", summary.display()))?;
    let allocations = json
        .pointer("/processes/0/devices/0/memory/DRAM/allocations")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    if allocations == 0 {
        bail!("{} has no allocation in it", summary.display());
    }
    Ok(())
}
