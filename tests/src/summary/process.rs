//! The part of a summary that is about one process.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    BankMap, Buffer, Device, DeviceKind, Failure, Leak, LiveBuffer, NonOwning, OriginTotal, Peak,
    ProgramMemory, SinceMark, Temporary, Usage, nullable,
};

#[derive(Debug, Deserialize)]
pub struct ProcessSummary {
    pub pid: u32,
    #[serde(deserialize_with = "nullable")]
    pub parent_pid: Option<u32>,
    pub comm: String,
    pub command_line: Vec<String>,
    pub attached: Attached,
    #[serde(deserialize_with = "nullable")]
    pub exit: Option<Exit>,
    #[serde(deserialize_with = "nullable")]
    pub exited_at_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub library: Option<Library>,
    pub libraries: Vec<Library>,
    pub devices: Vec<DeviceSummary>,
    #[serde(rename = "baseline", deserialize_with = "nullable")]
    pub attach_snapshot: Option<AttachSnapshot>,
    pub live_buffers: Vec<Buffer>,
    pub non_owning: NonOwning,
    pub leaks: Vec<Leak>,
    pub peaks: Vec<Peak>,
    pub temporary: Temporary,
    pub origins: Vec<OriginTotal>,
    #[serde(deserialize_with = "nullable")]
    pub program_memory: Option<ProgramMemory>,
    pub failures: Vec<Failure>,
    pub since_marks: Vec<SinceMark>,
    pub stacks: Vec<Stack>,
    pub bulk_frees: u64,
    pub failed_allocations: u64,
    pub unmatched_deallocations: u64,
    pub implied_deallocations: u64,
    pub hooked_allocations: u64,
    pub events_after_exit: u64,
    pub maps: Vec<BankMap>,
}

/// Whether the tracer was there from the process's first buffer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attached {
    Start,
    Running,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// A TT-Metal library that the process has loaded.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Library {
    pub path: String,
    #[serde(deserialize_with = "nullable")]
    pub build_id: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub release: Option<String>,
    /// Where each field of a buffer lies, by the field's name.
    pub fields: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub struct DeviceSummary {
    pub kind: DeviceKind,
    pub id: u64,
    /// Of a mesh, the ids of its chips.
    pub members: Vec<u64>,
    /// By type of memory.
    pub memory: BTreeMap<String, Usage>,
}

impl DeviceSummary {
    pub fn device(&self) -> Device {
        Device {
            kind: self.kind,
            id: self.id,
        }
    }
}

/// What the process held when the tracer attached.
#[derive(Debug, Deserialize)]
pub struct AttachSnapshot {
    pub buffers: u64,
    pub at_one_moment: bool,
    pub unknown_bytes: u64,
    pub problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Stack {
    pub id: u64,
    /// Innermost first.
    pub frames: Vec<Frame>,
    #[serde(deserialize_with = "nullable")]
    pub broken: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Frame {
    pub kind: FrameKind,
    #[serde(deserialize_with = "nullable")]
    pub function: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub file: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub line: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub module: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub offset: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    Python,
    Native,
}

impl Stack {
    /// The line of the outermost Python frame in a file of that name, which begins with `/`.
    #[track_caller]
    pub fn outermost_line(&self, file: &str) -> u64 {
        let in_file = |frame: &&Frame| {
            frame.kind == FrameKind::Python
                && frame.file.as_ref().is_some_and(|of| of.ends_with(file))
        };
        let frame = self.frames.iter().rfind(in_file);
        let line = frame.and_then(|frame| frame.line);
        line.unwrap_or_else(|| panic!("no line of {file} in {self:#?}"))
    }
}

impl ProcessSummary {
    /// The live owning buffers, sorted.
    pub fn owning(&self) -> Vec<LiveBuffer> {
        let owning = self.live_buffers.iter().filter(|buffer| buffer.owns_data);
        let mut owning: Vec<LiveBuffer> = owning.map(Buffer::live).collect();
        owning.sort();
        owning
    }

    /// The live non-owning buffers, sorted.
    #[track_caller]
    pub fn non_owning(&self) -> Vec<LiveBuffer> {
        let buffers = self.non_owning.buffers.iter();
        let mut live: Vec<LiveBuffer> = buffers
            .inspect(|buffer| assert!(!buffer.owns_data, "{buffer:?}"))
            .map(Buffer::live)
            .collect();
        live.sort();
        live
    }

    /// The whole entry of the live owning buffer at that address.
    #[track_caller]
    pub fn owning_at(&self, address: u64) -> &Buffer {
        self.live_buffers
            .iter()
            .find(|buffer| buffer.address == address)
            .unwrap_or_else(|| panic!("nothing at {address} in {:#?}", self.live_buffers))
    }

    /// What a device has of a type of memory; nothing if the process never used the device.
    #[track_caller]
    pub fn memory(&self, device: Device, buffer_type: &str) -> Usage {
        let Some(entry) = self.devices.iter().find(|entry| entry.device() == device) else {
            return Usage::default();
        };
        let usage = entry.memory.get(buffer_type);
        *usage.unwrap_or_else(|| panic!("no memory of type {buffer_type} in {entry:#?}"))
    }

    /// The ids of the chips that a mesh consists of.
    #[track_caller]
    pub fn members(&self, mesh: u64) -> &[u64] {
        let mesh = Device::mesh(mesh);
        let device = self.devices.iter().find(|entry| entry.device() == mesh);
        let device = device.unwrap_or_else(|| panic!("no {mesh:?} in {:#?}", self.devices));
        &device.members
    }

    /// The first TT-Metal library that the process loaded.
    #[track_caller]
    pub fn library(&self) -> &Library {
        self.library.as_ref().expect("a library")
    }

    /// The stack with that id.
    #[track_caller]
    pub fn stack(&self, id: Option<u64>) -> &Stack {
        let id = id.expect("the id of a stack");
        let stack = self.stacks.iter().find(|stack| stack.id == id);
        stack.unwrap_or_else(|| panic!("no stack {id} among {} stacks", self.stacks.len()))
    }

    /// Panics unless everything that the process held when the tracer attached could be read.
    #[track_caller]
    pub fn expect_whole_snapshot(&self) -> &AttachSnapshot {
        let snapshot = self.attach_snapshot.as_ref();
        let snapshot = snapshot.expect("the attach snapshot");
        assert!(snapshot.problems.is_empty(), "{snapshot:?}");
        assert_eq!(snapshot.unknown_bytes, 0, "{snapshot:?}");
        snapshot
    }

    /// Panics unless the figures add up: on every device, what is live is what was allocated and not freed, and
    /// the listed owning buffers have as many bytes. This holds only for a process that was traced from its start.
    #[track_caller]
    pub fn expect_balanced(&self) -> &Self {
        let owning = self.owning();
        for entry in &self.devices {
            let device = entry.device();
            for (buffer_type, usage) in &entry.memory {
                let context = format!("{device:?} {buffer_type}: {usage:?}");
                let bytes = usage.allocated_bytes - usage.freed_bytes;
                assert_eq!(usage.live_bytes, bytes, "{context}");
                let buffers = usage.allocations - usage.deallocations;
                assert_eq!(usage.live_buffers, buffers, "{context}");
                assert!(usage.peak_bytes >= usage.live_bytes, "{context}");
                assert!(usage.peak_bytes <= usage.allocated_bytes, "{context}");

                // A mesh's buffers lie on each of its members.
                let lies_here = |buffer: &&LiveBuffer| {
                    let on = buffer.device;
                    let by_mesh = device.kind == DeviceKind::Chip
                        && on.kind == DeviceKind::Mesh
                        && self.members(on.id).contains(&device.id);
                    buffer.buffer_type == *buffer_type && (on == device || by_mesh)
                };
                let listed = owning.iter().filter(lies_here);
                let listed: u64 = listed.map(|buffer| buffer.size).sum();
                assert_eq!(usage.live_bytes, listed, "{context}: {owning:?}");
            }
        }
        self
    }
}
