//! Buffers in groups: leaks, peaks, temporary ones, failed allocations, and what has changed.

use serde::Deserialize;

use super::{BankMap, Device, nullable};

/// Buffers of one stack and origin.
#[derive(Debug, Deserialize)]
pub struct Group {
    #[serde(deserialize_with = "nullable")]
    pub stack: Option<u64>,
    pub before_attach: bool,
    pub origin: String,
    pub buffers: u64,
    pub bytes: u64,
}

/// A group, and the device and type of memory that it lies in.
#[derive(Debug, Deserialize)]
pub struct PlacedGroup {
    #[serde(flatten)]
    pub device: Device,
    pub buffer_type: String,
    #[serde(flatten)]
    pub group: Group,
}

/// A number of buffers, and their bytes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Count {
    pub buffers: u64,
    pub bytes: u64,
}

#[derive(Debug, Deserialize)]
pub struct Leak {
    #[serde(flatten)]
    pub placed: PlacedGroup,
    #[serde(deserialize_with = "nullable")]
    pub oldest_age_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub youngest_age_ns: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Peak {
    #[serde(flatten)]
    pub device: Device,
    pub buffer_type: String,
    pub peak_bytes: u64,
    pub peak_at_ns: u64,
    pub groups: Vec<Group>,
}

/// Buffers that were freed with at most `within` other allocations of their process in between.
#[derive(Debug, Deserialize)]
pub struct Temporary {
    pub within: u64,
    pub groups: Vec<PlacedGroup>,
}

#[derive(Debug, Deserialize)]
pub struct OriginTotal {
    pub origin: String,
    pub live_buffers: u64,
    pub live_bytes: u64,
}

/// An allocation that found no room, and what its device held then.
#[derive(Debug, Deserialize)]
pub struct Failure {
    pub buffer_type: String,
    pub at_ns: u64,
    #[serde(deserialize_with = "nullable")]
    pub stack: Option<u64>,
    pub origin: String,
    pub size: u64,
    pub live_bytes: u64,
    pub live_buffers: u64,
    pub largest: Vec<Group>,
    pub rest: Count,
    #[serde(deserialize_with = "nullable")]
    pub free_bytes: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub largest_free_bytes: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub banks: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub free_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub largest_free_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub map: Option<BankMap>,
}

/// A marked moment.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Mark {
    pub number: u64,
    #[serde(deserialize_with = "nullable")]
    pub name: Option<String>,
    pub at_ns: u64,
}

/// What has changed in a process since a mark.
#[derive(Debug, Deserialize)]
pub struct SinceMark {
    pub mark: u64,
    pub memory: Vec<MemorySince>,
    pub new: Vec<PlacedGroup>,
    pub gone: Vec<PlacedGroup>,
}

#[derive(Debug, Deserialize)]
pub struct MemorySince {
    pub buffer_type: String,
    pub then: Count,
    pub now: Count,
}

/// What has changed since the trace that `--baseline` names.
#[derive(Debug, Deserialize)]
pub struct Change {
    pub processes: Vec<ProcessChange>,
}

#[derive(Debug, Deserialize)]
pub struct ProcessChange {
    #[serde(deserialize_with = "nullable")]
    pub pid: Option<u32>,
    pub by_stack: bool,
    pub live: Vec<GroupChange>,
    pub peaks: Vec<GroupChange>,
}

#[derive(Debug, Deserialize)]
pub struct GroupChange {
    pub buffer_type: String,
    /// The frame that names the group, as a person reads it.
    #[serde(rename = "place")]
    pub frame_label: String,
    #[serde(deserialize_with = "nullable")]
    pub stack: Option<u64>,
    pub difference: Difference,
}

/// Positive if there is more now than in the baseline.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Difference {
    pub buffers: i64,
    pub bytes: i64,
}
