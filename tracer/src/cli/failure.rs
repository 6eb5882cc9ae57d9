//! Exit codes, and which failure has which.

use std::{fmt, process::ExitCode};

use crate::{
    abi::AbiError,
    files::WriteError,
    probe::Unsupported,
    report::{BaselineError, LeakError},
    session::{SessionError, causes},
    target::TargetError,
};

/// Why the program ends without having done what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Wrong usage.
    Usage = 2,
    /// No such process, or several.
    Target = 3,
    /// The process has no TT-Metal.
    NoLibrary = 4,
    /// Not enough privilege, or a kernel that can't.
    Host = 5,
    /// A library that can't be traced.
    Library = 6,
    /// A result that can't be written.
    Output = 7,
    /// A process held more memory at its end than it may (`--fail-on-leak`).
    Leak = 8,
    /// A command that can't be started.
    CannotStart = 126,
    /// No such command.
    NoCommand = 127,
}

/// An error with the exit code that it leads to.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: Kind,
    pub error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            error: error.into(),
        }
    }

    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&causes(self.error.as_ref()))
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Self::new(kind_of(&error), error)
    }
}

fn kind_of(error: &TargetError) -> Kind {
    match error {
        TargetError::NotAllowed { .. } => Kind::Host,
        TargetError::File { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Kind::Host
        }
        _ => Kind::Target,
    }
}

impl From<AbiError> for Failure {
    fn from(error: AbiError) -> Self {
        Self::new(Kind::Library, error)
    }
}

impl From<Unsupported> for Failure {
    fn from(error: Unsupported) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            error if error.is_of_library() => Kind::Library,
            SessionError::Target(error) => kind_of(error),
            SessionError::Ended { .. } => Kind::Target,
            SessionError::NoLibrary { .. } | SessionError::StaticallyLinked { .. } => {
                Kind::NoLibrary
            }
            _ => Kind::Host,
        };
        Self::new(kind, error)
    }
}

impl From<BaselineError> for Failure {
    fn from(error: BaselineError) -> Self {
        Self::new(Kind::Usage, error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::new(Kind::Output, error)
    }
}

impl From<LeakError> for Failure {
    fn from(error: LeakError) -> Self {
        Self::new(Kind::Leak, error)
    }
}
