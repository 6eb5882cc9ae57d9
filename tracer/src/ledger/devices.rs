//! The devices of one process, what lies on each, and the member chips of each mesh.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    account::{Account, ByType, Memory},
    composition::Composition,
    event::{BufferType, Device, DeviceKind, Nanoseconds},
    live_buffer::LiveBuffer,
};

/// One device's memory and, for a mesh, its known member chips.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceAccount {
    /// Ids of this mesh's known member chips; empty for a chip.
    pub members: BTreeSet<u32>,
    /// For a chip: all that lies on it, including buffers of its meshes. For a mesh: what lies on *each*
    /// member chip.
    pub memory: Memory,
    /// What `memory` consists of.
    pub composition: ByType<Composition>,
}

/// The devices that have or had buffers. A change on a mesh also changes its member chips' accounts.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices(BTreeMap<Device, DeviceAccount>);

impl Devices {
    pub(super) fn all(&self) -> &BTreeMap<Device, DeviceAccount> {
        &self.0
    }

    /// The same meshes and members, with nothing on them.
    pub(super) fn without_memory(&self) -> Self {
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

    /// Lists a device even if no owning buffer ever lies on it.
    pub(super) fn add(&mut self, device: Device) {
        self.0.entry(device).or_default();
    }

    /// Adds a buffer whose allocation the tracer didn't see.
    pub(super) fn hold(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.grow(live, |account, bytes| account.hold(bytes, at));
    }

    /// Takes a [`hold`](Self::hold) back.
    pub(super) fn release(&mut self, live: &LiveBuffer) {
        self.shrink(live, Account::release);
    }

    /// Adds a buffer that was allocated.
    pub(super) fn allocate(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.grow(live, |account, bytes| account.allocate(bytes, at));
    }

    /// Removes a buffer that ended.
    pub(super) fn free(&mut self, live: &LiveBuffer, at: Nanoseconds) {
        self.shrink(live, |account, bytes| account.free(bytes, at));
    }

    /// Makes a chip a member of a mesh and adds the mesh's account so far to the chip's. Returns whether the
    /// membership is new.
    pub(super) fn add_member(&mut self, mesh: Device, chip: u32) -> bool {
        let account = self.0.entry(mesh).or_default();
        if !account.members.insert(chip) {
            return false;
        }
        // Taken out of the map, because the chip's account in the same map is changed.
        let account = std::mem::take(account);
        let chip = self.0.entry(chip_device(chip)).or_default();
        for buffer_type in BufferType::ALL {
            let peak = chip.memory[buffer_type].merge(&account.memory[buffer_type]);
            chip.composition[buffer_type].merge(&account.composition[buffer_type], peak);
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
        // Taken out of the map, because the members' accounts in the same map are changed.
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
