use std::path::PathBuf;

use procfs::ProcError;
use thiserror::Error;

use super::Candidate;

/// Why a process can't be found or read.
#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error(
        "there is no process {pid}: it ended, or the number is wrong (`pgrep -a python` lists some)"
    )]
    NoSuchProcess { pid: u32 },

    #[error("no process is called `{name}`; `--wait` waits for one, and `--pid` takes a number")]
    NoneNamed { name: String },

    #[error(
        "{} processes are called `{name}`; choose one with --pid:\n{}",
        .candidates.len(),
        .candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    Ambiguous {
        name: String,
        candidates: Vec<Candidate>,
    },

    #[error("not allowed to look at process {pid}: {source}. Run as root, or with CAP_SYS_PTRACE")]
    NotAllowed {
        pid: u32,
        #[source]
        source: ProcError,
    },

    #[error("can't read /proc/{pid}: {source}")]
    Unreadable {
        pid: u32,
        #[source]
        source: ProcError,
    },

    #[error("can't read {path}, which process {pid} has mapped: {source}")]
    File {
        pid: u32,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl TargetError {
    pub(super) fn unreadable(pid: u32, source: ProcError) -> Self {
        match source {
            ProcError::NotFound(_) => Self::NoSuchProcess { pid },
            // A process that ended meanwhile answers so (ESRCH).
            ProcError::Io(ref error, _) if error.raw_os_error() == Some(3) => {
                Self::NoSuchProcess { pid }
            }
            ProcError::PermissionDenied(_) => Self::NotAllowed { pid, source },
            source => Self::Unreadable { pid, source },
        }
    }
}
