//! `tt-memtrace attach`: running processes, by number or by name.

use std::{collections::BTreeSet, time::Duration};

use anyhow::anyhow;

use super::{
    args::Attach,
    deed::{Deed, What},
    everyone,
    failure::{Failure, Kind},
    host::HostCheck,
    output::Output,
    run::optional_sleep,
    session::{FETCH, Session},
    signals,
};
use crate::{
    probe::{Recording, Scope},
    report::Attached,
    target::{self, TargetError},
};

/// How often `/proc` is searched for a process that is waited for by name.
const SEARCH: Duration = Duration::from_millis(100);

/// # Errors
/// When a target can't be traced, or a result not written.
pub async fn attach(options: Attach) -> Result<(), Failure> {
    let mut requests = signals::requests().map_err(|error| Failure::new(Kind::Host, error))?;
    if options.all {
        return everyone::attach(&options.tracing, &mut requests).await;
    }
    let mut pids: BTreeSet<u32> = options.pid.iter().copied().collect();
    for name in &options.name {
        let pid = if options.wait {
            tokio::select! {
                found = wait_for_name(name) => found?,
                _ = requests.stop.recv() => return Ok(()),
            }
        } else {
            target::find_by_name(name)?
        };
        pids.insert(pid);
    }
    for pid in &pids {
        target::Identity::of(*pid)?;
    }
    HostCheck::run().require()?;
    for pid in pids.iter().filter(|_| !options.wait) {
        if !target::is_loaded(*pid).map_err(|error| ended_or(*pid, error.into()))? {
            return Err(no_library(*pid));
        }
    }
    let output = Output::open(&options.tracing)?;
    let mut session = Session::new(&options.tracing, output, &pids)?;
    for pid in &pids {
        join(&mut session, *pid, options.wait)?;
    }
    session.kernel.record(Recording::On)?;
    for pid in &pids {
        if !session.books.has_any_library(*pid) {
            session.books.output.say(&format!(
                "waiting for process {pid} to load {}",
                target::LIBRARY
            ));
        }
    }

    let mut fetch = tokio::time::interval(FETCH);
    fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = optional_sleep(options.tracing.duration);
    tokio::pin!(stop);
    let mut left = pids.clone();
    while !left.is_empty() {
        tokio::select! {
            _ = fetch.tick() => {}
            attention = session.kernel.attention() => attention?,
            () = &mut stop => break,
            _ = requests.stop.recv() => break,
            Some(mark) = requests.mark.recv() => session.want_mark(mark),
        }
        for Deed { pid, what, .. } in session.fetch()? {
            let looked = match what {
                What::Ended => {
                    left.remove(&pid);
                    Ok(true)
                }
                What::Executed => listen(&mut session, pid),
                What::Linked => start(&mut session, pid),
            };
            match looked {
                Err(failure) if pids.len() == 1 => return Err(failure),
                Err(failure) => {
                    session.books.cannot_trace(pid, &failure);
                    left.remove(&pid);
                }
                Ok(_) => {}
            }
        }
        session.books.output.flush();
    }
    let traced = session.traces_anything();
    session.finish()?;
    if traced {
        Ok(())
    } else {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        Err(Failure::new(
            Kind::NoLibrary,
            anyhow!(
                "process {} never loaded {}",
                pids.join(", "),
                target::LIBRARY
            ),
        ))
    }
}

/// Begins to trace a process, or to wait for its library.
fn join(session: &mut Session, pid: u32, wait: bool) -> Result<(), Failure> {
    session.books.introduce(pid, Attached::Running)?;
    session.kernel.watch(pid)?;
    // From now on its end is reported; it may have come before.
    if !target::is_alive(pid) {
        return Err(ended(pid));
    }
    if start(session, pid)? {
        return Ok(());
    }
    if !wait {
        return Err(no_library(pid));
    }
    if !listen(session, pid)? {
        return Err(Failure::new(
            Kind::NoLibrary,
            anyhow!(
                "process {pid} is linked statically and can't load {}",
                target::LIBRARY
            ),
        ));
    }
    // It may have been loaded meanwhile.
    start(session, pid).map(drop)
}

async fn wait_for_name(name: &str) -> Result<u32, Failure> {
    loop {
        match target::find_by_name(name) {
            Err(TargetError::NoneNamed { .. }) => tokio::time::sleep(SEARCH).await,
            found => return Ok(found?),
        }
    }
}

/// Puts probes on, and tells whether there was a library to put them on.
fn start(session: &mut Session, pid: u32) -> Result<bool, Failure> {
    session
        .trace_libraries(pid, Scope::Process(pid), false)
        .map_err(|failure| ended_or(pid, failure))
}

/// Has loaded libraries reported, and tells whether the process can load any.
fn listen(session: &mut Session, pid: u32) -> Result<bool, Failure> {
    let scope = Scope::Process(pid);
    session
        .linkers
        .listen(&mut session.kernel, pid, scope)
        .map_err(|failure| ended_or(pid, failure))
}

/// A process that ends meanwhile has no files any more, and other things fail: that is what to say.
fn ended_or(pid: u32, failure: Failure) -> Failure {
    if target::is_alive(pid) {
        failure
    } else {
        ended(pid)
    }
}

fn ended(pid: u32) -> Failure {
    Failure::new(
        Kind::Target,
        anyhow!("process {pid} ended while it was being attached to"),
    )
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
