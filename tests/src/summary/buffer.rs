//! Buffers and the devices that they lie on.

use serde::Deserialize;
use serde_json::Value;

use super::nullable;
use crate::{text, unsigned};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Chip,
    Mesh,
}

/// A device. TT-Metal numbers meshes and chips apart, so an id alone does not name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Device {
    #[serde(rename = "device_kind")]
    pub kind: DeviceKind,
    #[serde(rename = "device_id")]
    pub id: u64,
}

impl Device {
    pub const fn mesh(id: u64) -> Self {
        Self {
            kind: DeviceKind::Mesh,
            id,
        }
    }

    pub const fn chip(id: u64) -> Self {
        Self {
            kind: DeviceKind::Chip,
            id,
        }
    }

    /// The device that an event or an answer names, by its kind in the field `kind` and its id in `device_id`.
    #[track_caller]
    pub fn from_json(value: &Value, kind: &str) -> Self {
        let id = unsigned(value, "device_id");
        match text(value, kind) {
            "mesh" => Self::mesh(id),
            "chip" => Self::chip(id),
            other => panic!("no kind of device: `{other}` in {value}"),
        }
    }
}

/// An entry of `live_buffers`, or of a process's non-owning buffers.
#[derive(Debug, Deserialize)]
pub struct Buffer {
    #[serde(flatten)]
    pub device: Device,
    pub buffer_type: String,
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub layout: String,
    #[serde(deserialize_with = "nullable")]
    pub bytes_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub unique_id: Option<u64>,
    pub owns_data: bool,
    pub before_attach: bool,
    #[serde(deserialize_with = "nullable")]
    pub allocated_at_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub stack: Option<u64>,
    pub origin: String,
}

impl Buffer {
    /// What distinguishes the buffer from all others.
    pub fn live(&self) -> LiveBuffer {
        LiveBuffer {
            device: self.device,
            buffer_type: self.buffer_type.clone(),
            address: self.address,
            size: self.size,
        }
    }
}

/// A live buffer, by what distinguishes it from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveBuffer {
    pub device: Device,
    pub buffer_type: String,
    pub address: u64,
    pub size: u64,
}

impl LiveBuffer {
    /// A buffer as the C++ target describes it, on the device of that kind.
    #[track_caller]
    pub fn from_answer(kind: DeviceKind, answer: &Value) -> Self {
        Self {
            device: Device {
                kind,
                id: unsigned(answer, "device_id"),
            },
            buffer_type: text(answer, "buffer_type").to_owned(),
            address: unsigned(answer, "address"),
            size: unsigned(answer, "size"),
        }
    }

    /// A buffer of the C++ target on a mesh.
    #[track_caller]
    pub fn on_mesh(answer: &Value) -> Self {
        Self::from_answer(DeviceKind::Mesh, answer)
    }

    /// A buffer of the C++ target on a chip.
    #[track_caller]
    pub fn on_chip(answer: &Value) -> Self {
        Self::from_answer(DeviceKind::Chip, answer)
    }

    /// The C++ target's answer to `live`: the allocators' own list of owning buffers, sorted.
    #[track_caller]
    pub fn listed(answer: &Value) -> Vec<Self> {
        let mut listed: Vec<Self> = crate::list(answer, "live")
            .iter()
            .map(|buffer| Self::from_answer(Device::from_json(buffer, "kind").kind, buffer))
            .collect();
        listed.sort();
        listed
    }
}

/// The buffers that hold no memory.
#[derive(Debug, Deserialize)]
pub struct NonOwning {
    pub live: u64,
    pub created: u64,
    pub destroyed: u64,
    pub unmatched_destroys: u64,
    pub buffers: Vec<Buffer>,
}
