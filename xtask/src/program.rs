//! Builds the programs that the demo, the tests and the benchmark run: `tt-memtrace` and the C++ target.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{progress::Progress, sh};

/// Builds `tt-memtrace` in release and returns its path.
pub(crate) fn tracer(progress: &Progress) -> Result<PathBuf> {
    progress.step("build tt-memtrace", |step| {
        step.run(sh::cargo().args(["build", "--release", "--package", "tt-memtrace"]))
    })?;
    Ok(sh::target_dir().join("release/tt-memtrace"))
}

/// Builds the small C++ program that exports TT-Metal's symbols, and returns its directory.
pub(crate) fn cpp_target(progress: &Progress) -> Result<PathBuf> {
    let dir = sh::target_dir().join("cpp-target");
    progress.step("build the C++ target", |step| {
        // TT-Metal's releases are built with clang, users' own builds with clang or gcc.
        if sh::on_path("clang++").is_none() || sh::on_path("g++").is_none() {
            sh::apt_install(step, &["clang", "g++"])?;
        }
        step.run(Command::new(sh::root().join("tests/target/build")).arg(&dir))
            .context("the C++ target needs clang++ or g++ with C++20")
    })?;
    Ok(dir)
}
