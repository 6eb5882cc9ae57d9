//! `cargo xtask test`: all tests, and one line that counts them.

use std::{
    env, fmt,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
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

const WHOLE_PROGRAM: &str = "tt-memtrace-tests";

/// Run all tests: the unit tests, and the whole-program tests on the real ttnn.
///
/// Builds the release binary, fetches ttnn 0.81.1 and 0.77.0, builds the C++ target, and runs
/// everything. The whole-program tests need root: they run by sudo when you are not. The last line
/// counts: `N passed, N failed`.
#[derive(clap::Args)]
pub struct Options {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Options {
    /// No filter.
    pub fn all() -> Self {
        Self { filter: None }
    }
}

pub fn main(progress: &Progress, options: &Options) -> Result<ExitCode> {
    let environment = prepare(progress)?;
    // Compiling first, so that a compile error isn't counted as a failed test.
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
    let programs = progress.step("build the whole-program tests", |step| {
        let messages = step.output(sh::cargo().args([
            "test",
            "--package",
            WHOLE_PROGRAM,
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ]))?;
        test_programs(&messages)
    })?;

    let mut totals = Totals::default();
    println!("\nUnit tests");
    let mut command = sh::cargo();
    command.args(unit).args(["--no-fail-fast", "--"]);
    totals.run(harness(&mut command, options))?;

    println!("\nWhole-program tests");
    if !sh::is_root()? {
        println!("Tracing needs root: they run by sudo, which may ask for your password.");
    }
    for program in &programs {
        println!("\n{}", test_name(program));
        // Not by cargo: under sudo it would leave root's files in the target directory.
        let mut command = sh::as_root("env")?;
        command
            .args(
                environment
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            )
            .arg(program)
            .current_dir(sh::root().join("tests"));
        totals.run(harness(&mut command, options))?;
    }
    sh::give_back(&["ttnn", "cpp-target", "tmp"].map(|dir| sh::target_dir().join(dir)))?;

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

/// Sets up what the whole-program tests need, and returns the variables that tell them of it.
fn prepare(progress: &Progress) -> Result<Vec<(String, String)>> {
    let ci = env::var("CI").is_ok_and(|value| value == "true");
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
    let (tracer, environments) = thread::scope(|scope| {
        let environments = scope.spawn(|| match &python {
            Some(python) => ttnn::prepare(progress, python, &RELEASES),
            None => Ok(Vec::new()),
        });
        let tracer = program::tracer(progress);
        let environments = environments
            .join()
            .unwrap_or_else(|_| Err(anyhow!("preparing ttnn panicked")));
        Ok::<_, anyhow::Error>((tracer?, environments?))
    })?;
    // The tests would build it, but as root.
    program::cpp_target(progress)?;

    let mut variables = vec![
        ("TT_MEMTRACE_BIN".to_owned(), text(&tracer)?),
        // As root under sudo they would leave files that the user can't remove.
        ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
    ];
    for environment in environments {
        let version = environment.version.replace('.', "_");
        variables.push((format!("TTNN_PYTHON_{version}"), text(&environment.python)?));
    }
    if ci {
        variables.push(("CI".to_owned(), "true".to_owned()));
    }
    Ok(variables)
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
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
fn test_name(program: &Path) -> String {
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

/// What the test programs say of themselves, summed up.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
}

impl Totals {
    /// Runs tests, shows what they print and counts.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        let shown = sh::show(command);
        let (reader, writer) = io::pipe().context("make a pipe")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("can't start `{shown}`"))?;
        // The command holds the pipe's writing ends: without this, no end of file.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let failed_before = self.failed;
        let mut stdout = io::stdout();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.with_context(|| format!("output of `{shown}`"))?;
            stdout.write_all(&line)?;
            stdout.write_all(b"\n")?;
            stdout.flush()?;
            self.read(&String::from_utf8_lossy(&line));
        }
        let status = child
            .wait()
            .with_context(|| format!("wait for `{shown}`"))?;
        // A test program that was killed leaves no result.
        if !status.success() && self.failed == failed_before {
            self.failed += 1;
            self.failures.push(format!("`{shown}` ended with {status}"));
        }
        Ok(())
    }

    fn read(&mut self, line: &str) {
        let line = without_colours(line);
        if let Some((_, counts)) = line.split_once("test result: ") {
            // ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
            for (word, total) in [
                (" passed", &mut self.passed),
                (" failed", &mut self.failed),
                (" ignored", &mut self.ignored),
            ] {
                *total += counts
                    .split_once(word)
                    .and_then(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
            failures: _,
        } = self;
        write!(f, "{passed} passed, {failed} failed")?;
        if *ignored > 0 {
            write!(f, ", {ignored} skipped")?;
        }
        Ok(())
    }
}

/// The line without terminal escapes: `ESC [ … letter` and `ESC ( B`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => {
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
            Some('(') => {
                chars.next();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn results_are_summed_up() {
        let mut totals = Totals::default();
        totals.read("test a::b ... ok");
        totals.read("test a::c ... \x1b[31mFAILED\x1b(B\x1b[m");
        totals.read(
            "test result: FAILED. 41 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!(totals.to_string(), "41 passed, 1 failed");
        totals.read(
            "test result: \x1b[32mok\x1b(B\x1b[m. 5 passed; 0 failed; 2 ignored; 0 measured; \
             0 filtered out; finished in 0.00s",
        );
        assert_eq!(totals.to_string(), "46 passed, 1 failed, 2 skipped");
        assert_eq!(totals.failures, ["a::c"]);
    }
}
