use thiserror::Error;

/// Memory of the target that can't be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the target's memory at {address:#x} can't be read")]
pub struct Unreadable {
    pub address: u64,
}

/// Why a function's answer can't be had.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),

    /// Another thread is in the middle of a change: worth another try.
    #[error("a lock of the target is held")]
    Locked,

    #[error("it throws ({function})")]
    Throws { function: String },

    #[error("it calls {function}, which isn't the library's own")]
    Foreign { function: String },

    #[error("it goes to {address:#x}, which isn't the library's code")]
    Outside { address: u64 },

    #[error("it executes `{instruction}` at {at:#x}, which isn't understood")]
    Unknown { instruction: String, at: u64 },

    #[error("it divides by zero or overflows a division at {at:#x}")]
    Division { at: u64 },

    #[error("it doesn't come to an end")]
    Endless,
}

impl ReplayError {
    /// Whether the state that was read may have been half of one and half of the next, so that
    /// another try may succeed.
    pub fn is_torn(&self) -> bool {
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
