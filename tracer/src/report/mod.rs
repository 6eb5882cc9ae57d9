//! What a user or a program sees of a [`Ledger`](crate::ledger::Ledger): the summary, its JSON, its table,
//! and the lines of the event log. Pure: it opens no files and doesn't know how the facts were gathered.
//!
//! * [`Summary::new`] makes the summary, from the ledger and from [`Facts`]; [`Summary::write_json`] its JSON.
//! * [`Change::new`] compares it with a [`BaselineSummary`], [`check_leaks`] finds processes that leaked.
//! * [`table`] makes the text for a person.
//! * [`EventLine::from_event`] makes the lines of `--events` from one event and its outcome.
//!
//! Data flows from `summary` (the types of the JSON) to `build` (from the ledger to these types), `compare`
//! (with a baseline) and `leaks`, and from there to `text`.

mod build;
mod compare;
mod event_line;
mod frame_label;
mod leaks;
mod summary;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use build::{Facts, ProcessFacts, stacks_since_mark};
pub(crate) use compare::{BaselineError, BaselineSummary};
pub(crate) use event_line::{EventLine, write_line, write_lines};
pub(crate) use leaks::{LeakError, check_leaks};
pub(crate) use summary::{
    AttachSnapshotSummary, Attached, Capacity, Change, Host, Library, Summary, Tool, Untraced,
};
pub(crate) use text::{TableOptions, changes_since_mark, mark_line, out_of_memory, table};
