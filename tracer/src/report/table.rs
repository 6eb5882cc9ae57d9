//! The summary as a person reads it.

use super::Summary;

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// Whether ANSI colours may be used.
    pub colour: bool,
    /// The number of columns to stay within; `None` for as wide as it gets.
    pub width: Option<u16>,
}

/// The summary as lines of text, the last one ended too.
pub fn table(summary: &Summary, options: TableOptions) -> String {
    let _ = (summary, options);
    String::new()
}
