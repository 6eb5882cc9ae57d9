//! What a session traces.

use std::collections::BTreeSet;

use crate::probe::LinkScope;

/// Which processes a session traces, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A command and all that it starts, from the first buffer on. The command's process is stopped until
    /// [`Session::begin`](super::Session::begin) has returned.
    Command { pid: u32 },
    /// Running processes, until the last of them ends. `wait`: also those that haven't loaded a TT-Metal
    /// library yet.
    Processes { pids: BTreeSet<u32>, wait: bool },
    /// Every process that has a TT-Metal library, or loads one later.
    All,
}

impl Scope {
    /// The scope of the probes that are attached for `pid`.
    pub(crate) fn links(&self, pid: u32) -> LinkScope {
        match self {
            Self::Processes { .. } => LinkScope::OneProcess(pid),
            Self::Command { .. } | Self::All => LinkScope::AllProcesses,
        }
    }

    /// The pids that are known before the session begins.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        match self {
            Self::Processes { pids, .. } => pids.clone(),
            Self::Command { .. } | Self::All => BTreeSet::new(),
        }
    }
}
