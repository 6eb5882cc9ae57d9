//! What a session learns about processes besides their events: names, libraries, interpreters.

use std::{collections::HashMap, sync::Arc};

use super::{Kernel, Notice, ProcessFact, Processes, Session, SessionError, TracedLibrary, causes};
use crate::{ledger::Nanoseconds, snapshot::TargetLibrary};

impl<K: Kernel, P: Processes> Session<'_, K, P> {
    /// Puts probes on each TT-Metal library of a process, and returns whether it has any. `stopped`: no code
    /// of a library that is found now has run yet.
    pub(super) fn trace_libraries(
        &mut self,
        pid: u32,
        stopped: bool,
    ) -> Result<bool, SessionError> {
        let mut result = Ok(false);
        let files = self.processes.libraries(pid)?;
        if !files.is_empty() {
            self.find_interpreter(pid)?;
        }
        for file in files {
            let probed = self.libraries.probe(
                &mut self.kernel,
                &self.processes,
                &mut self.stream,
                &file,
                self.scope.links(pid),
                self.clock,
            );
            let probed = match probed {
                Ok(probed) => probed,
                Err(error) => {
                    result = Err(error);
                    continue;
                }
            };
            let from_start = stopped || is_from_start(&self.executed_at, pid, probed.since);
            let library = TracedLibrary {
                path: file.path.display().to_string(),
                ..probed.library.clone()
            };
            let (probes, programs) = (probed.probes, probed.programs);
            let target = TargetLibrary {
                file: file.clone(),
                derived: Arc::clone(probed.derived),
                clock: self.clock,
            };
            if let Some(why) = probed.no_programs {
                // The lines behind the first one have the code in question, for a report.
                let why = why.lines().next().unwrap_or_default().to_owned();
                self.notice(Notice::NoPrograms { pid, why });
            }
            self.ranges.want(target.clone());
            if from_start {
                self.snapshots.needs_no_reading(&target);
                self.banks.want(target);
            } else {
                self.snapshots.want(target);
            }
            self.add_library(pid, from_start, library, probes, programs);
            result = result.map(|_| true);
        }
        result
    }

    /// Finds a process's Python interpreter, so that its frames are walked from now on.
    pub(super) fn find_interpreter(&mut self, pid: u32) -> Result<(), SessionError> {
        if let Some(python) = self.processes.interpreter(pid) {
            self.stacks.set_interpreter(pid, python);
        }
        match self.stacks.find_interpreter(pid) {
            Ok(Some(python)) => self.kernel.walk_python(pid, python)?,
            Ok(None) => {}
            Err(error) => self.notice(Notice::NoPythonFrames {
                pid,
                why: error.to_string(),
            }),
        }
        Ok(())
    }

    /// Hands out that a process has a library with so many probes, unless that is known.
    pub(super) fn add_library(
        &mut self,
        pid: u32,
        from_start: bool,
        library: TracedLibrary,
        probes: usize,
        programs: bool,
    ) {
        if !self.table.is_running(pid) {
            self.introduce_if_possible(pid, from_start);
        }
        if !self.table.add_library(pid, &library) {
            return;
        }
        let notice = Notice::Tracing {
            pid,
            comm: self.table.comm(pid).to_owned(),
            build_id: library.build_id.clone(),
            release: library.release.clone(),
            probes,
        };
        self.fact(ProcessFact::Library {
            pid,
            from_start,
            library,
            programs,
        });
        self.notice(notice);
    }

    /// Hands out that a process is traced, or what it is called now.
    pub(super) fn introduce(&mut self, pid: u32, from_start: bool) -> Result<(), SessionError> {
        let identity = self.processes.identity(pid)?;
        if self.table.introduce(pid, Some(&identity.comm)) {
            self.fact(ProcessFact::Began {
                pid,
                from_start,
                identity: Some(identity),
            });
        } else {
            self.fact(ProcessFact::Renamed(identity));
        }
        Ok(())
    }

    /// The same of a process that may have ended: its events are worth keeping all the same.
    pub(super) fn introduce_if_possible(&mut self, pid: u32, from_start: bool) {
        if self.introduce(pid, from_start).is_err() && self.table.introduce(pid, None) {
            self.fact(ProcessFact::Began {
                pid,
                from_start,
                identity: None,
            });
        }
    }

    /// Hands out that a process goes on untraced, once for each reason to a person.
    pub(super) fn untraced(&mut self, pid: u32, error: &SessionError) {
        let identity = self.processes.identity(pid);
        let comm = identity.map(|identity| identity.comm).unwrap_or_default();
        let reason = causes(error);
        if self.table.is_new_reason(&reason) {
            self.notice(Notice::Untraced {
                pid,
                comm: comm.clone(),
                reason: reason.clone(),
            });
        }
        self.fact(ProcessFact::Untraced { pid, comm, reason });
    }
}

/// Whether a process executed its program when the probes were on already.
pub(super) fn is_from_start(
    executed_at: &HashMap<u32, Nanoseconds>,
    pid: u32,
    since: Nanoseconds,
) -> bool {
    executed_at.get(&pid).is_some_and(|at| *at > since)
}
