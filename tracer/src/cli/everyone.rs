//! `tt-memtrace attach --all`: every process that has a TT-Metal library, or comes to have one.

use std::collections::BTreeSet;

use super::{
    args,
    deed::What,
    failure::Failure,
    host::HostCheck,
    output::Output,
    run::optional_sleep,
    session::{FETCH, Session},
    signals::Requests,
};
use crate::{
    probe::{Recording, Reporting, Scope},
    target,
};

/// Traces until it is asked to stop, or for the duration.
///
/// # Errors
/// When tracing can't work here, or a result can't be written.
pub async fn attach(options: &args::Tracing, requests: &mut Requests) -> Result<(), Failure> {
    HostCheck::run().require()?;
    let output = Output::open(options)?;
    let mut session = Session::new(options, output, &BTreeSet::new())?;
    // Whoever begins or loads something from now on is reported, so that nobody is missed between
    // the search and the loop.
    session.kernel.report(Reporting::All)?;
    session.kernel.record(Recording::On)?;
    let present = target::all()?;
    for pid in &present {
        listen(&mut session, *pid);
    }
    for pid in present {
        look(&mut session, pid);
    }
    let running = session.books.running().len();
    session.books.output.say(&match running {
        0 => format!("waiting for a process to load {}", target::LIBRARY),
        _ => "and every process that comes to have it".to_owned(),
    });

    let mut fetch = tokio::time::interval(FETCH);
    fetch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = optional_sleep(options.duration);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = fetch.tick() => {}
            attention = session.kernel.attention() => attention?,
            () = &mut stop => break,
            _ = requests.stop.recv() => break,
            Some(mark) = requests.mark.recv() => session.want_mark(mark),
        }
        let mut linked = BTreeSet::new();
        for deed in session.fetch()? {
            match deed.what {
                What::Executed => listen(&mut session, deed.pid),
                What::Linked => {
                    linked.insert(deed.pid);
                }
                What::Ended => {}
            }
        }
        for pid in linked {
            look(&mut session, pid);
        }
        session.books.output.flush();
    }
    session.finish()
}

/// Has the loading of libraries reported by the dynamic linker of a process.
fn listen(session: &mut Session, pid: u32) {
    let listened = session.linkers.listen(&mut session.kernel, pid, Scope::All);
    if let Err(failure) = listened {
        // It may be a program of another kind altogether; if it has a library already, it is found all
        // the same.
        tracing::debug!("process {pid}: {failure}");
    }
}

fn look(session: &mut Session, pid: u32) {
    match session.trace_libraries(pid, Scope::All, false) {
        Err(failure) if target::is_alive(pid) => session.books.cannot_trace(pid, &failure),
        _ => {}
    }
}
