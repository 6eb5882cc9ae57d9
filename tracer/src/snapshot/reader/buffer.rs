//! Reads a `tt::tt_metal::Buffer` object.

use super::{SnapshotReader, field};
use crate::{
    abi::Field,
    ledger::{AllocatorPointer, Buffer, BufferType, Layout, ObjectPointer, Ownership},
    replay::{Overlay, ReplayError},
};

impl SnapshotReader<'_> {
    /// Reads an object; `None` unless it is a live owning buffer.
    pub(super) fn buffer(
        &self,
        overlay: &mut Overlay<'_>,
        object: u64,
    ) -> Result<Option<Buffer>, ReplayError> {
        let fields = &self.abi.fields;
        let mut get = |of: &Field| field(overlay, object, of);
        let status = get(&fields.status)?;
        let owns_data = get(&fields.owns_data)?;
        let hooked = get(&fields.hooked)?;
        let [
            device,
            allocator,
            address,
            size,
            page_size,
            buffer_type,
            layout,
        ] = [
            &fields.device,
            &fields.allocator,
            &fields.address,
            &fields.size,
            &fields.page_size,
            &fields.buffer_type,
            &fields.layout,
        ]
        .map(&mut get);
        let unique_id = fields.unique_id.as_ref().map(&mut get).transpose()?;
        let (size, page_size) = (size?, page_size?);
        let Some(device) = self.device_at(overlay, device?)? else {
            return Ok(None);
        };
        let Some(buffer_type) = BufferType::from_number(buffer_type?) else {
            return Ok(None);
        };
        let holds_memory = owns_data == 1
            && hooked == 0
            && status == u64::from(self.accessors.allocated)
            && size > 0
            && page_size > 0
            && size.is_multiple_of(page_size);
        Ok(holds_memory.then_some(Buffer {
            object: ObjectPointer(object),
            allocator: AllocatorPointer(allocator?),
            device,
            address: address?,
            size,
            page_size,
            buffer_type,
            layout: Layout::from_number(layout?),
            bytes_per_bank: None,
            unique_id,
            ownership: Ownership::Owning,
        }))
    }
}
