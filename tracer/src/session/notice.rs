//! What a person should know of a session while it runs.

use std::fmt;

use crate::target::LIBRARY;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// It may be left out where a person asked for quiet.
    Info,
    /// The figures are less than they could be.
    Warning,
}

/// Something that a person should know. Its text is what [`fmt::Display`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A process has a library with so many probes.
    Tracing {
        pid: u32,
        comm: String,
        build_id: Option<String>,
        release: Option<String>,
        probes: usize,
    },
    /// A process has no library yet.
    Waiting { pid: u32 },
    /// No process has a library yet.
    WaitingForAny,
    /// Processes that load a library later are traced, too.
    FollowingAll,
    /// A process goes on without being traced.
    Untraced {
        pid: u32,
        comm: String,
        reason: String,
    },
    /// What programs take of L1 isn't known of a process.
    NoPrograms { pid: u32, why: String },
    /// The frames of a process's Python interpreter can't be read.
    NoPythonFrames { pid: u32, why: String },
    /// Child processes that couldn't be followed.
    Unfollowed { count: u64 },
    /// A record that counts as lost, since it can't be read.
    UnreadableRecord { why: String },
    /// A process's snapshot at attach.
    Held {
        pid: u32,
        buffers: usize,
        bytes: u64,
        /// These were found later than others of the same process.
        more: bool,
    },
    /// Part of what a process held before it was traced can't be read.
    SnapshotProblem { pid: u32, problem: String },
    /// The lengths of a process's blocks aren't what was recorded.
    NoBlockLengths { pid: u32 },
    /// An allocation failed; the text is the report's.
    OutOfMemory(String),
}

impl Notice {
    /// How much it matters.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::Tracing { .. }
            | Self::Waiting { .. }
            | Self::WaitingForAny
            | Self::FollowingAll
            | Self::Held { .. }
            | Self::OutOfMemory(_) => Severity::Info,
            Self::Untraced { .. }
            | Self::NoPrograms { .. }
            | Self::NoPythonFrames { .. }
            | Self::Unfollowed { .. }
            | Self::UnreadableRecord { .. }
            | Self::SnapshotProblem { .. }
            | Self::NoBlockLengths { .. } => Severity::Warning,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracing {
                pid,
                comm,
                build_id,
                release,
                probes,
            } => {
                write!(f, "tracing {comm} (pid {pid}): ")?;
                if let Some(release) = release {
                    write!(f, "ttnn {release}, ")?;
                }
                let build_id = build_id
                    .as_deref()
                    .map_or("without build id", |id| id.get(..12).unwrap_or(id));
                write!(f, "{LIBRARY} {build_id}, {probes} probes")
            }
            Self::Waiting { pid } => write!(f, "waiting for process {pid} to load {LIBRARY}"),
            Self::WaitingForAny => write!(f, "waiting for a process to load {LIBRARY}"),
            Self::FollowingAll => f.write_str("and every process that comes to have it"),
            Self::Untraced { pid, comm, reason } => {
                write!(f, "{comm} (pid {pid}) goes on untraced: {reason}")
            }
            Self::NoPrograms { pid, why } => write!(
                f,
                "what programs of process {pid} take of L1 isn't known: {why}"
            ),
            Self::NoPythonFrames { pid, why } => {
                write!(
                    f,
                    "the Python frames of process {pid} can't be shown: {why}"
                )
            }
            Self::Unfollowed { count } => write!(
                f,
                "too many processes at once: {count} of them can't be traced"
            ),
            Self::UnreadableRecord { why } => {
                write!(f, "a record can't be read and counts as lost: {why}")
            }
            Self::Held {
                pid,
                buffers,
                bytes,
                more,
            } => {
                write!(f, "process {pid} held ")?;
                match buffers {
                    0 => f.write_str("no buffers")?,
                    1 => f.write_str("1 buffer")?,
                    several => write!(f, "{several} buffers")?,
                }
                let more = if *more { " more" } else { "" };
                let size = humansize::format_size(*bytes, humansize::BINARY);
                write!(f, "{more} from before, {size}")
            }
            Self::SnapshotProblem { pid, problem } => write!(
                f,
                "what process {pid} held before can't all be read: {problem}"
            ),
            Self::NoBlockLengths { pid } => write!(
                f,
                "how much of each bank the buffers of process {pid} take isn't known: its allocators take \
                 something else than what is recorded"
            ),
            Self::OutOfMemory(text) => f.write_str(text),
        }
    }
}
