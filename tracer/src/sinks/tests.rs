//! Sinks, alone and behind a whole session.

mod background;
mod recorded_run;
