//! `cargo xtask tape`: the recording that the tests of a whole session play.

use std::{fs::File, process::Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    progress::Progress,
    python, sh,
    ttnn::{self, RELEASES},
};

/// Record a real run for the tests of a whole session.
///
/// Builds tt-memtrace with the feature `tape`, traces tests/mock-ttnn/workload.py on ttnn 0.81.1 and a mock
/// Wormhole n150 with `--stacks python`, and writes what the session took in and the summary to
/// tracer/src/sinks/fixtures. Needed only when the records or the workload change.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn main(progress: &Progress, _: &Options) -> Result<()> {
    let python = python::for_ttnn().with_context(python::none_for_ttnn)?;
    let environments = ttnn::prepare(progress, &python, &RELEASES[..1])?;
    let [environment] =
        <[_; 1]>::try_from(environments).map_err(|_| anyhow!("expected one environment"))?;
    // In a directory of its own: what others run from target/release writes no tape.
    let target = sh::target_dir().join("tape");
    progress.step("build tt-memtrace with a tape", |step| {
        step.run(
            sh::cargo()
                .args(["build", "--release", "--package", "tt-memtrace"])
                .args(["--features", "tape", "--target-dir"])
                .arg(&target),
        )
    })?;
    let name = format!("ttnn-{}-workload", RELEASES[0]);
    let fixture = sh::root().join("tracer/src/sinks/fixtures").join(name);
    let mock = sh::root().join("tests/mock-ttnn");
    let printed = target.join("workload.txt");
    // An assignment before the command reaches it by sudo, too.
    let mut command = sh::as_root("env")?;
    command
        .arg(format!(
            "TT_MEMTRACE_TAPE={}",
            fixture.with_added_extension("tape").display()
        ))
        .arg(target.join("release/tt-memtrace"))
        .args(["run", "--stacks", "python", "--summary"])
        .arg(fixture.with_added_extension("json"))
        .arg("--")
        .arg(environment.python)
        .arg("-B")
        .arg(mock.join("workload.py"))
        .arg(mock.join("wormhole_n150.yaml"))
        .stdin(Stdio::null())
        .stdout(File::create(&printed).with_context(|| format!("{}", printed.display()))?);
    let status = command.current_dir(&target).status();
    let status = status.with_context(|| format!("can't start `{}`", sh::show(&command)))?;
    ensure!(status.success(), "the trace failed ({status})");
    sh::give_back(&[
        fixture.with_added_extension("tape"),
        fixture.with_added_extension("json"),
    ])
}
