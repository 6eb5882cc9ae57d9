//! Exit codes, and which failure has which.

use std::{fmt, process::ExitCode};

use crate::{
    abi::AbiError,
    probe::ProbeError,
    report::{EarlierError, WriteError},
    stream::PlanError,
    target::TargetError,
};

/// Why the program ends without having done what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
pub struct Failure {
    pub kind: Kind,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            error: error.into(),
        }
    }

    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", Deduplicated(&self.error))
    }
}

/// The chain of causes, without those that the one before already tells in full.
struct Deduplicated<'a>(&'a anyhow::Error);

impl fmt::Display for Deduplicated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = String::new();
        for cause in self.0.chain().map(ToString::to_string) {
            if told.contains(&cause) {
                continue;
            }
            if !told.is_empty() {
                told.push_str(": ");
            }
            told.push_str(&cause);
        }
        f.write_str(&told)
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let kind = match &error {
            TargetError::NotAllowed { .. } => Kind::Host,
            TargetError::File { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Kind::Host
            }
            _ => Kind::Target,
        };
        Self::new(kind, error)
    }
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<AbiError> for Failure {
    fn from(error: AbiError) -> Self {
        Self::new(Kind::Library, error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::new(Kind::Library, error)
    }
}

impl From<EarlierError> for Failure {
    fn from(error: EarlierError) -> Self {
        Self::new(Kind::Usage, error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::new(Kind::Output, error)
    }
}
