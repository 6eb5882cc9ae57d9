//! How a test runs `tt-memtrace`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, Summary, target_dir, wait_for, workspace};

/// A directory of one test's own, and the working directory of every program that the test starts.
pub struct WorkDir {
    dir: TempDir,
}

impl WorkDir {
    #[expect(clippy::new_without_default, reason = "creates a directory")]
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("tt-memtrace-test-").expect("a temporary directory");
        // Some tests run the tracer as a user other than root.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))
            .expect("the test's own directory");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file that [`Tracer`] names with `--summary`.
    pub fn summary_path(&self) -> PathBuf {
        self.path().join("summary.json")
    }

    /// The file that [`Tracer`] names with `--events`.
    pub fn events_path(&self) -> PathBuf {
        self.path().join("events.jsonl")
    }

    /// The summary, checked against the schema.
    #[track_caller]
    pub fn summary(&self) -> Summary {
        Summary::read(&self.summary_path())
    }

    /// The lines of `--events`.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let path = self.events_path();
        let lines = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&lines)
    }

    /// The lines of `--events` that the tracer has written so far.
    pub fn events_so_far(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.events_path()).unwrap_or_default();
        // The last line may be incomplete.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        Self::parse(whole)
    }

    #[track_caller]
    fn parse(lines: &str) -> Vec<Value> {
        lines.lines().map(crate::parsed).collect()
    }

    /// Panics if there is a summary, complete or not.
    #[track_caller]
    pub fn expect_no_summary(&self) {
        let path = self.summary_path();
        assert!(!path.exists(), "{} was written", path.display());
    }

    /// A command with this working directory.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(self.path());
        command
    }
}

/// A builder of a `tt-memtrace` command line. The summary and the events go to the [`WorkDir`], unless the command
/// line is [bare](Self::bare).
pub struct Tracer<'a> {
    dir: &'a WorkDir,
    /// The command that starts the tracer, such as `setpriv`, with its arguments.
    launcher: Vec<OsString>,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl<'a> Tracer<'a> {
    /// `tt-memtrace` with these arguments only.
    pub fn bare(dir: &'a WorkDir, arguments: &[&str]) -> Self {
        Self {
            dir,
            launcher: Vec::new(),
            program: binary(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: Vec::new(),
        }
    }

    /// `tt-memtrace check --json --library`: a report on that library.
    pub fn check(dir: &'a WorkDir, library: &Path) -> Self {
        Self::bare(dir, &["check", "--json", "--library"]).arguments([library])
    }

    /// `tt-memtrace run`. Options and [`Self::traced`] follow.
    pub fn run(dir: &'a WorkDir) -> Self {
        Self::bare(dir, &["run"]).with_files()
    }

    /// `tt-memtrace attach`. Options that name the target follow.
    pub fn attach(dir: &'a WorkDir) -> Self {
        Self::bare(dir, &["attach"]).with_files()
    }

    /// `tt-memtrace attach --pid`.
    pub fn attach_to(dir: &'a WorkDir, pid: u32) -> Self {
        Self::attach(dir).arguments(["--pid", &pid.to_string()])
    }

    fn with_files(self) -> Self {
        let summary = self.dir.summary_path();
        let events = self.dir.events_path();
        self.arguments([OsString::from("--summary"), summary.into()])
            .arguments([OsString::from("--events"), events.into()])
    }

    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The command that `run` traces, with its environment variables.
    pub fn traced(mut self, command: &Command) -> Self {
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                self.environment.push((name.to_owned(), value.to_owned()));
            }
        }
        self.arguments(["--"])
            .arguments([command.get_program()])
            .arguments(command.get_args())
    }

    /// Starts the tracer by another command, such as `setpriv` with its options.
    pub fn started_by(mut self, command: &[&str]) -> Self {
        self.launcher = command.iter().map(OsString::from).collect();
        self
    }

    /// Uses another copy of the binary under test.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// The finished command.
    pub fn command(&self) -> Command {
        let mut words = self.launcher.clone();
        words.push(self.program.clone().into());
        words.extend(self.arguments.iter().cloned());
        let mut command = self.dir.command(&words[0]);
        command
            .args(&words[1..])
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn start(&self) -> Process {
        Process::spawn(&mut self.command())
    }

    /// Starts an `attach` and waits for its first event, which shows that the probes are attached. `poke` makes
    /// the target produce an event, and is called until one has been written.
    pub fn start_and_see(&self, mut poke: impl FnMut()) -> Process {
        let events = self.dir.events_path();
        // An earlier trace of the same test may have left its events there.
        std::fs::remove_file(&events).ok();
        let mut tracer = self.start();
        wait_for("the tracer's first event", || {
            assert!(tracer.is_running(), "tt-memtrace ended while attaching");
            poke();
            std::fs::metadata(&events).is_ok_and(|file| file.len() > 0)
        });
        tracer
    }
}

/// The binary under test: `TT_MEMTRACE_BIN`, else what cargo built.
fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("TT_MEMTRACE_BIN") {
        return binary.into();
    }
    let places = [target_dir(), workspace().join("target")];
    let built = places
        .iter()
        .flat_map(|dir| ["release", "debug"].map(|profile| dir.join(profile).join("tt-memtrace")))
        .find(|binary| binary.is_file());
    built.unwrap_or_else(|| {
        panic!(
            "no tt-memtrace in {} or {}: run `cargo build --release` (`cargo xtask test` does), \
             or set TT_MEMTRACE_BIN",
            places[0].display(),
            places[1].display()
        )
    })
}
