//! The fields of buffers and devices that records need.

use super::field::Field;

/// Where each field lies that a record needs. A path starts at a `Buffer`'s address unless the field's
/// comment says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub device: Field,
    pub size: Field,
    pub page_size: Field,
    pub buffer_type: Field,
    pub layout: Field,
    pub owns_data: Field,
    pub allocator: Field,
    pub status: Field,
    pub hooked: Field,
    pub address: Field,
    pub unique_id: Option<Field>,
    /// From a `Device`'s address: `Device::id()`.
    pub chip_id: Field,
    /// From a `MeshDevice`'s address: `MeshDevice::id()`.
    pub mesh_id: Field,
    /// The value of `status` of a buffer that has no address yet.
    pub requested: u8,
}

impl Fields {
    /// Every field with its name and the object that its path starts at.
    pub(crate) fn all(&self) -> Vec<(&'static str, &'static str, &Field)> {
        let mut all = vec![
            ("device", "buffer", &self.device),
            ("size", "buffer", &self.size),
            ("page_size", "buffer", &self.page_size),
            ("buffer_type", "buffer", &self.buffer_type),
            ("layout", "buffer", &self.layout),
            ("owns_data", "buffer", &self.owns_data),
            ("allocator", "buffer", &self.allocator),
            ("status", "buffer", &self.status),
            ("hooked", "buffer", &self.hooked),
            ("address", "buffer", &self.address),
        ];
        all.extend(
            self.unique_id
                .as_ref()
                .map(|field| ("unique_id", "buffer", field)),
        );
        all.push(("chip_id", "device", &self.chip_id));
        all.push(("mesh_id", "mesh_device", &self.mesh_id));
        all
    }
}
