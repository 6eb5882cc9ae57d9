//! What a session does about its processes: at its beginning, and when they execute programs, load
//! libraries and end. How that differs from scope to scope is decided here and nowhere else.

use std::collections::BTreeSet;

use super::{
    Kernel, Notice, ProcessEvent, ProcessEventKind, Processes, Scope, Session, SessionError,
};
use crate::probe::{Recording, Reporting};

impl<K: Kernel, P: Processes> Session<'_, K, P> {
    /// Puts on the first probes and begins to record.
    ///
    /// # Errors
    /// When a process of the scope can't be traced.
    pub(crate) fn begin(&mut self) -> Result<(), SessionError> {
        match self.scope.clone() {
            Scope::Command { pid } => {
                self.introduce(pid, true)?;
                self.kernel.watch(pid)?;
                self.kernel.report(Reporting::Descendants)?;
                self.kernel.record(Recording::Watched)?;
            }
            Scope::Processes { pids, wait } => {
                for pid in &pids {
                    self.join(*pid, wait)?;
                }
                self.kernel.record(Recording::On)?;
                for pid in pids {
                    if !self.table.has_library(pid) {
                        self.notice(Notice::Waiting { pid });
                    }
                }
            }
            Scope::All => {
                // Whatever begins or loads something from now on is reported, so that no process is missed
                // between the search and the loop.
                self.kernel.report(Reporting::All)?;
                self.kernel.record(Recording::On)?;
                let present = self.processes.all()?;
                for pid in &present {
                    self.listen_if_possible(*pid);
                }
                for pid in present {
                    self.trace_if_possible(pid);
                }
                self.notice(match self.table.running().len() {
                    0 => Notice::WaitingForAny,
                    _ => Notice::FollowingAll,
                });
            }
        }
        self.sink.flush();
        Ok(())
    }

    /// Reacts to what processes did, in order. A process that was stopped for it goes on afterwards.
    pub(super) fn react(&mut self, events: Vec<ProcessEvent<P>>) -> Result<(), SessionError> {
        match self.scope {
            Scope::Command { pid } => {
                for event in events {
                    self.react_to_descendant(event, pid);
                }
                Ok(())
            }
            Scope::Processes { .. } => events
                .into_iter()
                .try_for_each(|event| self.react_to_chosen(&event)),
            Scope::All => {
                // A process that loads many libraries is looked at once.
                let mut linked = BTreeSet::new();
                for event in events {
                    match event.kind {
                        ProcessEventKind::Executed => self.listen_if_possible(event.pid),
                        ProcessEventKind::Linked => {
                            linked.insert(event.pid);
                        }
                        ProcessEventKind::Ended => {}
                    }
                }
                for pid in linked {
                    self.trace_if_possible(pid);
                }
                Ok(())
            }
        }
    }

    /// Whether nothing is left to trace.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.scope, Scope::Processes { .. }) && self.left.is_empty()
    }

    /// The command, or a process that it started.
    fn react_to_descendant(&mut self, event: ProcessEvent<P>, command: u32) {
        let pid = event.pid;
        let result = match event.kind {
            ProcessEventKind::Executed => self.listen(pid).map(drop),
            ProcessEventKind::Linked => self.trace_descendant(pid, event.stopped.is_some()),
            ProcessEventKind::Ended => Ok(()),
        };
        if let Err(error) = result {
            // It goes on without tracing, but unharmed. If it can't be let go, it has ended.
            self.kernel.let_go(pid).ok();
            if self.processes.is_alive(pid) {
                self.untraced(pid, &error);
                // A helper of another kind of program needn't be traced.
                if pid == command || error.is_of_library() {
                    self.failure.get_or_insert(error);
                }
            }
        }
    }

    fn trace_descendant(&mut self, pid: u32, stopped: bool) -> Result<(), SessionError> {
        if self.trace_libraries(pid, stopped)? {
            self.kernel.let_go(pid)?;
        }
        Ok(())
    }

    /// A process of [`Scope::Processes`].
    fn react_to_chosen(&mut self, event: &ProcessEvent<P>) -> Result<(), SessionError> {
        let pid = event.pid;
        let result = match event.kind {
            ProcessEventKind::Ended => {
                self.left.remove(&pid);
                return Ok(());
            }
            ProcessEventKind::Executed => self.listen(pid).map(drop),
            ProcessEventKind::Linked => self.trace_libraries(pid, false).map(drop),
        };
        let Err(error) = result.map_err(|error| error.or_ended(pid, &self.processes)) else {
            return Ok(());
        };
        if self.scope.pids().len() == 1 {
            return Err(error);
        }
        self.untraced(pid, &error);
        self.left.remove(&pid);
        Ok(())
    }

    /// Begins to trace a running process, or to wait for its library.
    fn join(&mut self, pid: u32, wait: bool) -> Result<(), SessionError> {
        self.introduce(pid, false)?;
        self.kernel.watch(pid)?;
        // From now on its end is reported; it may have come before.
        if !self.processes.is_alive(pid) {
            return Err(SessionError::Ended { pid });
        }
        if self.try_libraries(pid)? {
            return Ok(());
        }
        if !wait {
            return Err(SessionError::no_library(pid, &self.processes));
        }
        let listens = self.listen(pid);
        if !listens.map_err(|error| error.or_ended(pid, &self.processes))? {
            return Err(SessionError::StaticallyLinked { pid });
        }
        // It may have been loaded meanwhile.
        self.try_libraries(pid).map(drop)
    }

    fn try_libraries(&mut self, pid: u32) -> Result<bool, SessionError> {
        let traced = self.trace_libraries(pid, false);
        traced.map_err(|error| error.or_ended(pid, &self.processes))
    }

    /// Has the dynamic linker of a process report loaded libraries, and returns whether it has one.
    fn listen(&mut self, pid: u32) -> Result<bool, SessionError> {
        let scope = self.scope.links(pid);
        self.linkers
            .listen(&mut self.kernel, &self.processes, pid, scope)
    }

    fn listen_if_possible(&mut self, pid: u32) {
        if let Err(error) = self.listen(pid) {
            // It may be a program of another kind altogether; a library that it has already is found all
            // the same.
            tracing::debug!("process {pid}: {error}");
        }
    }

    fn trace_if_possible(&mut self, pid: u32) {
        if let Err(error) = self.trace_libraries(pid, false)
            && self.processes.is_alive(pid)
        {
            self.untraced(pid, &error);
        }
    }
}
