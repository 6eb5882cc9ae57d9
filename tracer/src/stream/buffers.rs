//! Buffers: what is captured at their probe points, and the events that the records are decoded to.

use tracer_common::{
    BLOCK_AT, Capture, Condition, Header, MAX_CONDITIONS, MAX_READ_LEN, Read, SENT_AT, stack, wake,
};

use super::{
    devices::Devices,
    fields::Fields,
    plan::{DevicePlan, Guard, Location, PlanError, Planner},
    record::{DecodeError, number},
};
use crate::{
    abi::{Abi, FieldPath, Point, PointKind},
    ledger::{AllocatorPointer, Buffer, BufferType, EventKind, Layout, ObjectPointer, Ownership},
};

/// The offset of the unique id, behind the object.
const UNIQUE_ID_AT: usize = SENT_AT + 8;

/// A probe point of buffers: its capture program, and the locations of the fields in the records.
#[derive(Clone, Debug)]
pub(super) struct BufferPoint {
    pub(super) kind: PointKind,
    pub(super) capture: Capture,
    /// The pointer to the buffer; at a bulk free, to the allocator; at a block, its size.
    object: Location,
    /// `None` if only the object is captured.
    buffer: Option<BufferPlan>,
}

/// The locations of a buffer's fields.
#[derive(Clone, Debug)]
struct BufferPlan {
    size: Location,
    page_size: Location,
    buffer_type: Location,
    layout: Location,
    owns_data: Location,
    allocator: Location,
    hooked: Location,
    address: Location,
    unique_id: Option<Location>,
    device: DevicePlan,
}

impl BufferPoint {
    /// Plans the capture at one probe point. The capture program serves every process that has the library
    /// mapped, at whatever address. `number` comes back in each record.
    ///
    /// # Errors
    /// When the fields are placed so that they can't all be read.
    pub(super) fn new(abi: &Abi, point: &Point, number: u32) -> Result<Self, PlanError> {
        let mut planner = Planner::new(point, number);
        let object = planner.object()?;
        // After a device is closed, its address may become another device's.
        planner.capture.forget = u32::from(point.kind == PointKind::BulkFree);
        let buffer = match point.kind {
            // The fields of a freed buffer were sent at its allocation.
            PointKind::BulkFree | PointKind::Deallocate | PointKind::Block => None,
            // `ProgramPoint` plans these.
            PointKind::LaidOut | PointKind::Dispatched | PointKind::ProgramEnd => None,
            PointKind::Allocate | PointKind::Create | PointKind::Destroy => {
                Some(BufferPlan::new(&mut planner, abi, object)?)
            }
        };
        if let Some(buffer) = &buffer {
            // A free needs no stack. A failed allocation, which shows at its buffer's end, does. A mesh's
            // buffer is followed by one for each member, at the same address.
            let is_word = buffer.address.at.is_multiple_of(8) && buffer.address.width == 8;
            planner.capture.stack = match point.kind {
                PointKind::Allocate if is_word => stack::LEADER,
                PointKind::Create if is_word => stack::FOLLOWER,
                _ => stack::SENT,
            };
            planner.capture.stack_word = buffer.address.at as u32;
        }
        // User space asks an allocator for its state by reading the process's memory, which it must do
        // before the process ends: at the allocator's first allocation, and when it refuses one. A buffer's
        // end is sent whole only if its allocation was refused.
        planner.capture.wake = match point.kind {
            PointKind::Allocate => wake::FIRST,
            PointKind::Destroy if planner.capture.short_on_first != 0 => wake::ALWAYS,
            _ => wake::NEVER,
        };
        Ok(Self {
            kind: point.kind,
            capture: planner.capture,
            object,
            buffer,
        })
    }

    /// The event that a record stands for. `bytes_per_bank` isn't set.
    pub(super) fn event(
        &self,
        fields: &Fields<'_>,
        pid: u32,
        devices: &mut Devices,
    ) -> Result<EventKind, DecodeError> {
        let is_end = !matches!(self.kind, PointKind::Allocate | PointKind::Create);
        match fields.sent.len() {
            8 if is_end => return Ok(self.end(number(fields.sent))),
            len if len == self.capture.sent as usize => {}
            len => return Err(DecodeError::Length(size_of::<Header>() + len)),
        }
        let object = fields.get(&self.object)?;
        let Some(plan) = &self.buffer else {
            return Ok(self.end(object));
        };
        let ownership = match fields.get(&plan.owns_data)? {
            0 => Ownership::NonOwning,
            1 => Ownership::Owning,
            other => return Err(DecodeError::Ownership(other)),
        };
        if self.kind == PointKind::Destroy && ownership == Ownership::NonOwning {
            return Ok(self.end(object));
        }
        let device = devices.read(fields, &plan.device, pid)?;
        let buffer_type = fields.get(&plan.buffer_type)?;
        let buffer = Buffer {
            object: ObjectPointer(object),
            allocator: AllocatorPointer(fields.get(&plan.allocator)?),
            device,
            address: fields.get(&plan.address)?,
            size: fields.get(&plan.size)?,
            page_size: fields.get(&plan.page_size)?,
            buffer_type: BufferType::from_number(buffer_type)
                .ok_or(DecodeError::BufferType(buffer_type))?,
            layout: Layout::from_number(fields.get(&plan.layout)?),
            bytes_per_bank: None,
            unique_id: plan
                .unique_id
                .as_ref()
                .map(|location| fields.get(location))
                .transpose()?,
            ownership,
        };
        Ok(match self.kind {
            // The kernel side sends only owning buffers that never got an address.
            PointKind::Destroy => EventKind::Failed(buffer),
            PointKind::Create => EventKind::Create(buffer),
            _ if fields.get(&plan.hooked)? != 0 => EventKind::Hooked(buffer),
            _ => EventKind::Allocate(buffer),
        })
    }

    /// The event of an end whose record has the object's address alone.
    fn end(&self, object: u64) -> EventKind {
        match self.kind {
            PointKind::BulkFree => EventKind::BulkFree(AllocatorPointer(object)),
            PointKind::Destroy => EventKind::Destroy(ObjectPointer(object)),
            _ => EventKind::Deallocate(ObjectPointer(object)),
        }
    }
}

impl BufferPlan {
    fn new(planner: &mut Planner<'_>, abi: &Abi, object: Location) -> Result<Self, PlanError> {
        let fields = &abi.fields;
        let prefix = &fields.size.path.derefs;
        let mut base = object;
        for deref in prefix {
            base = planner.small(base, *deref, 8)?;
        }
        // All these fields are in one object, and one read copies them, from the first to the last.
        let near = [
            &fields.device.path,
            &fields.size.path,
            &fields.page_size.path,
            &fields.buffer_type.path,
            &fields.layout.path,
            &fields.owns_data.path,
            &fields.allocator.path,
            &fields.status.path,
            &fields.hooked.path,
            &fields.address.path,
        ];
        let start = near.iter().map(|path| path.offset).min().unwrap_or(0) & !7;
        let end = near
            .iter()
            .map(|path| path.offset + i64::from(path.width))
            .max()
            .unwrap_or(0);
        for path in near {
            if path.derefs != *prefix {
                return Err(planner.refuse(path, "it isn't in the object that holds the size"));
            }
            if path.offset + i64::from(path.width) - start > MAX_READ_LEN as i64 {
                return Err(planner.refuse(path, "it is too far from the other fields"));
            }
        }
        let block = planner.read(Read {
            base: base.at as u16,
            to: BLOCK_AT as u16,
            len: (end - start) as u16,
            offset: start,
            ..Read::default()
        })?;
        let needs = base.needs | 1 << block;
        let in_block = |path: &FieldPath| Location {
            at: BLOCK_AT + (path.offset - start) as usize,
            width: path.width,
            needs,
        };
        let owns_data = in_block(&fields.owns_data.path);
        let status = in_block(&fields.status.path);
        if planner.point.kind == PointKind::Destroy {
            // Non-owning buffers are wanted, and of the owning ones those whose allocation failed.
            let conditions: [Condition; MAX_CONDITIONS] = [
                Condition {
                    at: owns_data.at as u16,
                    value: 0,
                },
                Condition {
                    at: status.at as u16,
                    value: u16::from(fields.requested),
                },
            ];
            planner.capture.conditions = conditions;
            planner.capture.condition_count = MAX_CONDITIONS as u32;
            // The end of a non-owning buffer needs the object's address alone.
            planner.capture.short_on_first = u32::from(object.needs == 0);
        }
        planner.capture.condition_after = planner.capture.read_count;
        planner.capture.sent = (BLOCK_AT - SENT_AT) as u32 + (end - start) as u32;

        let device = in_block(&fields.device.path);
        if !device.at.is_multiple_of(8) {
            return Err(planner.refuse(&fields.device.path, "a pointer must be aligned"));
        }
        // The device of a non-owning buffer that ends isn't needed, nor is that of an allocation if it was
        // sent before. Without the vtable, the reads that the vtable guards aren't done either.
        let wanted = if planner.point.kind == PointKind::Destroy {
            Guard::byte(owns_data, 1)
        } else {
            planner.capture.known_by = device.at as u32;
            Guard::unknown()
        };
        let device = planner.device(abi, device, wanted)?;
        let unique_id = match &fields.unique_id {
            // It is of use at allocations. At an end, the object's address says which buffer it is.
            Some(field) if planner.point.kind != PointKind::Destroy => {
                if field.path.derefs != *prefix {
                    return Err(
                        planner.refuse(&field.path, "it isn't in the object that holds the size")
                    );
                }
                let FieldPath { offset, width, .. } = field.path;
                Some(planner.small_at(UNIQUE_ID_AT, base, offset, width, None)?)
            }
            _ => None,
        };
        Ok(Self {
            size: in_block(&fields.size.path),
            page_size: in_block(&fields.page_size.path),
            buffer_type: in_block(&fields.buffer_type.path),
            layout: in_block(&fields.layout.path),
            owns_data,
            allocator: in_block(&fields.allocator.path),
            hooked: in_block(&fields.hooked.path),
            address: in_block(&fields.address.path),
            unique_id,
            device,
        })
    }
}
