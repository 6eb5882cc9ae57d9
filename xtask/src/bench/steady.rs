//! A steady load over some time: whether events are lost.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Events, events, looper, looper::Looper, tracer::Tracer};
use crate::ttnn::Environment;

/// Allocations and frees in a second. The project's limit: at this rate no event is lost.
pub(super) const RATE: u64 = 20_000;
/// How long the load lasts.
pub(super) const SECONDS: u64 = 20;

/// What a trace of a steady load received.
pub(super) struct Steady {
    pub release: String,
    /// How many allocations and frees a second the process achieved.
    pub rate: f64,
    /// The machine's load average before the measurement: how much other work it had.
    pub load: f64,
    pub events: Events,
}

/// Lets a process allocate and free at a steady rate while tt-memtrace is attached to it with full stacks.
///
/// # Errors
/// When a program fails.
pub(super) fn measure(environment: &Environment, tracer: &Path, dir: &Path) -> Result<Steady> {
    let load = load()?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let library = looper::copy_library(environment, &dir.join("copy"))?;
    let mut looper = Looper::start(environment, &library, dir)?;
    looper.run(2000)?;
    let tracer = Tracer::tt_memtrace(tracer, looper.pid(), "full", dir)?;
    let count = RATE * SECONDS;
    let seconds = looper.run_steadily(count, RATE)?;
    tracer.stop()?;
    Ok(Steady {
        release: environment.version.clone(),
        rate: count as f64 / seconds,
        load,
        events: events(&dir.join("summary.json"))?,
    })
}

/// The load average of the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().context("parse /proc/loadavg")
}
