//! What a person or a program gets to see of a [`Ledger`](crate::ledger::Ledger): the summary, its
//! JSON, its table, and the lines of the event log. None of it knows how the facts were gathered.
//!
//! * [`Summary::new`] makes the summary, from the ledger and from [`Facts`] that others supply.
//! * [`check_writable`] tells before the trace begins whether its result will find a place;
//!   [`write_json`] writes it there, whole or not at all.
//! * [`table`] shows it to a person.
//! * [`EventLine::all`] makes the lines of `--events` from one event and what it did.

mod bars;
mod build;
mod by_stack;
mod change;
mod change_text;
mod destination;
mod earlier;
mod grouping;
mod line;
mod maps;
mod place;
mod program_memory;
mod programs_table;
mod sections;
mod since;
mod since_text;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use build::{Facts, ProcessFacts};
pub use by_stack::{Failure, Group, Leak, OriginTotal, Peak, PlacedGroup, StackSummary, Temporary};
pub use change::{Change, Compared, Difference, GroupChange, Memory, MemoryChange, ProcessChange};
pub use destination::{WriteError, check_writable, open_lines, write_json, write_json_to};
pub use earlier::{Earlier, EarlierError};
pub use line::{BufferDetail, Detail, EventLine, EventName, Note, write_line, write_lines};
pub use maps::{Block, BlockBuffer, MapSummary, RoomSummary};
pub use program_memory::{
    CoreSummary, DevicePrograms, ProgramBufferSummary, ProgramMemory, ProgramSummary,
    RegionsSummary, SemaphoreSummary,
};
pub use sections::out_of_memory;
pub use since::{MarkSummary, MemorySince, SinceMark};
pub use since_text::{changed_since, mark_set, stacks_since};
pub use summary::{
    Attached, Baseline, BufferSummary, Capacity, DeviceSummary, Events, Host, Library,
    MemorySummary, NonOwning, ProcessSummary, SCHEMA_VERSION, Summary, Tool, Untraced, Usage,
};
pub use table::{TableOptions, table};
