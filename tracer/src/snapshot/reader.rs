//! Reads what the devices and allocators of a process hold, by replaying its library's accessors.

mod allocator;
mod banks;
mod buffer;
mod devices;

use crate::{
    abi::{Abi, Accessors, Field, Image},
    ledger::{Device, DeviceKind},
    replay::{Overlay, Replay, ReplayError},
    target::ReadMemory,
};

/// How often a replay is tried while the target's changes tear what it reads.
const ATTEMPTS: u32 = 12;

/// From this attempt on a held lock doesn't stop a replay: where several threads use an allocator, one
/// of them holds its lock nearly all the time.
const LOCKS_IGNORED_FROM: u32 = 4;

/// Reads one process with one loaded library. Memory is read through a trait, so that tests need no
/// process.
pub(super) struct SnapshotReader<'a> {
    abi: &'a Abi,
    image: &'a Image<'a>,
    accessors: Accessors,
    bias: u64,
    memory: &'a dyn ReadMemory,
}

impl<'a> SnapshotReader<'a> {
    /// `bias`: what the dynamic linker added to the library's virtual addresses.
    pub(super) fn new(
        abi: &'a Abi,
        image: &'a Image<'a>,
        accessors: Accessors,
        bias: u64,
        memory: &'a dyn ReadMemory,
    ) -> Self {
        Self {
            abi,
            image,
            accessors,
            bias,
            memory,
        }
    }

    /// The vtable pointers of chips and meshes: every device begins with one of the two.
    pub(super) fn vtable_pointers(&self) -> [u64; 2] {
        [self.abi.chip_vtable, self.abi.mesh_vtable].map(|vtable| vtable.wrapping_add(self.bias))
    }

    /// Asks until an answer isn't torn, or often enough.
    fn retry<T>(
        &self,
        mut ask: impl FnMut(&mut Replay<'a>) -> Result<T, ReplayError>,
    ) -> Result<T, ReplayError> {
        let mut attempt = 0;
        loop {
            let mut replay = Replay::new(self.image, self.bias, self.memory);
            replay.heed_locks(attempt < LOCKS_IGNORED_FROM);
            match ask(&mut replay) {
                Err(error) if error.is_torn() && attempt + 1 < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// The device at an address, if there is one.
    fn device_at(
        &self,
        overlay: &mut Overlay<'_>,
        pointer: u64,
    ) -> Result<Option<Device>, ReplayError> {
        let vtable = overlay.number(pointer, 8)?;
        let [chip, mesh] = self.vtable_pointers();
        let (kind, id) = if vtable == chip {
            (DeviceKind::Chip, &self.abi.fields.chip_id)
        } else if vtable == mesh {
            (DeviceKind::Mesh, &self.abi.fields.mesh_id)
        } else {
            return Ok(None);
        };
        // A closed device has lost what its pointers led to.
        Ok(field(overlay, pointer, id).ok().map(|id| Device {
            kind,
            id: id as u32,
        }))
    }
}

/// Allocates memory for what a function returns through a hidden pointer.
fn result(replay: &mut Replay<'_>) -> Result<u64, ReplayError> {
    replay.overlay().allocate(512).ok_or(ReplayError::Endless)
}

/// Reads a field of the object at an address.
fn field(overlay: &mut Overlay<'_>, object: u64, field: &Field) -> Result<u64, ReplayError> {
    let mut at = object;
    for offset in &field.path.derefs {
        at = overlay.number(at.wrapping_add_signed(*offset), 8)?;
    }
    let address = at.wrapping_add_signed(field.path.offset);
    Ok(overlay.number(address, usize::from(field.path.width))?)
}
