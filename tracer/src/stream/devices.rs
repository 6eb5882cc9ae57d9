//! The devices that records have described.

use std::collections::HashMap;

use super::{fields::Fields, plan::DevicePlan, record::DecodeError};
use crate::ledger::{Device, DeviceKind};

/// The devices that records have described, by process and address. The kernel side sends only the address
/// of a device that it has sent before.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<(u32, u64), Device>);

impl Devices {
    /// The device that a record is about.
    pub(super) fn read(
        &mut self,
        fields: &Fields<'_>,
        plan: &DevicePlan,
        pid: u32,
    ) -> Result<Device, DecodeError> {
        let key = (pid, fields.get(&plan.pointer)?);
        let vtable = fields.get(&plan.vtable)?;
        let (kind, id) = if vtable == plan.chip_vtable {
            (DeviceKind::Chip, &plan.chip_id)
        } else if vtable == plan.mesh_vtable {
            (DeviceKind::Mesh, &plan.mesh_id)
        } else {
            let sent_before = self.0.get(&key).filter(|_| vtable == 0);
            return sent_before.copied().ok_or(DecodeError::Device(vtable));
        };
        let id = fields.get(id)? as u32;
        let device = Device { kind, id };
        self.0.insert(key, device);
        Ok(device)
    }

    /// The addresses of the objects that stand for a device in a process, as far as records had them.
    pub(super) fn pointers_to(&self, pid: u32, device: Device) -> impl Iterator<Item = u64> {
        let all = self.0.iter();
        all.filter(move |((owner, _), other)| *owner == pid && **other == device)
            .map(|((_, pointer), _)| *pointer)
    }

    /// Removes a process's devices.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|(owner, _), _| *owner != pid);
    }
}
