//! `cargo xtask bench`: measures what tracing costs, for docs/benchmark.md.
//!
//! On a shared machine the same loop takes half or twice as long from one second to the next, so times are compared
//! only within a second. Six processes run the loop: one untraced, each of the others traced in a different way. They
//! take turns of some ten milliseconds in a rotating order, and only neighbouring turns are compared. (Shorter turns
//! would measure cold caches.) Each process has its own copy of the library, so that its probes don't affect the
//! others. A round starts all processes anew and swaps the copies.

mod attach;
mod dispatch;
mod looper;
mod markdown;
mod statistics;
mod steady;
mod tracer;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    program,
    progress::{Progress, Step},
    python, sh,
    ttnn::{self, Environment, RELEASES},
};
use looper::Looper;
use tracer::Tracer;

/// Measure what tracing costs and write docs/benchmark.md.
///
/// Measures `ttnn.empty` + `ttnn.deallocate` on a mock n150, on ttnn 0.81.1 and 0.77.0: untraced,
/// with empty bpftrace probes, and under tt-memtrace. Takes some minutes; use a quiet machine.
/// Installs bpftrace by apt when missing; the tracers run by sudo when you are not root.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds for each release.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Turns of each process in a round.
    #[arg(long, default_value_t = 200)]
    turns: usize,
    /// Allocations in a turn.
    #[arg(long, default_value_t = 1000)]
    allocations: u32,
    /// How often to attach to each process of 2 GiB.
    #[arg(long, default_value_t = 7)]
    attachments: usize,
    /// Measure attaching and detaching only.
    #[arg(long)]
    only_attachments: bool,
    /// Measure a steady load only, and rewrite that section.
    #[arg(long, conflicts_with = "only_attachments")]
    only_steady: bool,
    /// Print the document, and don't write it.
    #[arg(long)]
    dry_run: bool,
    /// Leave tt-memtrace out, to judge the machine; implies --dry-run.
    #[arg(long)]
    without_tracer: bool,
}

/// How a process is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Untraced,
    /// Two empty probes: where a buffer is allocated and where it is freed.
    TwoEmpty,
    /// Empty probes where tt-memtrace has its own.
    AllEmpty,
    /// tt-memtrace without stacks, with Python stacks, and with full stacks.
    TtMemtrace,
    Python,
    Full,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Untraced,
        Self::TwoEmpty,
        Self::AllEmpty,
        Self::TtMemtrace,
        Self::Python,
        Self::Full,
    ];

    /// The value of tt-memtrace's `--stacks`; `None` if tt-memtrace doesn't trace.
    fn stacks(self) -> Option<&'static str> {
        match self {
            Self::Untraced | Self::TwoEmpty | Self::AllEmpty => None,
            Self::TtMemtrace => Some("none"),
            Self::Python => Some("python"),
            Self::Full => Some("full"),
        }
    }
}

/// The functions that have the two empty probes, and those that have tt-memtrace's.
const ALLOCATE: &str = "_ZN2tt8tt_metal12GraphTracker14track_allocateEPKNS0_6BufferE";
const FREE: &str = "_ZN2tt8tt_metal13AllocatorImpl17deallocate_bufferEPNS0_6BufferE";
const FREE_ALL: &str = "_ZN2tt8tt_metal13AllocatorImpl18deallocate_buffersEv";
const BLOCK: &str = "_ZN2tt8tt_metal9allocator11FreeListOpt17allocate_in_blockEmmm";
const DESTROY: &str = "_ZN2tt8tt_metal6BufferD1Ev";
/// How the mangled names of `create` for a non-owning buffer begin. Its parameters: device, address, size, page size.
const CREATE_NON_OWNING: [&str; 2] = [
    "_ZN2tt8tt_metal10BufferImpl6createEPNS0_7IDeviceEmmm",
    "_ZN2tt8tt_metal6Buffer6createEPNS0_7IDeviceEmmm",
];

/// The measurements on one release.
pub(crate) struct Measured {
    version: String,
    ways: Vec<Way>,
    /// Probe hits per allocation and free, by way.
    hits: Vec<f64>,
    rounds: Vec<Round>,
    /// How complete tt-memtrace's traces were, over all rounds and ways.
    events: Option<Events>,
}

/// How many events tt-memtrace received and lost, and how many stacks it skipped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events {
    received: u64,
    lost: u64,
    stacks_skipped: u64,
}

/// One round: the nanoseconds for an allocation and its free, by turn, and in a turn by way.
pub(crate) struct Round {
    turns: Vec<Vec<f64>>,
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<()> {
    let python = python::for_ttnn().ok_or_else(python::none_for_ttnn)?;
    let tracer = if options.without_tracer {
        None
    } else {
        Some(program::tracer(progress)?)
    };
    let environments = ttnn::prepare(progress, &python, &RELEASES[..2])?;
    if !sh::is_root()? {
        println!("Tracing needs root: the tracers run by sudo, which may ask for your password.");
    }
    let dir = sh::target_dir().join("bench");
    let mut steady = Vec::new();
    if let Some(tracer) = tracer.as_deref().filter(|_| !options.only_attachments) {
        for environment in &environments {
            let name = format!("steady load on ttnn {}", environment.version);
            let dir = dir.join("steady");
            steady.push(progress.step(&name, |_| steady::measure(environment, tracer, &dir))?);
        }
    }
    let file = sh::root().join("docs/benchmark.md");
    if options.only_steady {
        sh::give_back(std::slice::from_ref(&dir))?;
        let document =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let text = markdown::with_steady_load(&document, &steady)?;
        return publish(&text, &file, options.dry_run);
    }
    progress.step("bpftrace", |step| sh::apt_install(step, &["bpftrace"]))?;

    let mut measured = Vec::new();
    let mut attached = Vec::new();
    if let Some(tracer) = &tracer {
        for environment in &environments {
            let name = format!("attach to ttnn {}", environment.version);
            let dir = dir.join("attach");
            let times = options.attachments;
            attached.extend(
                progress.step(&name, |_| attach::measure(environment, tracer, &dir, times))?,
            );
        }
    }
    let mut dispatches = Vec::new();
    if let Some(tracer) = tracer.as_deref().filter(|_| !options.only_attachments) {
        for environment in &environments {
            let name = format!("dispatch on ttnn {}", environment.version);
            let dir = dir.join("dispatch");
            dispatches
                .push(progress.step(&name, |_| dispatch::measure(environment, tracer, &dir))?);
        }
    }
    for environment in &environments {
        if options.only_attachments {
            break;
        }
        let name = format!("measure on ttnn {}", environment.version);
        let bench = Bench {
            options,
            environment,
            tracer: tracer.as_deref(),
            dir: dir.join(&environment.version),
        };
        let result = progress.step(&name, |step| bench.run(step));
        sh::give_back(std::slice::from_ref(&dir))?;
        measured.push(result?);
    }

    let text = markdown::document(&measured, &steady, &dispatches, &attached, options)?;
    let is_part = options.dry_run || options.without_tracer || options.only_attachments;
    publish(&text, &file, is_part)
}

/// Prints the document, and writes it unless this is a dry run.
fn publish(text: &str, file: &Path, dry_run: bool) -> Result<()> {
    if dry_run {
        println!("{text}");
    } else {
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        println!("{text}\nwritten to {}", file.display());
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    environment: &'a Environment,
    tracer: Option<&'a Path>,
    dir: PathBuf,
}

impl Bench<'_> {
    fn run(&self, step: &Step) -> Result<Measured> {
        let ways: Vec<Way> = Way::ALL
            .into_iter()
            .filter(|way| way.stacks().is_none() || self.tracer.is_some())
            .collect();
        let libraries: Vec<PathBuf> = (0..ways.len())
            .map(|i| looper::copy_library(self.environment, &self.dir.join(format!("copy-{i}"))))
            .collect::<Result<_>>()?;
        let two = vec![ALLOCATE.to_owned(), FREE.to_owned()];
        let all = probe_points(&self.environment.library)?;
        let [hits_two, hits_all] = self.count(&libraries[0], [&two, &all])?;
        step.say(&format!(
            "{hits_two} hits of the two probes and {hits_all} of all {} in an allocation and free",
            all.len()
        ));

        let mut rounds = Vec::new();
        let mut events = None;
        for round in 1..=self.options.rounds {
            step.report(&format!("round {round} of {}", self.options.rounds));
            let mut libraries = libraries.clone();
            libraries.rotate_left(round % ways.len());
            let (measured, seen) = self.round(&ways, &libraries, &two, &all)?;
            rounds.push(measured);
            for seen in seen {
                let all: &mut Events = events.get_or_insert_default();
                all.received += seen.received;
                all.lost += seen.lost;
                all.stacks_skipped += seen.stacks_skipped;
            }
        }
        let hits = ways
            .iter()
            .map(|way| match way {
                Way::Untraced => 0.0,
                Way::TwoEmpty => hits_two,
                Way::AllEmpty | Way::TtMemtrace | Way::Python | Way::Full => hits_all,
            })
            .collect();
        Ok(Measured {
            version: self.environment.version.clone(),
            ways,
            hits,
            rounds,
            events,
        })
    }

    /// How many probes an allocation and its free hit, for each set of functions.
    fn count<const N: usize>(&self, library: &Path, functions: [&[String]; N]) -> Result<[f64; N]> {
        let dir = self.process_dir("count")?;
        let mut looper = Looper::start(self.environment, library, &dir)?;
        let mut all = [0.0; N];
        for (hits, functions) in all.iter_mut().zip(functions) {
            let tracer = Tracer::counting_probes(looper.pid(), library, functions, &dir)?;
            // The loop makes a fifth more allocations to warm up.
            let calls = 1000;
            looper.run(calls)?;
            let counted = tracer::counted(&tracer.stop()?, functions.len())?;
            *hits = counted.iter().sum::<u64>() as f64 / f64::from(calls + calls / 5);
        }
        Ok(all)
    }

    fn round(
        &self,
        ways: &[Way],
        libraries: &[PathBuf],
        two: &[String],
        all: &[String],
    ) -> Result<(Round, Vec<Events>)> {
        let mut loopers = Vec::new();
        let mut tracers = Vec::new();
        let mut summaries = Vec::new();
        for (i, (way, library)) in ways.iter().zip(libraries).enumerate() {
            let dir = self.process_dir(&format!("process-{i}"))?;
            let mut looper = Looper::start(self.environment, library, &dir)?;
            looper.run(2000)?;
            match (way, self.tracer) {
                (Way::Untraced, _) => {}
                (Way::TwoEmpty, _) => {
                    tracers.push(Tracer::empty_probes(looper.pid(), library, two, &dir)?);
                }
                (Way::AllEmpty, _) => {
                    tracers.push(Tracer::empty_probes(looper.pid(), library, all, &dir)?);
                }
                (way, Some(binary)) => {
                    let stacks = way.stacks().context("a way of tt-memtrace")?;
                    tracers.push(Tracer::tt_memtrace(binary, looper.pid(), stacks, &dir)?);
                    summaries.push(dir.join("summary.json"));
                }
                (_, None) => bail!("no tt-memtrace to measure"),
            }
            loopers.push(looper);
        }
        for looper in &mut loopers {
            looper.run(2000)?;
        }

        let mut turns = Vec::with_capacity(self.options.turns);
        for turn in 0..self.options.turns {
            let mut times = vec![0.0; loopers.len()];
            for place in 0..loopers.len() {
                let way = (turn + place) % loopers.len();
                times[way] = loopers[way].run(self.options.allocations)?;
            }
            turns.push(times);
        }

        // The tracers stop before the processes end, so that detaching is part of the round.
        for tracer in tracers {
            tracer.stop()?;
        }
        let events = summaries.iter().map(|file| events(file));
        Ok((Round { turns }, events.collect::<Result<_>>()?))
    }

    fn process_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }
}

/// The functions of the library that tt-memtrace probes.
fn probe_points(library: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(library).with_context(|| format!("read {}", library.display()))?;
    let create = CREATE_NON_OWNING
        .iter()
        .find_map(|start| name_starting(&bytes, start))
        .with_context(|| format!("{} has no Buffer::create", library.display()))?;
    let mut points = [ALLOCATE, FREE, FREE_ALL, BLOCK, DESTROY]
        .map(str::to_owned)
        .to_vec();
    points.push(create);
    Ok(points)
}

/// The first name in a library's string table with this beginning that isn't one of the linker's (`…$plt`).
fn name_starting(bytes: &[u8], start: &str) -> Option<String> {
    let is_name = |name: &&[u8]| {
        name.starts_with(start.as_bytes())
            && name
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    };
    let name = bytes.split(|byte| *byte == 0).find(is_name)?;
    String::from_utf8(name.to_vec()).ok()
}

/// How complete a trace was, from its summary.
fn events(summary: &Path) -> Result<Events> {
    let text = fs::read(summary).with_context(|| format!("read {}", summary.display()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", summary.display()))?;
    let count = |name: &str| {
        json.pointer(&format!("/events/{name}"))
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("{} has no events.{name}", summary.display()))
    };
    Ok(Events {
        received: count("received")?,
        lost: count("lost")?,
        stacks_skipped: count("stacks_skipped")?,
    })
}
