//! `tt-memtrace attach`: running processes, by number or by name.

use std::{collections::BTreeSet, time::Duration};

use super::{
    args::Attach,
    failure::{Failure, Kind},
    signals::{self, Requests},
    terminal::Terminal,
    trace::{Trace, Traced},
};
use crate::{
    probe::Requirements,
    session::{Machine, Request, Scope, SessionError},
    target::{self, TargetError},
};

/// How often `/proc` is searched for a process that is waited for by name.
const SEARCH: Duration = Duration::from_millis(100);

/// Traces until the processes end, for `--duration`, or until it is asked to stop.
///
/// # Errors
/// When a target can't be traced, or a result not written.
pub(super) async fn attach(options: Attach) -> Result<(), Failure> {
    let mut asked = signals::requests().map_err(|error| Failure::new(Kind::Host, error))?;
    let scope = if options.all {
        Requirements::check().require()?;
        Scope::All
    } else {
        let Some(pids) = pids(&options, &mut asked).await? else {
            return Ok(());
        };
        check(&pids, options.wait)?;
        Scope::Processes {
            pids,
            wait: options.wait,
        }
    };
    let Requests {
        mut stops,
        mut requests,
        sender,
    } = asked;
    let trace = Trace::prepare(&options.tracing)?;
    let stop = sender.clone();
    tokio::spawn(async move {
        while stops.recv().await.is_some() {
            // The trace may be over.
            stop.send(Request::Stop).ok();
        }
    });
    let pids = scope.pids();
    let Traced {
        ended,
        outputs,
        accounts,
    } = trace
        .follow(scope, Trace::load_kernel, &mut requests, sender, || {})
        .await?;
    outputs.finish(accounts, &ended)?;
    if ended.traced_anything || pids.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    Err(Failure::new(
        Kind::NoLibrary,
        anyhow::anyhow!(
            "process {} never loaded {}",
            pids.join(", "),
            target::LIBRARY
        ),
    ))
}

/// The processes that the options name; `None` if the tracer was asked to stop while it waited for one.
async fn pids(options: &Attach, asked: &mut Requests) -> Result<Option<BTreeSet<u32>>, Failure> {
    let mut pids = BTreeSet::new();
    for id in &options.pid {
        let pid = target::process_of(*id)?;
        if pid != *id {
            let terminal = Terminal::new(options.tracing.quiet);
            terminal.say(&format!(
                "{id} is a thread of process {pid}: that process is traced"
            ));
        }
        pids.insert(pid);
    }
    for name in &options.name {
        let pid = if options.wait {
            tokio::select! {
                found = wait_for_name(name) => found?,
                _ = asked.stops.recv() => return Ok(None),
            }
        } else {
            target::find_by_name(name)?
        };
        pids.insert(pid);
    }
    Ok(Some(pids))
}

async fn wait_for_name(name: &str) -> Result<u32, Failure> {
    loop {
        match target::find_by_name(name) {
            Err(TargetError::NoneNamed { .. }) => tokio::time::sleep(SEARCH).await,
            found => return Ok(found?),
        }
    }
}

/// Finds out before anything is set up whether these processes can be traced.
fn check(pids: &BTreeSet<u32>, wait: bool) -> Result<(), Failure> {
    for pid in pids {
        target::Identity::from_pid(*pid)?;
    }
    Requirements::check().require()?;
    for pid in pids.iter().filter(|_| !wait) {
        let is_loaded = target::is_loaded(*pid);
        if !is_loaded.map_err(|error| SessionError::from(error).or_ended(*pid, &Machine))? {
            return Err(SessionError::no_library(*pid, &Machine).into());
        }
    }
    Ok(())
}
