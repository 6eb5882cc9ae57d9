//! Turns field paths into a capture program: few reads, the buffer's object in one block.

use thiserror::Error;
use tracer_common::{
    BLOCK_AT, Capture, Condition, KNOWN_AT, MAX_CONDITIONS, MAX_READ_LEN, MAX_READS, Read, SENT_AT,
    register, stack, wake,
};

use crate::abi::{Abi, FieldPath, Holder, Point, PointKind};

/// Where the unique id is put, behind the object.
const UNIQUE_ID_AT: usize = SENT_AT + 8;
/// Where the device's vtable pointer is put, which tells its class.
const DEVICE_VTABLE_AT: usize = SENT_AT + 16;
/// Where the device's number is put, whatever its class.
const DEVICE_ID_AT: usize = SENT_AT + 24;
const _: () = assert!(DEVICE_ID_AT + 8 <= BLOCK_AT);

/// A library's layout that doesn't fit into a capture program.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("{point}: needs more than the {MAX_READS} reads that a probe can do")]
    TooManyReads { point: String },
    #[error("{point}: field at {path} can't be captured: {reason}")]
    Field {
        point: String,
        path: String,
        reason: &'static str,
    },
}

/// Where in the workspace a field's bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub at: usize,
    pub width: u8,
    /// The reads that must have worked for the bytes to mean anything, as a mask.
    pub needs: u32,
}

/// A capture program, and where it puts what.
#[derive(Clone, Debug)]
pub struct Plan {
    pub capture: Capture,
    /// The pointer to the buffer; at a bulk free, to the allocator; of a block, its size.
    pub object: Location,
    /// Where the fields stand; `None` where the object is all that is captured.
    pub buffer: Option<BufferPlan>,
}

#[derive(Clone, Debug)]
pub struct BufferPlan {
    pub size: Location,
    pub page_size: Location,
    pub buffer_type: Location,
    pub layout: Location,
    pub owns_data: Location,
    pub allocator: Location,
    pub hooked: Location,
    pub address: Location,
    pub unique_id: Option<Location>,
    pub device: DevicePlan,
}

/// Where what tells a device stands.
#[derive(Clone, Debug)]
pub struct DevicePlan {
    /// The pointer to it.
    pub pointer: Location,
    /// Its vtable pointer, less the probed instruction's address; 0 where the device is one that was
    /// sent before.
    pub vtable: Location,
    /// What it is for a `Device`.
    pub chip_vtable: u64,
    /// What it is for a `MeshDevice`.
    pub mesh_vtable: u64,
    pub chip_id: Location,
    pub mesh_id: Location,
}

/// Plans the capture at one probe point, for every process that has the library mapped, wherever the
/// dynamic linker put it; `number` comes back in each record.
///
/// # Errors
/// When the fields lie so that they can't all be read.
pub fn plan(abi: &Abi, point: &Point, number: u32) -> Result<Plan, PlanError> {
    let mut planner = Planner::new(point, number);
    let object = planner.object()?;
    // With a device's closing its address may come to mean another one.
    planner.capture.forget = u32::from(point.kind == PointKind::BulkFree);
    let buffer = match point.kind {
        // The rest of a freed buffer was told at its birth.
        PointKind::BulkFree | PointKind::Deallocate | PointKind::Block => None,
        // Those of programs are planned apart.
        PointKind::LaidOut | PointKind::Dispatched | PointKind::ProgramEnd => None,
        PointKind::Allocate | PointKind::Create | PointKind::Destroy => {
            Some(planner.buffer(abi, object)?)
        }
    };
    if let Some(buffer) = &buffer {
        // Who frees is of no account; a failed allocation is told by its buffer's end. A mesh's buffer
        // is followed by one for each member, at the same address.
        let is_word = buffer.address.at.is_multiple_of(8) && buffer.address.width == 8;
        planner.capture.stack = match point.kind {
            PointKind::Allocate if is_word => stack::LEADER,
            PointKind::Create if is_word => stack::FOLLOWER,
            _ => stack::SENT,
        };
        planner.capture.stack_word = buffer.address.at as u32;
    }
    // What can be learnt of an allocator is learnt from the process's memory, as long as there is one:
    // when it is first heard of, and when it refuses. A buffer's end that isn't short tells of that.
    planner.capture.wake = match point.kind {
        PointKind::Allocate => wake::FIRST,
        PointKind::Destroy if planner.capture.short_on_first != 0 => wake::ALWAYS,
        _ => wake::NEVER,
    };
    Ok(Plan {
        capture: planner.capture,
        object,
        buffer,
    })
}

/// What must stand in the data for a read to be done; the default is that it always is.
#[derive(Clone, Copy, Default)]
pub(super) struct Guard {
    at: u16,
    mask: u64,
    value: u64,
}

impl Guard {
    fn word(location: Location, value: u64) -> Self {
        Self {
            at: location.at as u16,
            mask: u64::MAX,
            value,
        }
    }

    /// The object that `Capture::known_by` points to isn't known.
    fn unknown() -> Self {
        Self {
            at: KNOWN_AT as u16,
            mask: u64::MAX,
            value: 0,
        }
    }

    fn byte(location: Location, value: u8) -> Self {
        let shift = 8 * (location.at % 8);
        Self {
            at: (location.at & !7) as u16,
            mask: 0xff << shift,
            value: u64::from(value) << shift,
        }
    }
}

pub(super) struct Planner<'a> {
    pub point: &'a Point,
    pub capture: Capture,
    next_slot: usize,
}

impl<'a> Planner<'a> {
    pub fn new(point: &'a Point, number: u32) -> Self {
        Self {
            point,
            capture: Capture {
                point: number,
                ..Capture::default()
            },
            // The first two words are the registers'.
            next_slot: 16,
        }
    }

    pub fn read(&mut self, read: Read) -> Result<u32, PlanError> {
        let index = self.capture.read_count;
        let slot =
            self.capture
                .reads
                .get_mut(index as usize)
                .ok_or_else(|| PlanError::TooManyReads {
                    point: self.point.function.clone(),
                })?;
        *slot = read;
        self.capture.read_count += 1;
        Ok(index)
    }

    /// A place of its own for a read of at most 8 bytes.
    fn slot(&mut self) -> Result<usize, PlanError> {
        let at = self.next_slot;
        if at >= KNOWN_AT {
            return Err(PlanError::TooManyReads {
                point: self.point.function.clone(),
            });
        }
        self.next_slot += 8;
        Ok(at)
    }

    fn small(&mut self, from: Location, offset: i64, width: u8) -> Result<Location, PlanError> {
        let at = self.slot()?;
        self.small_at(at, from, offset, width, None)
    }

    fn small_at(
        &mut self,
        at: usize,
        from: Location,
        offset: i64,
        width: u8,
        guard: Option<Guard>,
    ) -> Result<Location, PlanError> {
        self.guarded(at, from, offset, width, guard.unwrap_or_default(), 0)
    }

    fn guarded(
        &mut self,
        at: usize,
        from: Location,
        offset: i64,
        width: u8,
        guard: Guard,
        relative: u64,
    ) -> Result<Location, PlanError> {
        let index = self.read(Read {
            base: from.at as u16,
            to: at as u16,
            len: u16::from(width),
            guard_at: guard.at,
            guard_mask: guard.mask,
            guard: guard.value,
            offset,
            relative,
        })?;
        Ok(Location {
            at,
            width,
            needs: from.needs | 1 << index,
        })
    }

    /// The pointer to the object, from where the probe point has it.
    pub fn object(&mut self) -> Result<Location, PlanError> {
        let mut location = Location {
            at: SENT_AT,
            width: 8,
            needs: 0,
        };
        match self.point.holder {
            Holder::Register(register) => self.capture.register = register,
            Holder::Stack(offset) => {
                self.capture.register = register::RSP;
                let at = if self.point.derefs.is_empty() {
                    SENT_AT
                } else {
                    self.slot()?
                };
                location = self.small_at(at, location, offset, 8, None)?;
            }
        }
        for (i, deref) in self.point.derefs.iter().enumerate() {
            let last = i + 1 == self.point.derefs.len();
            let at = if last { SENT_AT } else { self.slot()? };
            location = self.small_at(at, location, *deref, 8, None)?;
        }
        Ok(location)
    }

    pub fn refuse(&self, path: &FieldPath, reason: &'static str) -> PlanError {
        PlanError::Field {
            point: self.point.function.clone(),
            path: path.to_string(),
            reason,
        }
    }

    fn buffer(&mut self, abi: &Abi, object: Location) -> Result<BufferPlan, PlanError> {
        let fields = &abi.fields;
        let prefix = &fields.size.path.derefs;
        let mut base = object;
        for deref in prefix {
            base = self.small(base, *deref, 8)?;
        }
        // One block from the first field on that lies in the same object.
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
                return Err(self.refuse(path, "it isn't in the object that holds the size"));
            }
            if path.offset + i64::from(path.width) - start > MAX_READ_LEN as i64 {
                return Err(self.refuse(path, "it lies too far from the other fields"));
            }
        }
        let block = self.read(Read {
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
        if self.point.kind == PointKind::Destroy {
            // Of owning buffers only those tell anything whose allocation failed.
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
            self.capture.conditions = conditions;
            self.capture.condition_count = MAX_CONDITIONS as u32;
            // Of non-owning ones, the object is all that is needed.
            self.capture.short_on_first = u32::from(object.needs == 0);
        }
        self.capture.condition_after = self.capture.read_count;
        self.capture.sent = (BLOCK_AT - SENT_AT) as u32 + (end - start) as u32;

        let device = in_block(&fields.device.path);
        if !device.at.is_multiple_of(8) {
            return Err(self.refuse(&fields.device.path, "a pointer must be aligned"));
        }
        // A non-owning buffer's end needs no more than that. Without the vtable, the reads that it
        // guards aren't done either.
        // At a birth, a device that was sent before isn't read again.
        let wanted = if self.point.kind == PointKind::Destroy {
            Guard::byte(owns_data, 1)
        } else {
            self.capture.known_by = device.at as u32;
            Guard::unknown()
        };
        let device = self.device(abi, device, wanted)?;
        let unique_id = match &fields.unique_id {
            // Births are what it serves; an end is told apart by the object's address.
            Some(field) if self.point.kind != PointKind::Destroy => {
                if field.path.derefs != *prefix {
                    return Err(
                        self.refuse(&field.path, "it isn't in the object that holds the size")
                    );
                }
                let FieldPath { offset, width, .. } = field.path;
                Some(self.small_at(UNIQUE_ID_AT, base, offset, width, None)?)
            }
            _ => None,
        };
        Ok(BufferPlan {
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

    /// Which device a pointer is to, as far as `wanted`.
    pub fn device(
        &mut self,
        abi: &Abi,
        pointer: Location,
        wanted: Guard,
    ) -> Result<DevicePlan, PlanError> {
        // From the probed instruction to the vtable it is as far in every process.
        let vtable = self.guarded(DEVICE_VTABLE_AT, pointer, 0, 8, wanted, u64::MAX)?;
        let chip_vtable = abi.chip_vtable.wrapping_sub(self.point.address);
        let mesh_vtable = abi.mesh_vtable.wrapping_sub(self.point.address);
        let (chip, mesh) = (
            Guard::word(vtable, chip_vtable),
            Guard::word(vtable, mesh_vtable),
        );
        Ok(DevicePlan {
            pointer,
            vtable,
            chip_vtable,
            mesh_vtable,
            chip_id: self.device_id(pointer, &abi.fields.chip_id.path, chip)?,
            mesh_id: self.device_id(pointer, &abi.fields.mesh_id.path, mesh)?,
        })
    }

    /// A device's number, read only for devices of one class.
    fn device_id(
        &mut self,
        device: Location,
        path: &FieldPath,
        class: Guard,
    ) -> Result<Location, PlanError> {
        let mut location = device;
        for deref in &path.derefs {
            let at = self.slot()?;
            location = self.small_at(at, location, *deref, 8, Some(class))?;
        }
        self.small_at(DEVICE_ID_AT, location, path.offset, path.width, Some(class))
    }
}
