//! The summary that `tt-memtrace` wrote, with a type for each part of it that a test reads.
//!
//! A field that no test reads is not declared here, and is ignored. A declared field that is missing, also one that
//! may be `null`, is an error that names the field.

mod bank;
mod buffer;
mod process;
mod program;
mod report;

use std::path::Path;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::workspace;

pub use bank::{BankMap, Block, BlockBuffer, Capacity, Usage};
pub use buffer::{Buffer, Device, DeviceKind, LiveBuffer, NonOwning};
pub use process::{
    AttachSnapshot, Attached, DeviceSummary, Exit, Frame, FrameKind, Library as LoadedLibrary,
    ProcessSummary, Stack,
};
pub use program::{
    Core, CoreCoordinates, CoreRange, DevicePrograms, Program, ProgramBuffer, ProgramMemory,
    ProgramRegions, Range,
};
pub use report::{
    Change, Count, Difference, Failure, Group, GroupChange, Leak, Mark, MemorySince, OriginTotal,
    Peak, PlacedGroup, ProcessChange, SinceMark, Temporary,
};

/// A summary that is valid by `schemas/summary-v1.schema.json`.
#[derive(Debug, Deserialize)]
pub struct Summary {
    pub duration_ns: u64,
    pub events: EventCounts,
    pub marks: Vec<Mark>,
    pub processes: Vec<ProcessSummary>,
    #[serde(deserialize_with = "nullable")]
    pub change: Option<Change>,
}

/// How complete the trace is.
#[derive(Debug, Deserialize)]
pub struct EventCounts {
    pub received: u64,
    pub lost: u64,
    pub stacks_skipped: u64,
    pub exact: bool,
}

impl Summary {
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text)
    }

    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let summary: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
        let errors: Vec<String> = schema()
            .iter_errors(&summary)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}\n{summary:#}", errors.join("\n"));
        // From the text again: its errors name the line and the column.
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}\n{summary:#}"))
    }

    /// The process with that pid.
    #[track_caller]
    pub fn process(&self, pid: u32) -> &ProcessSummary {
        self.processes
            .iter()
            .find(|process| process.pid == pid)
            .unwrap_or_else(|| panic!("no process {pid} in {self:#?}"))
    }

    /// The only process.
    #[track_caller]
    pub fn only_process(&self) -> &ProcessSummary {
        let [process] = &self.processes[..] else {
            panic!("not exactly one process: {self:#?}");
        };
        process
    }

    /// Panics if an event was lost.
    #[track_caller]
    pub fn expect_complete(&self) -> &Self {
        assert_eq!(self.events.lost, 0, "{:?}", self.events);
        self
    }
}

/// A field that may be `null`. Without this, serde would take a missing field for `null`.
pub(crate) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

fn schema() -> &'static Validator {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = workspace().join("schemas/summary-v1.schema.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let schema = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        jsonschema::validator_for(&schema)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}
