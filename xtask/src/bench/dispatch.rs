//! A program that is dispatched again and again: what tracing adds to that.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{looper, looper::Looper, statistics::Quartiles, tracer::Tracer};
use crate::ttnn::Environment;

/// Turns of each of the two processes, and dispatches in one.
pub const TURNS: usize = 200;
pub const DISPATCHES: u32 = 300;

/// What dispatching a cached program takes.
pub struct Dispatch {
    pub release: String,
    /// Nanoseconds, untraced.
    pub untraced: Quartiles,
    /// How much more in the neighbouring turn, with all that tt-memtrace can have.
    pub added: Quartiles,
}

/// Has two processes dispatch in turns, one of them traced with full stacks.
///
/// # Errors
/// When a program fails.
pub fn measure(environment: &Environment, tracer: &Path, dir: &Path) -> Result<Dispatch> {
    let start = |name: &str| -> Result<_> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let library = looper::copy_library(environment, &dir.join("copy"))?;
        let mut looper = Looper::start(environment, &library, &dir)?;
        looper.dispatch(DISPATCHES)?;
        Ok((looper, dir))
    };
    let (mut untraced, _) = start("untraced")?;
    let (mut traced, traced_dir) = start("traced")?;
    let tracer = Tracer::tt_memtrace(tracer, traced.pid(), "full", &traced_dir)?;
    let mut alone = Vec::new();
    let mut added = Vec::new();
    for turn in 0..TURNS {
        let (without, with) = if turn % 2 == 0 {
            let without = untraced.dispatch(DISPATCHES)?;
            (without, traced.dispatch(DISPATCHES)?)
        } else {
            let with = traced.dispatch(DISPATCHES)?;
            (untraced.dispatch(DISPATCHES)?, with)
        };
        alone.push(without);
        added.push(with - without);
    }
    tracer.stop()?;
    Ok(Dispatch {
        release: environment.version.clone(),
        untraced: Quartiles::of(alone),
        added: Quartiles::of(added),
    })
}
