//! What the allocators of a process hold.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    allocator::{ATTEMPTS, PATIENT_ATTEMPTS},
    bank_map::BankMap,
};
use crate::{
    abi::{Abi, Accessors, Field, Image},
    ledger::{AllocatorPointer, Buffer, BufferType, Device, DeviceKind, ObjectPointer},
    replay::{Picture, ReadMemory, Replay, ReplayError},
};

/// One type of memory on one device, in bytes of one bank: what `ttnn.get_memory_view` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banks {
    pub count: u64,
    pub bytes: u64,
    pub allocated: u64,
    pub free: u64,
    pub largest_free: u64,
}

/// A device and its allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    pub device: Device,
    pub allocator: AllocatorPointer,
    /// Ids of the chips of a mesh.
    pub members: BTreeSet<u32>,
    /// Types that the device has banks of.
    pub banks: BTreeMap<BufferType, Banks>,
}

/// What one process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub devices: Vec<DeviceState>,
    /// Owning buffers, by object.
    pub buffers: BTreeMap<ObjectPointer, Buffer>,
    /// Which addresses of their banks allocators have given away.
    pub maps: BTreeMap<(AllocatorPointer, BufferType), BankMap>,
    /// Whether each allocator's answer held at one moment. Otherwise `buffers` has what several
    /// answers named together.
    pub at_one_moment: bool,
    /// Objects that an allocator lists and that aren't live owning buffers of it: being born, being
    /// freed, or not understood.
    pub odd: BTreeSet<ObjectPointer>,
    /// Bytes that an allocator counts as allocated and no buffer that was read accounts for, in all
    /// of its banks. Where nothing is odd, that is padding.
    pub unknown_bytes: u64,
    /// What couldn't be read, for a person.
    pub problems: Vec<String>,
}

impl Survey {
    /// How much of each bank a buffer takes that was there.
    pub fn block(&self, buffer: &Buffer) -> Option<u64> {
        let map = self.maps.get(&(buffer.allocator, buffer.buffer_type))?;
        map.used.get(&buffer.address).copied()
    }
}

/// Asks the devices and allocators of one process with one loaded library.
pub struct Surveyor<'a> {
    pub(super) abi: &'a Abi,
    pub(super) image: &'a Image<'a>,
    pub(super) accessors: Accessors,
    pub(super) bias: u64,
    pub(super) memory: &'a dyn ReadMemory,
}

impl<'a> Surveyor<'a> {
    /// `bias`: what the dynamic linker added to the library's virtual addresses.
    pub fn new(
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

    /// The words that devices begin with: their vtable pointers.
    pub fn marks(&self) -> [u64; 2] {
        [self.abi.chip_vtable, self.abi.mesh_vtable].map(|vtable| vtable.wrapping_add(self.bias))
    }

    /// Asks what is at `places`, where such a word was found. Not each need be a device: a word may
    /// be left over from one.
    ///
    /// `is_time`: whether an allocator that is being changed all the time may be asked once more.
    pub fn survey(&self, places: &[u64], is_time: &dyn Fn() -> bool) -> Survey {
        let mut survey = Survey {
            at_one_moment: true,
            ..Survey::default()
        };
        let mut asked: BTreeMap<AllocatorPointer, BTreeMap<BufferType, Banks>> = BTreeMap::new();
        for place in places {
            match self.retry(|replay| self.device(replay, *place)) {
                Ok(Some((device, allocator, members))) => {
                    let banks = asked
                        .entry(allocator)
                        .or_insert_with(|| self.allocator(allocator, &mut survey, is_time))
                        .clone();
                    survey.devices.push(DeviceState {
                        device,
                        allocator,
                        members,
                        banks,
                    });
                }
                // Closed, or a word that a device left behind.
                Ok(None) => {}
                Err(error) => survey
                    .problems
                    .push(format!("a device at {place:#x} can't be asked: {error}")),
            }
        }
        survey
    }

    /// Whether an open device is at a place.
    pub fn is_device(&self, place: u64) -> bool {
        let device = self.retry(|replay| self.device(replay, place));
        // One that can't be asked is to be told of.
        !matches!(device, Ok(None))
    }

    pub(super) fn retry<T>(
        &self,
        mut ask: impl FnMut(&mut Replay<'a>) -> Result<T, ReplayError>,
    ) -> Result<T, ReplayError> {
        let mut attempt = 0;
        loop {
            let mut replay = Replay::new(self.image, self.bias, self.memory);
            replay.heed_locks(attempt < PATIENT_ATTEMPTS);
            match ask(&mut replay) {
                Err(error) if error.is_torn() && attempt + 1 < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// A device, its allocator, and the chips of a mesh. `None` where it has no allocator: it was
    /// closed, or was never opened.
    fn device(
        &self,
        replay: &mut Replay<'a>,
        pointer: u64,
    ) -> Result<Option<(Device, AllocatorPointer, BTreeSet<u32>)>, ReplayError> {
        let Some(device) = self.identity(&mut replay.picture, pointer)? else {
            return Ok(None);
        };
        let reference = match replay.call_virtual(pointer, self.accessors.allocator_slot) {
            Ok(reference) => reference,
            // A closed device's parts are gone, which the library says by an exception, or doesn't
            // look for.
            Err(ReplayError::Throws { .. } | ReplayError::Unreadable(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let allocator = replay.picture.number(reference, 8)?;
        if allocator == 0 {
            return Ok(None);
        }
        let mut members = BTreeSet::new();
        if device.kind == DeviceKind::Mesh {
            let vector = result(replay)?;
            replay.call(self.accessors.mesh_devices, &[vector, pointer])?;
            let [mut at, end] = [0, 8].map(|offset| replay.picture.number(vector + offset, 8));
            while let (Ok(from), Ok(to)) = (&mut at, &end)
                && *from < *to
            {
                let chip = replay.picture.number(*from, 8)?;
                members.extend(
                    self.identity(&mut replay.picture, chip)?
                        .filter(|chip| chip.kind == DeviceKind::Chip)
                        .map(|chip| chip.id),
                );
                *from += 8;
            }
        }
        Ok(Some((device, AllocatorPointer(allocator), members)))
    }

    /// Which device is at an address, if one is.
    pub(super) fn identity(
        &self,
        picture: &mut Picture<'_>,
        pointer: u64,
    ) -> Result<Option<Device>, ReplayError> {
        let vtable = picture.number(pointer, 8)?;
        let [chip, mesh] = self.marks();
        let (kind, id) = if vtable == chip {
            (DeviceKind::Chip, &self.abi.fields.chip_id)
        } else if vtable == mesh {
            (DeviceKind::Mesh, &self.abi.fields.mesh_id)
        } else {
            return Ok(None);
        };
        // What a closed device had behind a pointer is gone.
        Ok(field(picture, pointer, id).ok().map(|id| Device {
            kind,
            id: id as u32,
        }))
    }
}

/// Memory for what a function returns through a hidden pointer.
pub(super) fn result(replay: &mut Replay<'_>) -> Result<u64, ReplayError> {
    replay.picture.allocate(512).ok_or(ReplayError::Endless)
}

/// The value of a field of the object at an address.
pub(super) fn field(
    picture: &mut Picture<'_>,
    object: u64,
    field: &Field,
) -> Result<u64, ReplayError> {
    let mut at = object;
    for offset in &field.path.derefs {
        at = picture.number(at.wrapping_add_signed(*offset), 8)?;
    }
    let address = at.wrapping_add_signed(field.path.offset);
    Ok(picture.number(address, usize::from(field.path.width))?)
}
