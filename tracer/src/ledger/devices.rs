//! The devices of one process, what lies on each, and which chips a mesh consists of.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Account, BufferType, ByType, Composition, Device, DeviceKind, LiveBuffer, Memory, Nanoseconds,
};

/// One device's memory and, for a mesh, its members as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccount {
    /// Ids of the chips that are known to belong to this mesh; empty for a chip.
    pub members: BTreeSet<u32>,
    /// On a chip: all that lies on it, its meshes' buffers included. On a mesh: what lies on *each*
    /// member.
    pub memory: Memory,
    /// Of what `memory` consists.
    pub composition: ByType<Composition>,
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
                    let account = DeviceAccount {
                        members: account.members.clone(),
                        ..DeviceAccount::default()
                    };
                    (*device, account)
                })
                .collect(),
        )
    }

    /// Lists the device, even if nothing ever lies on it.
    pub fn note(&mut self, device: Device) {
        self.0.entry(device).or_default();
    }

    pub fn hold(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.grow(live, |account, bytes| account.hold(bytes, at));
    }

    pub fn release(&mut self, live: &LiveBuffer) {
        self.shrink(live, Account::release);
    }

    pub fn allocate(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.grow(live, |account, bytes| account.allocate(bytes, at));
    }

    pub fn free(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.shrink(live, |account, bytes| account.free(bytes, at));
    }

    /// Makes the chip a member of the mesh, and the mesh's account so far part of the chip's.
    /// Says whether that is new.
    pub fn join(&mut self, mesh: Device, chip: u32) -> bool {
        let account = self.0.entry(mesh).or_default();
        if !account.members.insert(chip) {
            return false;
        }
        // Taken out while the chip's account, in the same map, is written to.
        let account = std::mem::take(account);
        let chip = self.0.entry(chip_device(chip)).or_default();
        for buffer_type in BufferType::ALL {
            let peak = chip.memory[buffer_type].take_over(&account.memory[buffer_type]);
            chip.composition[buffer_type].take_over(&account.composition[buffer_type], peak);
        }
        self.0.insert(mesh, account);
        true
    }

    fn grow(&mut self, live: &LiveBuffer, change: impl Fn(&mut Account, u64) -> bool) {
        let (source, bytes) = (live.source(), live.buffer.size);
        self.change(live, |account, composition| {
            let maximum = change(account, bytes);
            composition.add(source, bytes, maximum);
        });
    }

    fn shrink(&mut self, live: &LiveBuffer, change: impl Fn(&mut Account, u64)) {
        let (source, bytes) = (live.source(), live.buffer.size);
        self.change(live, |account, composition| {
            change(account, bytes);
            composition.remove(source, bytes);
        });
    }

    fn change(&mut self, live: &LiveBuffer, change: impl Fn(&mut Account, &mut Composition)) {
        let (device, buffer_type) = (live.buffer.device, live.buffer.buffer_type);
        let change = |account: &mut DeviceAccount| {
            change(
                &mut account.memory[buffer_type],
                &mut account.composition[buffer_type],
            );
        };
        let account = self.0.entry(device).or_default();
        change(account);
        if account.members.is_empty() {
            return;
        }
        // Taken out while the members' accounts, in the same map, are written to.
        let members = std::mem::take(&mut account.members);
        for &chip in &members {
            change(self.0.entry(chip_device(chip)).or_default());
        }
        self.0.entry(device).or_default().members = members;
    }
}

fn chip_device(id: u32) -> Device {
    Device {
        kind: DeviceKind::Chip,
        id,
    }
}
