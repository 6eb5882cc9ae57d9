//! How text for a person is drawn.

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableOptions {
    /// Whether ANSI colours and bold type may be used.
    pub colour: bool,
    /// The number of columns that the table may take; `None` if there is no limit.
    pub width: Option<u16>,
}
