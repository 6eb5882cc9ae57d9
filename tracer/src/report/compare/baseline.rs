//! The baseline: the summary of an earlier trace, as far as a later one is compared with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::{
    ledger::{BufferType, DeviceKind},
    report::summary::{MemoryGroup, Peak, ProcessSummary, SCHEMA_VERSION, StackSummary, Usage},
};

/// Why a file can't be the baseline, and what the user can do.
#[derive(Debug, Error)]
pub(crate) enum BaselineError {
    /// It isn't JSON, or not complete.
    #[error("{} is no JSON; name a file that `--summary` has written", .path.display())]
    NotJson {
        /// The path as given.
        path: PathBuf,
        /// The position of the error.
        source: serde_json::Error,
    },
    /// It is JSON of another kind.
    #[error("{} is no summary of tt-memtrace; name a file that `--summary` has written", .path.display())]
    NotASummary {
        /// The path as given.
        path: PathBuf,
        /// The field that is missing or wrong.
        source: serde_json::Error,
    },
    /// It is a summary of an unknown version.
    #[error("{} is a summary of version {version}, and only {SCHEMA_VERSION} is known; use the tt-memtrace that wrote it, or a newer one", .path.display())]
    Version {
        /// The path as given.
        path: PathBuf,
        /// The version in the file.
        version: u64,
    },
}

/// The summary of an earlier trace. Fields that were added to version 1 later may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a summary")]
pub(crate) struct BaselineSummary {
    /// The file that it was read from.
    #[serde(skip)]
    pub path: PathBuf,
    pub started_at: String,
    pub(super) processes: Vec<ComparedProcess>,
}

/// What is compared of a process, in the baseline or in this trace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ComparedProcess {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) command_line: Vec<String>,
    pub(super) devices: Vec<ComparedDevice>,
    #[serde(default)]
    pub(super) leaks: Vec<MemoryGroup>,
    #[serde(default)]
    pub(super) peaks: Vec<Peak>,
    #[serde(default)]
    pub(super) stacks: Vec<StackSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ComparedDevice {
    pub(super) kind: DeviceKind,
    pub(super) id: u32,
    pub(super) members: Vec<u32>,
    pub(super) memory: BTreeMap<BufferType, ComparedUsage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct ComparedUsage {
    pub(super) live_bytes: u64,
    pub(super) live_buffers: u64,
    pub(super) peak_bytes: u64,
}

impl BaselineSummary {
    /// Parses the JSON of a summary. `path`: the file that it was read from.
    ///
    /// # Errors
    /// If it isn't a summary, or one of an unknown version.
    pub(crate) fn parse(path: &Path, json: &[u8]) -> Result<Self, BaselineError> {
        let path = path.to_owned();
        let json: serde_json::Value = match serde_json::from_slice(json) {
            Ok(json) => json,
            Err(source) => return Err(BaselineError::NotJson { path, source }),
        };
        // Before the rest: in an unknown version any field may differ.
        let version = json["schema_version"].as_u64();
        if let Some(version) = version.filter(|version| *version != u64::from(SCHEMA_VERSION)) {
            return Err(BaselineError::Version { path, version });
        }
        match (version, serde_json::from_value::<Self>(json)) {
            (Some(_), Ok(summary)) => Ok(Self { path, ..summary }),
            (None, Ok(_)) => {
                let source = serde::de::Error::missing_field("schema_version");
                Err(BaselineError::NotASummary { path, source })
            }
            (_, Err(source)) => Err(BaselineError::NotASummary { path, source }),
        }
    }
}

impl From<&ProcessSummary> for ComparedProcess {
    fn from(process: &ProcessSummary) -> Self {
        let devices = process.devices.iter();
        let leaks = process.leaks.iter();
        Self {
            pid: process.pid,
            comm: process.comm.clone(),
            command_line: process.command_line.clone(),
            devices: devices
                .map(|device| ComparedDevice {
                    kind: device.kind,
                    id: device.id,
                    members: device.members.clone(),
                    memory: device
                        .memory
                        .iter()
                        .map(|(buffer_type, usage)| (buffer_type, usage.into()))
                        .collect(),
                })
                .collect(),
            leaks: leaks.map(|leak| leak.held.clone()).collect(),
            peaks: process.peaks.clone(),
            stacks: process.stacks.clone(),
        }
    }
}

impl From<&Usage> for ComparedUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            live_bytes: usage.live_bytes,
            live_buffers: usage.live_buffers,
            peak_bytes: usage.peak_bytes,
        }
    }
}
