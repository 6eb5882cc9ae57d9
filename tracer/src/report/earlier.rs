//! A summary that was written earlier, as far as a later one is compared with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::{Peak, PlacedGroup, ProcessSummary, SCHEMA_VERSION, StackSummary, Usage};
use crate::ledger::{BufferType, DeviceKind};

/// Why a file can't be compared with, and what to do.
#[derive(Debug, Error)]
pub enum EarlierError {
    /// It can't be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It isn't JSON, or not all of it.
    #[error("{} is no JSON; name a file that `--summary` has written", .path.display())]
    NotJson {
        /// The path as given.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// It is JSON of another kind.
    #[error("{} is no summary of tt-memtrace; name a file that `--summary` has written", .path.display())]
    NotASummary {
        /// The path as given.
        path: PathBuf,
        /// What is missing or wrong.
        source: serde_json::Error,
    },
    /// It is of a version that isn't known.
    #[error("{} is a summary of version {version}, and only {SCHEMA_VERSION} is known; use the tt-memtrace that wrote it, or a newer one", .path.display())]
    Version {
        /// The path as given.
        path: PathBuf,
        /// What it says.
        version: u64,
    },
}

/// A summary that was written earlier. Fields that came to version 1 later may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a summary")]
pub struct Earlier {
    /// Where it was read.
    #[serde(skip)]
    pub path: PathBuf,
    pub started_at: String,
    pub(super) processes: Vec<EarlierProcess>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct EarlierProcess {
    pub pid: u32,
    pub comm: String,
    pub command_line: Vec<String>,
    pub devices: Vec<EarlierDevice>,
    #[serde(default)]
    pub leaks: Vec<PlacedGroup>,
    #[serde(default)]
    pub peaks: Vec<Peak>,
    #[serde(default)]
    pub stacks: Vec<StackSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct EarlierDevice {
    pub kind: DeviceKind,
    pub id: u32,
    pub members: Vec<u32>,
    pub memory: BTreeMap<BufferType, EarlierUsage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct EarlierUsage {
    pub live_bytes: u64,
    pub live_buffers: u64,
    pub peak_bytes: u64,
}

impl Earlier {
    /// Reads a summary.
    ///
    /// # Errors
    /// When it isn't one, or of a version that isn't known.
    pub fn read(path: &Path) -> Result<Self, EarlierError> {
        let path = path.to_owned();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => return Err(EarlierError::Io { path, source }),
        };
        let json: serde_json::Value = match serde_json::from_reader(BufReader::new(file)) {
            Ok(json) => json,
            Err(error) if error.is_io() => {
                let source = error.into();
                return Err(EarlierError::Io { path, source });
            }
            Err(source) => return Err(EarlierError::NotJson { path, source }),
        };
        // Before the rest: of a version that isn't known anything may differ.
        let version = json["schema_version"].as_u64();
        if let Some(version) = version.filter(|version| *version != u64::from(SCHEMA_VERSION)) {
            return Err(EarlierError::Version { path, version });
        }
        match (version, serde_json::from_value::<Self>(json)) {
            (Some(_), Ok(earlier)) => Ok(Self { path, ..earlier }),
            (None, Ok(_)) => {
                let source = serde::de::Error::missing_field("schema_version");
                Err(EarlierError::NotASummary { path, source })
            }
            (_, Err(source)) => Err(EarlierError::NotASummary { path, source }),
        }
    }
}

impl EarlierProcess {
    /// What an end would have left behind of the application's.
    pub fn may_leak_bytes(&self) -> u64 {
        let groups = self.leaks.iter().map(|placed| &placed.group);
        groups
            .filter(|group| group.origin.may_leak())
            .fold(0, |sum, group| sum.saturating_add(group.bytes))
    }
}

impl From<&ProcessSummary> for EarlierProcess {
    fn from(process: &ProcessSummary) -> Self {
        let devices = process.devices.iter();
        let leaks = process.leaks.iter();
        Self {
            pid: process.pid,
            comm: process.comm.clone(),
            command_line: process.command_line.clone(),
            devices: devices
                .map(|device| EarlierDevice {
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
            leaks: leaks.map(|leak| leak.placed.clone()).collect(),
            peaks: process.peaks.clone(),
            stacks: process.stacks.clone(),
        }
    }
}

impl From<&Usage> for EarlierUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            live_bytes: usage.live_bytes,
            live_buffers: usage.live_buffers,
            peak_bytes: usage.peak_bytes,
        }
    }
}
