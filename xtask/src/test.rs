//! `cargo xtask test`: runs all tests, and prints one line with their number.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::{
    program,
    progress::Progress,
    python, releases, sh,
    totals::Totals,
    ttnn::{self, LIBRARIES, RELEASES},
};

const WHOLE_PROGRAM: &str = "tt-memtrace-tests";

/// Run all tests: the unit tests, and the whole-program tests on the real ttnn.
///
/// Builds the release binary, fetches ttnn 0.81.1, 0.77.0 and 0.66.0 and the libraries of six more
/// releases, builds the C++ target, and runs everything. The whole-program tests need root: they run
/// by sudo if you are not root. The last line has the totals: `N passed, N failed`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

impl Options {
    /// No filter.
    pub(crate) fn all() -> Self {
        Self { filter: None }
    }
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<ExitCode> {
    let environment = prepare(progress)?;
    // Compile first, so that a compile error isn't counted as a failed test.
    let unit = [
        "test",
        "--workspace",
        "--exclude",
        "tracer-ebpf",
        "--exclude",
        WHOLE_PROGRAM,
    ];
    progress.step("build the unit tests", |step| {
        step.run(sh::cargo().args(unit).arg("--no-run"))
    })?;
    let programs = programs(progress)?;

    let mut totals = Totals::default();
    println!("\nUnit tests");
    let mut command = sh::cargo();
    command.args(unit).args(["--no-fail-fast", "--"]);
    totals.run(harness(&mut command, options), io::stdout())?;

    println!("\nWhole-program tests");
    if !sh::is_root()? {
        println!("Tracing needs root: they run by sudo, which may ask for your password.");
    }
    for program in &programs {
        println!("\n{}", test_name(program));
        // Run the program itself: cargo under sudo would leave root's files in the target directory.
        let mut command = sh::as_root("env")?;
        command
            .args(
                environment
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            )
            .arg(program)
            .current_dir(sh::root().join("tests"));
        totals.run(harness(&mut command, options), io::stdout())?;
    }
    sh::give_back(
        &["ttnn", "releases", "cpp-target", "tmp"].map(|dir| sh::target_dir().join(dir)),
    )?;

    println!();
    for name in &totals.failures {
        println!("failed: {name}");
    }
    println!("{totals}");
    Ok(if totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Installs what the whole-program tests need, and returns the environment variables that name it.
fn prepare(progress: &Progress) -> Result<Vec<(String, String)>> {
    let ci = env::var("CI").is_ok_and(|value| value == "true");
    if sh::on_path("gdb").is_none() {
        progress.step("gdb", |step| sh::apt_install(step, &["gdb"]))?;
    }
    let python = python::for_ttnn();
    if python.is_none() {
        if ci {
            bail!(python::none_for_ttnn());
        }
        println!(
            "{}. The tests on the real ttnn can't run.",
            python::none_for_ttnn()
        );
    }
    let (tracer, environments, libraries) = thread::scope(|scope| {
        let environments = scope.spawn(|| match &python {
            Some(python) => ttnn::prepare(progress, python, &RELEASES),
            None => Ok(Vec::new()),
        });
        let libraries = scope.spawn(|| match &python {
            Some(python) => releases::libraries(progress, python, &LIBRARIES),
            None => Ok(Vec::new()),
        });
        let tracer = program::tracer(progress);
        let environments = environments
            .join()
            .unwrap_or_else(|_| Err(anyhow!("preparing ttnn panicked")));
        let libraries = libraries
            .join()
            .unwrap_or_else(|_| Err(anyhow!("fetching libraries panicked")));
        Ok::<_, anyhow::Error>((tracer?, environments?, libraries?))
    })?;
    // Otherwise the tests would build it, as root.
    program::cpp_target(progress)?;

    let mut variables = vec![
        ("TT_MEMTRACE_BIN".to_owned(), text(&tracer)?),
        // Without bytecode: under sudo its files would be root's.
        ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
    ];
    for environment in environments {
        variables.push(variable(
            "PYTHON",
            &environment.version,
            &environment.python,
        )?);
    }
    for (version, library) in libraries {
        variables.push(variable("LIBRARY", &version, &library)?);
    }
    if ci {
        variables.push(("CI".to_owned(), "true".to_owned()));
    }
    Ok(variables)
}

/// The environment variable that names a release to the tests, such as `TTNN_PYTHON_0_81_1`, and its value.
pub(crate) fn variable(what: &str, version: &str, path: &Path) -> Result<(String, String)> {
    let version = version.replace('.', "_");
    Ok((format!("TTNN_{what}_{version}"), text(path)?))
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Builds the whole-program tests.
pub(crate) fn programs(progress: &Progress) -> Result<Vec<PathBuf>> {
    progress.step("build the whole-program tests", |step| {
        let messages = step.output(sh::cargo().args([
            "test",
            "--package",
            WHOLE_PROGRAM,
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ]))?;
        test_programs(&messages)
    })
}

/// The test programs among cargo's build messages.
fn test_programs(messages: &str) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value =
            serde_json::from_str(line).with_context(|| format!("cargo's message {line:?}"))?;
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        if is_test && let Some(program) = message.get("executable").and_then(Value::as_str) {
            programs.push(PathBuf::from(program));
        }
    }
    programs.sort();
    ensure!(!programs.is_empty(), "{WHOLE_PROGRAM} has no test program");
    Ok(programs)
}

/// `ttnn_run` of `…/deps/ttnn_run-0123456789abcdef`.
pub(crate) fn test_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((name, _)) => name.to_owned(),
        None => name.into_owned(),
    }
}

/// Adds the test harness's own arguments.
fn harness<'a>(command: &'a mut Command, options: &Options) -> &'a mut Command {
    if io::stdout().is_terminal() {
        command.arg("--color=always");
    }
    command.args(&options.filter)
}
