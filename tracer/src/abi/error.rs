use thiserror::Error;

use super::field::Witness;

/// Why a library can't be traced. Nothing is ever guessed: whoever gets one of these has the
/// function's code in hand to see why.
#[derive(Debug, Error)]
pub enum AbiError {
    /// Not an ELF file, or one cut short.
    #[error("not a readable ELF file: {0}")]
    NotElf(#[from] object::Error),

    /// An ELF file for another machine.
    #[error("an ELF file for {found}, but only x86-64 shared libraries can be traced")]
    WrongMachine { found: String },

    /// The symbols that the derivation starts from aren't there.
    #[error(
        "the library lacks {}: its symbols were stripped (.dynsym is needed), or this is no \
         TT-Metal library or a release that this version doesn't know",
        .names.join(", ")
    )]
    MissingSymbols { names: Vec<String> },

    /// A field couldn't be derived from any function.
    #[error(
        "field `{field}` can't be derived: {reason}. Please report this release of TT-Metal with \
         the following code.\n{code}"
    )]
    Underivable {
        field: &'static str,
        reason: String,
        code: String,
    },

    /// Two functions say different things about a field.
    #[error(
        "field `{field}` is in doubt: {}. Please report this release of TT-Metal with the \
         following code.\n{code}",
        .witnesses.iter().map(|w| format!("{} says {}", w.source, w.path)).collect::<Vec<_>>().join(", ")
    )]
    Contradiction {
        field: &'static str,
        witnesses: Vec<Witness>,
        code: String,
    },

    /// No place was found where the probe could go.
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
