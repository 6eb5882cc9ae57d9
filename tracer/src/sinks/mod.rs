//! What listens to a session.
//!
//! * [`Accounts`]: the ledger, and what is known of each process besides.
//! * [`EventLog`]: a line for each event, once the ledger has said what the event did.
//! * [`Background`]: puts a sink into a thread of its own, so that it can't slow the draining.

mod accounts;
mod background;
mod event_log;
mod listener;
#[cfg(test)]
mod tests;

pub(crate) use accounts::{Accounts, Closed};
pub(crate) use background::Background;
pub(crate) use event_log::EventLog;
pub(crate) use listener::{Listener, MarkText};
