//! The whole-program tests on one release.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{library, record::Run};
use crate::{
    progress::Step,
    sh,
    test::{self, test_name},
    totals::Totals,
    ttnn::{self, Environment, Maker, RELEASES, Unrunnable},
};

/// The test programs that run on every release.
const ON_RELEASES: [&str; 4] = [
    "ttnn_run",
    "ttnn_attach",
    "ttnn_attach_snapshot",
    "ttnn_mesh",
];

/// Selects them from all test programs.
pub(super) fn on_releases(programs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let programs: Vec<PathBuf> = programs
        .into_iter()
        .filter(|program| ON_RELEASES.contains(&test_name(program).as_str()))
        .collect();
    anyhow::ensure!(
        programs.len() == ON_RELEASES.len(),
        "expected the test programs {}, found {programs:?}",
        ON_RELEASES.join(", ")
    );
    Ok(programs)
}

/// Makes an environment, runs the tests in it, and removes it unless it existed before or `cargo xtask test` needs
/// it.
pub(super) fn run(
    step: &Step,
    version: &str,
    maker: &Maker<'_>,
    tracer: &Path,
    programs: &[PathBuf],
) -> Result<Run> {
    let keep = RELEASES.contains(&version) || ttnn::is_there(version);
    let run = match maker.environment(step, version) {
        Ok(environment) => tested(step, &environment, tracer, programs)?,
        Err(error) => Run::Unrunnable(error.downcast::<Unrunnable>()?.reasons),
    };
    sh::give_back(&[
        sh::target_dir().join("ttnn").join(version),
        sh::target_dir().join("tmp"),
    ])?;
    if !keep {
        ttnn::remove(version)?;
    }
    Ok(run)
}

fn tested(
    step: &Step,
    environment: &Environment,
    tracer: &Path,
    programs: &[PathBuf],
) -> Result<Run> {
    let log = library::directory(&environment.version).join("tests.log");
    let mut log = File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let mut totals = Totals::default();
    for program in programs {
        step.report(&test_name(program));
        let (name, python) = test::variable("PYTHON", &environment.version, &environment.python)?;
        let mut command = sh::as_root("env")?;
        command
            .args(["CI=true", "PYTHONDONTWRITEBYTECODE=1"])
            .arg(format!("{name}={python}"))
            .arg(format!("TT_MEMTRACE_BIN={}", tracer.display()))
            .arg(program)
            .current_dir(sh::root().join("tests"));
        totals.run(&mut command, &mut log)?;
    }
    Ok(Run::Tested {
        device: environment.device.to_string(),
        passed: totals.passed,
        failures: totals.failures,
    })
}
