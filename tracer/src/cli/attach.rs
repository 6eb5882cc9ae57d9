//! `tt-memtrace attach`.

use std::time::Duration;

use anyhow::anyhow;

use super::{
    args::Attach,
    failure::{Failure, Kind},
    host::HostCheck,
    output::Output,
    run::optional_sleep,
    session::{FETCH, Session},
    signals,
};
use crate::{
    report::Attached,
    stream::Decoded,
    target::{self, Ended, TargetError},
};

/// How often `/proc` is searched for a process that is waited for by name.
const SEARCH: Duration = Duration::from_millis(100);

/// # Errors
/// When the target can't be traced, or a result not written.
pub async fn attach(options: Attach) -> Result<(), Failure> {
    let mut requests = signals::requests().map_err(|error| Failure::new(Kind::Host, error))?;
    let pid = match (options.pid, options.name.as_deref()) {
        (Some(pid), _) => pid,
        (None, Some(name)) if options.wait => tokio::select! {
            found = wait_for_name(name) => found?,
            _ = requests.recv() => return Ok(()),
        },
        (None, name) => target::find_by_name(name.unwrap_or_default())?,
    };
    let ended = Ended::of(pid)?;
    HostCheck::run().require()?;
    if !options.wait && !target::is_loaded(pid).map_err(|error| ended_or(pid, error.into()))? {
        return Err(no_library(pid));
    }
    let output = Output::open(&options.tracing)?;
    let mut session = Session::new(options.tracing.ring_size, output)?;
    session.introduce(pid, Attached::Running)?;
    session.kernel.watch(pid, true)?;
    let linker = (options.wait && !start(&mut session, pid)?)
        .then(|| watch_linker(&mut session, pid))
        .transpose()?;
    // It may have been loaded while the linker was being watched; or the process has ended.
    if !start(&mut session, pid)? && !options.wait {
        return Err(no_library(pid));
    }
    session.kernel.record(true)?;
    if !session.traces_anything() {
        session.output.say(&format!(
            "waiting for process {pid} to load {}",
            target::LIBRARY
        ));
    }

    let mut fetch = tokio::time::interval(FETCH);
    fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = optional_sleep(options.tracing.duration);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = fetch.tick() => {}
            attention = session.kernel.attention() => attention?,
            result = ended.wait() => {
                result?;
                session.ended(pid, None)?;
                break;
            }
            () = &mut stop => break,
            _ = requests.recv() => break,
        }
        for control in session.fetch()? {
            if matches!(control, Decoded::Linked { .. } | Decoded::Executed { .. }) {
                start(&mut session, pid)?;
            }
        }
        session.output.flush();
    }
    let traced = session.traces_anything();
    drop(linker);
    session.finish()?;
    if traced {
        Ok(())
    } else {
        Err(Failure::new(
            Kind::NoLibrary,
            anyhow!("process {pid} never loaded {}", target::LIBRARY),
        ))
    }
}

async fn wait_for_name(name: &str) -> Result<u32, Failure> {
    loop {
        match target::find_by_name(name) {
            Err(TargetError::NoneNamed { .. }) => tokio::time::sleep(SEARCH).await,
            found => return Ok(found?),
        }
    }
}

/// Puts probes on.
fn start(session: &mut Session, pid: u32) -> Result<bool, Failure> {
    session
        .trace_libraries(pid)
        .map_err(|failure| ended_or(pid, failure))
}

/// A process that ends meanwhile has no files any more, and other things fail: that is what to say.
fn ended_or(pid: u32, failure: Failure) -> Failure {
    if target::is_alive(pid) {
        failure
    } else {
        Failure::new(
            Kind::Target,
            anyhow!("process {pid} ended while it was being attached to"),
        )
    }
}

fn no_library(pid: u32) -> Failure {
    let comm = target::Identity::of(pid)
        .map(|identity| identity.comm)
        .unwrap_or_default();
    let failure = Failure::new(
        Kind::NoLibrary,
        anyhow!(
            "process {pid} ({comm}) has no TT-Metal loaded: no file called {}* is mapped for \
             execution. Is it the right process? (with --wait, tt-memtrace waits for it to load)",
            target::LIBRARY,
        ),
    );
    ended_or(pid, failure)
}

fn watch_linker(
    session: &mut Session,
    pid: u32,
) -> Result<Option<crate::probe::AttachedProbes>, Failure> {
    match target::dynamic_linker(pid)? {
        Some(linker) => super::linker::attach(session, &linker).map(Some),
        None => Err(Failure::new(
            Kind::NoLibrary,
            anyhow!(
                "process {pid} is linked statically and can't load {}",
                target::LIBRARY
            ),
        )),
    }
}
