//! `cargo xtask ci`: the checks that every change must pass.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    ebpf,
    progress::{Progress, Step},
    python, sh, test,
};

const TYPOS_VERSION: &str = "1.52.0";

/// Check formatting, spelling, lints, documentation and the committed eBPF object, then run all tests.
///
/// Run it before a push. .ci/run does the same.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the tests out; `cargo xtask test` runs them.
    #[arg(long)]
    no_tests: bool,
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<ExitCode> {
    progress.step("formatting", |step| {
        step.run(sh::cargo().args(["fmt", "--all", "--check"]))
            .context("run `cargo fmt`")
    })?;
    progress.step("spelling", spelling)?;
    // tracer-ebpf is no default member: it compiles for the BPF target only, and is linted with its build.
    progress.step("lints", |step| {
        step.run(sh::cargo().args([
            "clippy",
            "--all-targets",
            // The feature `tape`, too, which nothing else here builds.
            "--all-features",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    progress.step("documentation", |step| {
        step.run(
            sh::cargo()
                .args(["doc", "--no-deps", "--document-private-items", "--locked"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    })?;
    ebpf::main(progress, &ebpf::Options::check())?;
    ebpf::lint(progress)?;
    if options.no_tests {
        return Ok(ExitCode::SUCCESS);
    }
    test::main(progress, &test::Options::all())
}

fn spelling(step: &Step) -> Result<()> {
    let typos = install_typos(step)?;
    step.run(Command::new(typos).current_dir(sh::root()))
        .context("correct the words, or list the correct ones in typos.toml")
}

/// Installs typos from PyPI, which has a binary: `cargo install typos-cli` would build for minutes.
fn install_typos(step: &Step) -> Result<PathBuf> {
    let venv = sh::target_dir().join("xtask/typos");
    let typos = venv.join("bin/typos");
    let installed = sh::output(Command::new(&typos).arg("--version"))
        .is_ok_and(|version| version.split(' ').any(|word| word == TYPOS_VERSION));
    if installed {
        return Ok(typos);
    }
    let python = match python::any() {
        Some(python) => python,
        None => {
            sh::apt_install(step, &["python3", "python3-venv"])?;
            python::any().context("typos is installed from PyPI, by a Python 3 with venv")?
        }
    };
    step.run(
        Command::new(python)
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )?;
    step.run(
        Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--only-binary", ":all:"])
            .arg(format!("typos=={TYPOS_VERSION}")),
    )?;
    Ok(typos)
}
