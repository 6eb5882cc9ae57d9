use thiserror::Error;

use super::field::Evidence;

/// Why a library can't be traced. Nothing is guessed: an error about a field or a probe point comes with
/// the code of the functions in question.
#[derive(Debug, Error)]
pub(crate) enum AbiError {
    /// The file isn't an ELF file, or it is truncated.
    #[error("not a readable ELF file: {0}")]
    NotElf(#[from] object::Error),

    /// The ELF file is for another machine.
    #[error("an ELF file for {found}, but only x86-64 shared libraries can be traced")]
    WrongMachine { found: String },

    /// The library lacks symbols that the derivation starts from.
    #[error(
        "the library lacks {}: its symbols were stripped (.dynsym is needed), it isn't a TT-Metal \
         library, or this version of tt-memtrace doesn't support its release",
        .names.join(", ")
    )]
    MissingSymbols { names: Vec<String> },

    /// No function shows where a field lies.
    #[error(
        "field `{field}` can't be derived: {reason}. Please report this release of TT-Metal with \
         the following code.\n{code}"
    )]
    Underivable {
        field: &'static str,
        reason: String,
        code: String,
    },

    /// Functions disagree on where a field lies.
    #[error(
        "field `{field}` is in doubt: {}. Please report this release of TT-Metal with the \
         following code.\n{code}",
        .evidence.iter().map(|one| format!("{} says {}", one.source, one.path)).collect::<Vec<_>>().join(", ")
    )]
    Contradiction {
        field: &'static str,
        evidence: Vec<Evidence>,
        code: String,
    },

    /// A function has no instruction that can be probed.
    #[error(
        "no place for a probe in {function}: {reason}. Please report this release of TT-Metal with \
         the following code.\n{code}"
    )]
    NoProbePoint {
        function: String,
        reason: String,
        code: String,
    },
}
