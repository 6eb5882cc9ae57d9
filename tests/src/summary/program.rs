//! What programs take of L1.

use serde::Deserialize;

use super::{Device, DeviceKind, nullable};

#[derive(Debug, Deserialize)]
pub struct ProgramMemory {
    pub devices: Vec<DevicePrograms>,
    pub programs: Vec<Program>,
    pub laid_out: u64,
    pub dispatches: u64,
    pub ended: u64,
    pub incomplete: u64,
    pub unknown_dispatches: u64,
}

/// What programs take of one device.
#[derive(Debug, Deserialize)]
pub struct DevicePrograms {
    #[serde(flatten)]
    pub device: Device,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub peak_at_ns: u64,
    pub laid_out_programs: u64,
    pub laid_out_bytes: u64,
    pub laid_out_circular_buffer_bytes: u64,
    pub cores: Vec<Core>,
}

/// What lies on one core for programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Core {
    pub x: u64,
    pub y: u64,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    #[serde(deserialize_with = "nullable")]
    pub program: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Program {
    pub number: u64,
    pub id: u64,
    #[serde(deserialize_with = "nullable")]
    pub device_kind: Option<DeviceKind>,
    #[serde(deserialize_with = "nullable")]
    pub device_id: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub operation: Option<String>,
    pub dispatches: u64,
    pub bytes: u64,
    pub cores: u64,
    pub regions: Vec<ProgramRegions>,
    #[serde(deserialize_with = "nullable")]
    pub buffers: Option<Vec<ProgramBuffer>>,
    pub complete: bool,
}

impl Program {
    /// Its circular and dataflow buffers.
    #[track_caller]
    pub fn buffers(&self) -> &[ProgramBuffer] {
        let buffers = self.buffers.as_deref();
        buffers.unwrap_or_else(|| panic!("the buffers are not known: {self:#?}"))
    }
}

/// Addresses that a program takes on each core of a range.
#[derive(Debug, Deserialize)]
pub struct ProgramRegions {
    pub cores: CoreRange,
    pub ranges: Vec<Range>,
}

/// Addresses from the first byte to the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Range {
    pub begin: u64,
    pub end: u64,
}

#[derive(Debug, Deserialize)]
pub struct ProgramBuffer {
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub address: Option<u64>,
    pub size: u64,
    pub cores: Vec<CoreRange>,
    pub backing: String,
}

/// A rectangle of cores, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct CoreRange {
    pub start: CoreCoordinates,
    pub end: CoreCoordinates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct CoreCoordinates {
    pub x: u64,
    pub y: u64,
}
