use thiserror::Error;

use crate::target::Unreadable;

/// Why a function's result can't be computed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),

    /// Another thread is in the middle of a change. Trying again may succeed.
    #[error("a lock of the target is held")]
    Locked,

    /// The function throws an exception or aborts.
    #[error("it throws ({function})")]
    Throws { function: String },

    /// The function calls one outside the library that has no stand-in.
    #[error("it calls {function}, which is outside the library")]
    Foreign { function: String },

    /// The function jumps to an address outside the library's code.
    #[error("it jumps to {address:#x}, which isn't code of the library")]
    Outside { address: u64 },

    /// The function executes an instruction that isn't supported.
    #[error("it executes `{instruction}` at {at:#x}, which isn't supported")]
    Unknown { instruction: String, at: u64 },

    /// The function divides by zero, or a quotient overflows.
    #[error("it divides by zero or overflows a division at {at:#x}")]
    Division { at: u64 },

    /// The function takes too many instructions, or too much memory.
    #[error("it doesn't come to an end")]
    Endless,
}

impl ReplayError {
    /// Whether the cause may be that memory was read while the target changed it (a torn read), so that
    /// trying again may succeed.
    pub(crate) fn is_torn(&self) -> bool {
        match self {
            Self::Unreadable(_)
            | Self::Locked
            | Self::Throws { .. }
            | Self::Outside { .. }
            | Self::Division { .. }
            | Self::Endless => true,
            Self::Foreign { .. } | Self::Unknown { .. } => false,
        }
    }
}
