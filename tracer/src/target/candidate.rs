use std::fmt;

use super::Identity;

/// A process that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub identity: Identity,
    /// Whether it has TT-Metal loaded. `None`: this user isn't allowed to know.
    pub has_library: Option<bool>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let library = match self.has_library {
            Some(true) => "has TT-Metal loaded",
            Some(false) => "without TT-Metal",
            None => "can't be looked at",
        };
        let command: String = self
            .identity
            .command_line
            .join(" ")
            .chars()
            .take(80)
            .collect();
        write!(f, "  {:>8}  {library:<19}  {command}", self.identity.pid)
    }
}
