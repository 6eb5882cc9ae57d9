//! Reads the devices of a process.

use std::collections::{BTreeMap, BTreeSet};

use super::{SnapshotReader, result};
use crate::{
    ledger::{AllocatorPointer, BufferType, Device, DeviceKind},
    replay::{Replay, ReplayError},
    snapshot::{
        banks::BankStatistics,
        heap_reading::{DeviceState, HeapReading},
    },
};

impl<'a> SnapshotReader<'a> {
    /// Reads the devices at `addresses`, where one of the [vtable pointers](Self::vtable_pointers) was
    /// found. Not every address is that of a device: a pointer may be left over from one.
    ///
    /// `has_time`: whether an allocator that the target changes all the time may be asked once more.
    pub(in crate::snapshot) fn read(
        &self,
        addresses: &[u64],
        has_time: &dyn Fn() -> bool,
    ) -> HeapReading {
        let mut heap = HeapReading {
            at_one_moment: true,
            ..HeapReading::default()
        };
        let mut asked: BTreeMap<AllocatorPointer, BTreeMap<BufferType, BankStatistics>> =
            BTreeMap::new();
        for address in addresses {
            match self.retry(|replay| self.device(replay, *address)) {
                Ok(Some((device, allocator, members))) => {
                    let banks = asked
                        .entry(allocator)
                        .or_insert_with(|| self.read_allocator(allocator, &mut heap, has_time))
                        .clone();
                    heap.devices.push(DeviceState {
                        device,
                        allocator,
                        members,
                        banks,
                    });
                }
                // A closed device, or a pointer that a device left behind.
                Ok(None) => {}
                Err(error) => heap
                    .problems
                    .push(format!("a device at {address:#x} can't be read: {error}")),
            }
        }
        heap
    }

    /// Whether there is an open device at an address, as far as that can be known.
    pub(in crate::snapshot) fn is_device(&self, address: u64) -> bool {
        let device = self.retry(|replay| self.device(replay, address));
        // A device that can't be read has to be reported as a problem.
        !matches!(device, Ok(None))
    }

    /// A device, its allocator, and the member chips of a mesh. `None` where a device has no allocator,
    /// because it was closed or never opened.
    fn device(
        &self,
        replay: &mut Replay<'a>,
        pointer: u64,
    ) -> Result<Option<(Device, AllocatorPointer, BTreeSet<u32>)>, ReplayError> {
        let Some(device) = self.device_at(replay.overlay(), pointer)? else {
            return Ok(None);
        };
        let reference = match replay.call_virtual(pointer, self.accessors.allocator_slot) {
            Ok(reference) => reference,
            // A closed device has no parts any more: the library throws, or follows a dead pointer.
            Err(ReplayError::Throws { .. } | ReplayError::Unreadable(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let allocator = replay.overlay().number(reference, 8)?;
        if allocator == 0 {
            return Ok(None);
        }
        let mut members = BTreeSet::new();
        if device.kind == DeviceKind::Mesh {
            let vector = result(replay)?;
            replay.call(self.accessors.mesh_devices, &[vector, pointer])?;
            let [mut at, end] = [0, 8].map(|offset| replay.overlay().number(vector + offset, 8));
            while let (Ok(from), Ok(to)) = (&mut at, &end)
                && *from < *to
            {
                let chip = replay.overlay().number(*from, 8)?;
                members.extend(
                    self.device_at(replay.overlay(), chip)?
                        .filter(|chip| chip.kind == DeviceKind::Chip)
                        .map(|chip| chip.id),
                );
                *from += 8;
            }
        }
        Ok(Some((device, AllocatorPointer(allocator), members)))
    }
}
