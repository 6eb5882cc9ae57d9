//! Builds a capture program from field paths, read by read.

use thiserror::Error;
use tracer_common::{BLOCK_AT, Capture, KNOWN_AT, MAX_READS, Read, SENT_AT, register};

use crate::abi::{Abi, FieldPath, Holder, Point};

/// The offset of the device's vtable pointer, which shows the device's class.
const DEVICE_VTABLE_AT: usize = SENT_AT + 16;
/// The offset of the device's number, for both classes.
const DEVICE_ID_AT: usize = SENT_AT + 24;
const _: () = assert!(DEVICE_ID_AT + 8 <= BLOCK_AT);

/// Fields that a capture program can't read.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("{point}: needs more than the {MAX_READS} reads that a probe can do")]
    TooManyReads { point: String },
    #[error("{point}: the field at {path} can't be captured: {reason}")]
    Field {
        point: String,
        path: String,
        reason: &'static str,
    },
}

/// The location of a field in the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) at: usize,
    pub(super) width: u8,
    /// The reads that must have succeeded for the bytes to be valid, as a mask.
    pub(super) needs: u32,
}

/// The locations of a device's fields.
#[derive(Clone, Debug)]
pub(super) struct DevicePlan {
    /// The pointer to it.
    pub(super) pointer: Location,
    /// Its vtable pointer, less the probed instruction's address; 0 if the device was sent before.
    pub(super) vtable: Location,
    /// The value of `vtable` for a `Device`.
    pub(super) chip_vtable: u64,
    /// The value of `vtable` for a `MeshDevice`.
    pub(super) mesh_vtable: u64,
    pub(super) chip_id: Location,
    pub(super) mesh_id: Location,
}

/// The value in the workspace that a read depends on. With the default, the read is always done.
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
    pub(super) fn unknown() -> Self {
        Self {
            at: KNOWN_AT as u16,
            mask: u64::MAX,
            value: 0,
        }
    }

    pub(super) fn byte(location: Location, value: u8) -> Self {
        let shift = 8 * (location.at % 8);
        Self {
            at: (location.at & !7) as u16,
            mask: 0xff << shift,
            value: u64::from(value) << shift,
        }
    }
}

/// A capture program that is being built.
pub(super) struct Planner<'a> {
    pub(super) point: &'a Point,
    pub(super) capture: Capture,
    next_slot: usize,
}

impl<'a> Planner<'a> {
    pub(super) fn new(point: &'a Point, number: u32) -> Self {
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

    /// Adds a read, and returns its index.
    pub(super) fn read(&mut self, read: Read) -> Result<u32, PlanError> {
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

    /// An unused word of the workspace.
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

    /// Reads at most 8 bytes into an unused word.
    pub(super) fn small(
        &mut self,
        from: Location,
        offset: i64,
        width: u8,
    ) -> Result<Location, PlanError> {
        let at = self.slot()?;
        self.small_at(at, from, offset, width, None)
    }

    /// Reads at most 8 bytes to `at`.
    pub(super) fn small_at(
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

    /// Reads the pointer to the object, from the register or the stack.
    pub(super) fn object(&mut self) -> Result<Location, PlanError> {
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

    pub(super) fn refuse(&self, path: &FieldPath, reason: &'static str) -> PlanError {
        PlanError::Field {
            point: self.point.function.clone(),
            path: path.to_string(),
            reason,
        }
    }

    /// Reads the class and the number of the device that `pointer` points to, if `wanted` holds.
    pub(super) fn device(
        &mut self,
        abi: &Abi,
        pointer: Location,
        wanted: Guard,
    ) -> Result<DevicePlan, PlanError> {
        // The distance from the probed instruction to the vtable is the same in every process.
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

    /// Reads a device's number, if the device is of the class.
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
