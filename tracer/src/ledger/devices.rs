//! The devices of one process, what lies on each, and which chips a mesh consists of.

use std::collections::{BTreeMap, BTreeSet};

use super::{Account, Buffer, Device, DeviceKind, Memory, Nanoseconds};

/// One device's memory and, for a mesh, its members as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccount {
    /// Ids of the chips that are known to belong to this mesh; empty for a chip.
    pub members: BTreeSet<u32>,
    /// On a chip: all that lies on it, its meshes' buffers included. On a mesh: what lies on *each*
    /// member.
    pub memory: Memory,
}

/// The devices that buffers were made on. A mesh's changes reach its members' accounts too.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices(BTreeMap<Device, DeviceAccount>);

impl Devices {
    pub fn all(&self) -> &BTreeMap<Device, DeviceAccount> {
        &self.0
    }

    /// The meshes and their members, with nothing on them.
    pub fn without_memory(&self) -> Self {
        let meshes = self
            .0
            .iter()
            .filter(|(_, account)| !account.members.is_empty());
        Self(
            meshes
                .map(|(device, account)| {
                    let members = account.members.clone();
                    let memory = Memory::default();
                    (*device, DeviceAccount { members, memory })
                })
                .collect(),
        )
    }

    /// Lists the device, even if nothing ever lies on it.
    pub fn note(&mut self, device: Device) {
        self.0.entry(device).or_default();
    }

    pub fn hold(&mut self, buffer: &Buffer, at: Nanoseconds) {
        self.change(buffer, |account| account.hold(buffer.size, at));
    }

    pub fn release(&mut self, buffer: &Buffer) {
        self.change(buffer, |account| account.release(buffer.size));
    }

    pub fn allocate(&mut self, buffer: &Buffer, at: Nanoseconds) {
        self.change(buffer, |account| account.allocate(buffer.size, at));
    }

    pub fn free(&mut self, buffer: &Buffer, at: Nanoseconds) {
        self.change(buffer, |account| account.free(buffer.size, at));
    }

    /// Makes the chip a member of the mesh, and the mesh's account so far part of the chip's.
    /// Says whether that is new.
    pub fn join(&mut self, mesh: Device, chip: u32) -> bool {
        let account = self.0.entry(mesh).or_default();
        if !account.members.insert(chip) {
            return false;
        }
        let memory = account.memory;
        self.0
            .entry(chip_device(chip))
            .or_default()
            .memory
            .take_over(&memory);
        true
    }

    fn change(&mut self, buffer: &Buffer, change: impl Fn(&mut Account)) {
        let account = self.0.entry(buffer.device).or_default();
        change(&mut account.memory[buffer.buffer_type]);
        if account.members.is_empty() {
            return;
        }
        // Taken out while the members' accounts, in the same map, are written to.
        let members = std::mem::take(&mut account.members);
        for &chip in &members {
            change(&mut self.0.entry(chip_device(chip)).or_default().memory[buffer.buffer_type]);
        }
        self.0.entry(buffer.device).or_default().members = members;
    }
}

fn chip_device(id: u32) -> Device {
    Device {
        kind: DeviceKind::Chip,
        id,
    }
}
