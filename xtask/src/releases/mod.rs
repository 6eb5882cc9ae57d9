//! `cargo xtask releases`: checks for every ttnn on PyPI whether it can be traced, and whether the results agree with
//! TT-Metal's.

mod library;
mod record;
mod run;
mod table;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{program, progress::Progress, python, sh, test, ttnn::Maker};
use record::{Check, Record, Run};

/// Releases that were not looked at until the derivation of fields was finished. They stand for releases to come.
const HELD_OUT: [&str; 2] = ["0.80.0", "0.73.1"];

/// How many wheels are fetched, and how many releases are run, at the same time.
const FETCHERS: usize = 4;
const RUNNERS: usize = 2;

/// Check every release of ttnn that PyPI has, run whole programs on it, and write docs/releases.md.
///
/// Fetches each wheel, keeps its libtt_metal.so, runs `tt-memtrace check` on it, makes an
/// environment of the release on a mock device (as `cargo xtask ttnn` does; a stand-in simulator
/// where the release refuses that), and runs the whole-program tests in it as root. Complete results
/// under target/releases are kept. If versions are named, only those are processed, and the table is
/// written only if it is complete.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Releases of ttnn; all by default.
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// Include the releases that were kept out of development.
    #[arg(long)]
    held_out: bool,
    /// Only fetch and check; run no tests.
    #[arg(long)]
    no_run: bool,
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<ExitCode> {
    let python = python::for_ttnn().ok_or_else(python::none_for_ttnn)?;
    let (pip, released) = progress.step("releases on PyPI", |step| {
        let pip = library::with_pip(step, &python)?;
        let released = library::released(step, &pip)?;
        Ok((pip, released))
    })?;
    for version in &options.versions {
        if !released.contains(version) {
            bail!("PyPI has no ttnn {version}; it has {}", released.join(", "));
        }
    }
    let kept_out = |version: &str| HELD_OUT.contains(&version) && !options.held_out;
    let wanted: Vec<&str> = released
        .iter()
        .map(String::as_str)
        .filter(|version| match &options.versions[..] {
            [] => !kept_out(version),
            named => named.iter().any(|name| name == version),
        })
        .collect();

    let tracer = program::tracer(progress)?;
    let fetched = each(FETCHERS, &wanted, |version| {
        progress.step(&format!("libtt_metal.so {version}"), |step| {
            library::fetch(step, &pip, version)
        })
    })?;
    let with_library: Vec<&str> = fetched
        .iter()
        .filter_map(|(version, library)| library.as_ref().map(|_| *version))
        .collect();
    let tools = Tools::new(progress, &python, &tracer, options)?;
    if !options.no_run {
        each(RUNNERS, &with_library, |version| tools.run(version))?;
    }

    // The results of this run and of earlier ones.
    let mut records = Vec::new();
    let mut missing = Vec::new();
    let mut without_library = Vec::new();
    for version in &released {
        let dir = library::directory(version);
        let library = dir.join("libtt_metal.so");
        if library.exists() {
            let run = Run::read(version, &tools.hash);
            if run.is_none() {
                missing.push(version.as_str());
            }
            records.push(Record {
                version: version.clone(),
                check: Check::run(&tracer, &library)?,
                run,
            });
        } else if dir.join("stamp.json").exists() {
            without_library.push(version.as_str());
        } else if !kept_out(version) {
            missing.push(version.as_str());
        }
    }
    let text = table::document(&records, &without_library, &HELD_OUT);
    if missing.is_empty() {
        let file = sh::root().join("docs/releases.md");
        fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
        println!("{}", file.display());
    } else {
        println!("{text}");
        println!(
            "docs/releases.md was not written: this tt-memtrace has not been run on {}.",
            missing.join(", ")
        );
    }
    Ok(if records.iter().all(is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Fetches the libraries of these releases. Returns each with its version.
pub(crate) fn libraries(
    progress: &Progress,
    python: &Path,
    versions: &[&str],
) -> Result<Vec<(String, PathBuf)>> {
    let name = format!("libtt_metal.so of {} releases", versions.len());
    let fetched = progress.step(&name, |step| {
        let pip = library::with_pip(step, python)?;
        each(FETCHERS, versions, |version| {
            library::fetch(step, &pip, version)
        })
    })?;
    fetched
        .into_iter()
        .map(|(version, library)| {
            let library = library.with_context(|| format!("ttnn {version} has no library"))?;
            Ok((version.to_owned(), library))
        })
        .collect()
}

fn is_good(record: &Record) -> bool {
    let failed = matches!(&record.run, Some(Run::Tested { failures, .. }) if !failures.is_empty());
    matches!(record.check, Check::Traceable(_)) && !failed
}

/// What the tests on a release need.
struct Tools<'a> {
    progress: &'a Progress,
    maker: Maker<'a>,
    tracer: &'a Path,
    programs: Vec<PathBuf>,
    /// Changes with the tracer and with the stand-ins for devices.
    hash: String,
}

impl<'a> Tools<'a> {
    fn new(
        progress: &'a Progress,
        python: &'a Path,
        tracer: &'a Path,
        options: &Options,
    ) -> Result<Self> {
        let maker = Maker::new(progress, python)?;
        let programs = if options.no_run {
            Vec::new()
        } else {
            run::on_releases(test::programs(progress)?)?
        };
        let binary = fs::read(tracer).with_context(|| format!("read {}", tracer.display()))?;
        let hash = format!("{:016x} {}", sh::fnv1a(&binary), maker.stand_in());
        Ok(Self {
            progress,
            maker,
            tracer,
            programs,
            hash,
        })
    }

    /// Runs the tests on a release, unless there are results of the same tools.
    fn run(&self, version: &str) -> Result<()> {
        if Run::read(version, &self.hash).is_some() {
            return Ok(());
        }
        self.progress.step(&format!("run ttnn {version}"), |step| {
            let run = run::run(step, version, &self.maker, self.tracer, &self.programs)?;
            run.write(version, &self.hash)
        })
    }
}

/// Calls `work` for each version, several at a time. Returns the results in the same order, or the first error.
fn each<'a, T: Send>(
    at_once: usize,
    versions: &[&'a str],
    work: impl Fn(&str) -> Result<T> + Sync,
) -> Result<Vec<(&'a str, T)>> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..versions.len()).collect());
    let done = thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                // A poisoned queue is still valid: it holds only numbers.
                let next = queue
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .pop_front();
                match next.and_then(|index| Some((index, *versions.get(index)?))) {
                    None => return done,
                    Some((index, version)) => done.push((index, version, work(version))),
                }
            }
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut done: Vec<_> = done.into_iter().flatten().collect();
    done.sort_by_key(|(index, ..)| *index);
    done.into_iter()
        .map(|(_, version, result)| Ok((version, result?)))
        .collect()
}
