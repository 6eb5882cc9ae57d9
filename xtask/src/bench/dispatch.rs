//! What tracing adds to the dispatch of a cached program.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{looper, looper::Looper, statistics::Quartiles, tracer::Tracer};
use crate::ttnn::Environment;

/// Turns of each of the two processes, and dispatches in one turn.
pub(super) const TURNS: usize = 200;
pub(super) const DISPATCHES: u32 = 300;

/// How long a dispatch of a cached program takes.
pub(super) struct Dispatch {
    pub release: String,
    /// Nanoseconds, untraced.
    pub untraced: Quartiles,
    /// Nanoseconds more than that in the neighbouring turn, traced with full stacks.
    pub added: Quartiles,
}

/// Lets two processes dispatch in turns, one of them traced with full stacks.
///
/// # Errors
/// When a program fails.
pub(super) fn measure(environment: &Environment, tracer: &Path, dir: &Path) -> Result<Dispatch> {
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
        untraced: Quartiles::new(alone),
        added: Quartiles::new(added),
    })
}
