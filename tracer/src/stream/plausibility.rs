//! Checks the first buffers of each process for values that no buffer can have. Such a value shows that a
//! field was derived wrongly, even though several functions of the library agreed on it.

use std::collections::HashMap;

use thiserror::Error;

use crate::{
    ledger::{AllocatorPointer, Buffer, BufferType, Event, EventKind, Ownership},
    snapshot::DeviceState,
};

/// The most buffers of a process that are checked. A wrong field shows in the first few.
const MAX_CHECKED: u32 = 1_000;

/// A buffer with values that no buffer can have: its library's fields were derived wrongly.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Implausible {
    /// `validate_buffer_parameters` (`buffer.cpp`, in every release since 0.62) refuses such buffers.
    #[error(
        "a buffer at {address:#x} has size {size} and page_size {page_size}, which doesn't divide it"
    )]
    PageSize {
        address: u64,
        size: u64,
        page_size: u64,
    },
    /// `track_allocate` is called for owning buffers only, and the `create` that takes an address makes
    /// non-owning ones only.
    #[error(
        "a buffer at {address:#x} has owns_data {owns_data}, which its probe point contradicts"
    )]
    Ownership { address: u64, owns_data: bool },
    /// Constructors take the id from one counter, so it grows in each thread.
    #[error(
        "a buffer at {address:#x} has unique_id {unique_id}, not above the {before} of one that \
         the same thread made before"
    )]
    UniqueId {
        address: u64,
        unique_id: u64,
        before: u64,
    },
    /// All banks of one type have the same size, and a buffer has the same address in each of them.
    #[error(
        "buffers at {low:#x} and {high:#x} are in one bank, which has only {bytes_per_bank} bytes"
    )]
    Bank {
        low: u64,
        high: u64,
        bytes_per_bank: u64,
    },
}

/// The banks of one type of an allocator: the process, the allocator, the type.
type BankKey = (u32, AllocatorPointer, BufferType);

/// Checks the first buffers of each process.
#[derive(Debug, Default)]
pub(crate) struct Plausibility {
    /// The number of buffers checked so far, by process.
    checked: HashMap<u32, u32>,
    /// The last unique id by process, thread and allocator. Each copy of the library that a process
    /// has loaded has its own counter and its own allocators.
    unique_ids: HashMap<(u32, u32, AllocatorPointer), u64>,
    /// The bytes of a bank, where they are known.
    banks: HashMap<BankKey, u64>,
    /// The lowest and the highest address of an owning buffer.
    addresses: HashMap<BankKey, (u64, u64)>,
}

impl Plausibility {
    /// Starts anew with a process that has ended or executed another program.
    pub(crate) fn forget(&mut self, pid: u32) {
        self.checked.remove(&pid);
        self.unique_ids.retain(|(owner, ..), _| *owner != pid);
        self.banks.retain(|(owner, ..), _| *owner != pid);
        self.addresses.retain(|(owner, ..), _| *owner != pid);
    }

    /// Adds the banks of a process's allocators.
    pub(crate) fn add_banks(&mut self, pid: u32, devices: &[DeviceState]) {
        for device in devices {
            for (buffer_type, banks) in &device.banks {
                self.banks
                    .insert((pid, device.allocator, *buffer_type), banks.bytes);
            }
        }
    }

    /// Checks an event.
    ///
    /// # Errors
    /// See [`Implausible`].
    pub(crate) fn check(&mut self, event: &Event) -> Result<(), Implausible> {
        let (buffer, expected) = match &event.kind {
            EventKind::Allocate(buffer) | EventKind::Hooked(buffer) => (buffer, Ownership::Owning),
            EventKind::Create(buffer) => (buffer, Ownership::NonOwning),
            EventKind::BulkFree(allocator) => {
                // It may be about to end, and another with other banks may take its address.
                self.banks.retain(|(_, other, _), _| other != allocator);
                self.addresses.retain(|(_, other, _), _| other != allocator);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let checked = self.checked.entry(event.pid).or_default();
        if *checked == MAX_CHECKED {
            return Ok(());
        }
        *checked += 1;
        let Buffer {
            address,
            size,
            page_size,
            ..
        } = *buffer;
        if size != 0 && size.checked_rem(page_size) != Some(0) {
            return Err(Implausible::PageSize {
                address,
                size,
                page_size,
            });
        }
        if buffer.ownership != expected {
            let owns_data = buffer.ownership == Ownership::Owning;
            return Err(Implausible::Ownership { address, owns_data });
        }
        // Only a buffer with memory of its own is in a bank. A hooked one has no memory.
        if let EventKind::Allocate(buffer) = event.kind
            && size > 0
        {
            let key = (event.pid, buffer.allocator, buffer.buffer_type);
            let (low, high) = self.addresses.entry(key).or_insert((address, address));
            *low = (*low).min(address);
            *high = (*high).max(address);
            if let Some(&bytes_per_bank) = self.banks.get(&key)
                && *high - *low >= bytes_per_bank
            {
                return Err(Implausible::Bank {
                    low: *low,
                    high: *high,
                    bytes_per_bank,
                });
            }
        }
        if let Some(unique_id) = buffer.unique_id {
            let counter = (event.pid, event.tid, buffer.allocator);
            if let Some(before) = self.unique_ids.insert(counter, unique_id)
                && before >= unique_id
            {
                return Err(Implausible::UniqueId {
                    address,
                    unique_id,
                    before,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        ledger::{Device, DeviceKind, Layout, Nanoseconds, ObjectPointer},
        snapshot::BankStatistics,
    };

    fn buffer(unique_id: u64) -> Buffer {
        Buffer {
            object: ObjectPointer(0x1000),
            allocator: AllocatorPointer(0x2000),
            device: Device {
                kind: DeviceKind::Mesh,
                id: 0,
            },
            address: 0x40,
            size: 4096,
            page_size: 1024,
            buffer_type: BufferType::Dram,
            layout: Layout::Interleaved,
            bytes_per_bank: None,
            unique_id: Some(unique_id),
            ownership: Ownership::Owning,
        }
    }

    fn event(tid: u32, kind: EventKind) -> Event {
        Event {
            pid: 1,
            tid,
            time: Nanoseconds(0),
            kind,
            stack: None,
        }
    }

    /// A device with one bank of DRAM.
    fn device_with(bytes: u64) -> DeviceState {
        let banks = BankStatistics {
            count: 1,
            bytes,
            allocated: 0,
            free: bytes,
            largest_free: bytes,
        };
        DeviceState {
            device: buffer(0).device,
            allocator: buffer(0).allocator,
            members: BTreeSet::new(),
            banks: BTreeMap::from([(BufferType::Dram, banks)]),
        }
    }

    fn at(address: u64, unique_id: u64) -> Event {
        allocate(Buffer {
            address,
            ..buffer(unique_id)
        })
    }

    #[test]
    fn buffers_are_within_one_bank() {
        let mut plausibility = Plausibility::default();
        plausibility.add_banks(1, &[device_with(0x1000)]);
        assert_eq!(plausibility.check(&at(0x8000, 1)), Ok(()));
        assert_eq!(plausibility.check(&at(0x8fff, 2)), Ok(()));
        assert_eq!(
            plausibility.check(&at(0x9000, 3)),
            Err(Implausible::Bank {
                low: 0x8000,
                high: 0x9000,
                bytes_per_bank: 0x1000
            })
        );
    }

    #[test]
    fn after_a_bulk_free_the_address_may_be_another_allocators() {
        let mut plausibility = Plausibility::default();
        plausibility.add_banks(1, &[device_with(0x1000)]);
        assert_eq!(plausibility.check(&at(0x8000, 1)), Ok(()));
        let free = event(1, EventKind::BulkFree(buffer(0).allocator));
        assert_eq!(plausibility.check(&free), Ok(()));
        assert_eq!(plausibility.check(&at(0x20_0000, 2)), Ok(()));
    }

    fn allocate(buffer: Buffer) -> Event {
        event(1, EventKind::Allocate(buffer))
    }

    #[test]
    fn a_size_is_a_multiple_of_the_page_size() {
        let mut plausibility = Plausibility::default();
        for (id, size, page_size) in [(0, 4096, 1024), (1, 0, 0), (2, 0, 512)] {
            let good = Buffer {
                size,
                page_size,
                ..buffer(id)
            };
            assert_eq!(plausibility.check(&allocate(good)), Ok(()));
        }
        for page_size in [0, 1000] {
            let bad = Buffer {
                page_size,
                ..buffer(9)
            };
            let refused = Implausible::PageSize {
                address: 0x40,
                size: 4096,
                page_size,
            };
            assert_eq!(plausibility.check(&allocate(bad)), Err(refused));
        }
    }

    #[test]
    fn ownership_is_as_the_probe_point_says() {
        let mut plausibility = Plausibility::default();
        let created = event(1, EventKind::Create(buffer(0)));
        let refused = Implausible::Ownership {
            address: 0x40,
            owns_data: true,
        };
        assert_eq!(plausibility.check(&created), Err(refused));
        let view = Buffer {
            ownership: Ownership::NonOwning,
            ..buffer(1)
        };
        assert_eq!(
            plausibility.check(&event(1, EventKind::Create(view))),
            Ok(())
        );
        let refused = Implausible::Ownership {
            address: 0x40,
            owns_data: false,
        };
        assert_eq!(plausibility.check(&allocate(view)), Err(refused));
    }

    #[test]
    fn unique_ids_grow_in_each_thread() {
        let mut plausibility = Plausibility::default();
        assert_eq!(plausibility.check(&allocate(buffer(7))), Ok(()));
        // Another thread's record came late.
        assert_eq!(
            plausibility.check(&event(2, EventKind::Allocate(buffer(6)))),
            Ok(())
        );
        assert_eq!(plausibility.check(&allocate(buffer(8))), Ok(()));
        let refused = Implausible::UniqueId {
            address: 0x40,
            unique_id: 8,
            before: 8,
        };
        assert_eq!(plausibility.check(&allocate(buffer(8))), Err(refused));
        // Another copy of the library has its own counter.
        let other = Buffer {
            allocator: AllocatorPointer(0x3000),
            ..buffer(0)
        };
        assert_eq!(plausibility.check(&allocate(other)), Ok(()));
    }

    #[test]
    fn another_program_has_its_own_counter() {
        let mut plausibility = Plausibility::default();
        assert_eq!(plausibility.check(&allocate(buffer(7))), Ok(()));
        plausibility.forget(1);
        assert_eq!(plausibility.check(&allocate(buffer(0))), Ok(()));
    }

    #[test]
    fn only_the_first_buffers_are_checked() {
        let mut plausibility = Plausibility::default();
        for id in 0..u64::from(MAX_CHECKED) {
            assert_eq!(plausibility.check(&allocate(buffer(id))), Ok(()));
        }
        assert_eq!(plausibility.check(&allocate(buffer(0))), Ok(()));
    }
}
