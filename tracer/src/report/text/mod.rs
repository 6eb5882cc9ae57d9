//! The summary as text for a person.

mod baseline_change;
mod device_table;
mod format;
mod labels;
mod mark_change;
mod notes;
mod occupancy_bars;
mod options;
mod out_of_memory;
mod programs;
mod rows;
mod sections;
mod table;

pub(crate) use mark_change::{changes_since_mark, mark_line};
pub(crate) use options::TableOptions;
pub(crate) use out_of_memory::out_of_memory;
pub(crate) use table::table;
