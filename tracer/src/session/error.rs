//! Errors of a session.

use std::{error::Error, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::Processes;
use crate::{
    abi::AbiError,
    probe::ProbeError,
    stream::{Implausible, PlanError},
    target::{LIBRARY, TargetError},
};

/// Why a session, or one process of it, can't be traced.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Target(#[from] TargetError),

    #[error(transparent)]
    Probe(#[from] ProbeError),

    /// A field or a probe point of the library is in doubt.
    #[error("{path} can't be traced")]
    Library { path: String, source: AbiError },

    #[error(transparent)]
    Plan(#[from] PlanError),

    /// The library was refused before, for the same reason.
    #[error(transparent)]
    Refused(Arc<SessionError>),

    #[error(
        "what process {pid} says of its buffers can't be true, so its library's fields were derived \
         wrongly: please report this release of TT-Metal with what `tt-memtrace check --pid {pid} \
         --excerpt FILE` writes"
    )]
    Implausible { pid: u32, source: Implausible },

    #[error("process {pid} ended while it was being attached to")]
    Ended { pid: u32 },

    #[error(
        "process {pid} ({comm}) has no TT-Metal loaded: no file called {LIBRARY}* is mapped for \
         execution. Is it the right process? (with --wait, tt-memtrace waits for it to load)"
    )]
    NoLibrary { pid: u32, comm: String },

    #[error("process {pid} is linked statically and can't load {LIBRARY}")]
    StaticallyLinked { pid: u32 },

    #[error(
        "{} has no {function}: only glibc's dynamic linker reports loaded libraries. Start the command \
         by itself and use `tt-memtrace attach`", .linker.display()
    )]
    Linker {
        linker: PathBuf,
        function: &'static str,
    },
}

impl SessionError {
    /// A process has no TT-Metal library.
    pub(crate) fn no_library(pid: u32, processes: &impl Processes) -> Self {
        let identity = processes.identity(pid);
        let comm = identity.map(|identity| identity.comm).unwrap_or_default();
        Self::NoLibrary { pid, comm }.or_ended(pid, processes)
    }

    /// This error, or that the process has ended: then it has no files any more, and other things fail.
    pub(crate) fn or_ended(self, pid: u32, processes: &impl Processes) -> Self {
        if processes.is_alive(pid) {
            self
        } else {
            Self::Ended { pid }
        }
    }

    /// Whether the library is the cause, so that every process with it fails in the same way.
    pub(crate) fn is_of_library(&self) -> bool {
        match self {
            Self::Library { .. } | Self::Plan(_) | Self::Implausible { .. } => true,
            Self::Refused(error) => error.is_of_library(),
            _ => false,
        }
    }
}

/// An error and its causes in one line, without causes that the text before them already contains.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
