//! The third witness: what the first buffers of a process say of themselves. A library's functions
//! may agree on a field that isn't what its allocator uses; values that no buffer can have show it.

use std::collections::HashMap;

use thiserror::Error;

use crate::{
    baseline::DeviceState,
    ledger::{AllocatorPointer, Buffer, BufferType, Event, EventKind, Ownership},
};

/// Births of a process that are looked at. A field in a wrong place shows in the first few.
const LOOKED_AT: u32 = 1_000;

/// A buffer with values that no buffer has: the fields were derived wrongly.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Implausible {
    /// `validate_buffer_parameters` (`buffer.cpp`, in every release since 0.62) lets none through.
    #[error(
        "a buffer at {address:#x} has size {size} and page_size {page_size}, which doesn't divide it"
    )]
    PageSize {
        address: u64,
        size: u64,
        page_size: u64,
    },
    /// `track_allocate` is called for owning buffers only, the `create` with an address makes only
    /// others.
    #[error(
        "a buffer at {address:#x} has owns_data {owns_data}, which its probe point contradicts"
    )]
    Ownership { address: u64, owns_data: bool },
    /// Constructors take it from one counter, one after another in each thread.
    #[error(
        "a buffer at {address:#x} has unique_id {unique_id}, not above the {before} of one that \
         the same thread made before"
    )]
    UniqueId {
        address: u64,
        unique_id: u64,
        before: u64,
    },
    /// An allocator's banks of one type are all of one size.
    #[error(
        "buffers at {low:#x} and {high:#x} are said to lie in one bank, which has only \
         {bytes_per_bank} bytes"
    )]
    Bank {
        low: u64,
        high: u64,
        bytes_per_bank: u64,
    },
}

/// One type of memory of an allocator of a process.
type Place = (u32, AllocatorPointer, BufferType);

/// Looks at the first buffers of each process.
#[derive(Debug, Default)]
pub struct Witness {
    seen: HashMap<u32, u32>,
    /// The last unique id by process, thread and allocator. Each copy of the library that a process
    /// has loaded has its own counter, and its own allocators.
    unique_ids: HashMap<(u32, u32, AllocatorPointer), u64>,
    /// Bytes of a bank, where they are known.
    banks: HashMap<Place, u64>,
    /// The lowest and the highest address of an owning buffer.
    addresses: HashMap<Place, (u64, u64)>,
}

impl Witness {
    /// A process ended or executed another program: its counters begin again.
    pub fn forget(&mut self, pid: u32) {
        self.seen.remove(&pid);
        self.unique_ids.retain(|(of, ..), _| *of != pid);
        self.banks.retain(|(of, ..), _| *of != pid);
        self.addresses.retain(|(of, ..), _| *of != pid);
    }

    /// What a process's allocators say of their banks.
    pub fn know_banks(&mut self, pid: u32, devices: &[DeviceState]) {
        for device in devices {
            for (buffer_type, banks) in &device.banks {
                self.banks
                    .insert((pid, device.allocator, *buffer_type), banks.bytes);
            }
        }
    }

    /// Holds an event against what is always so.
    ///
    /// # Errors
    /// See [`Implausible`].
    pub fn look(&mut self, event: &Event) -> Result<(), Implausible> {
        let (buffer, expected) = match &event.kind {
            EventKind::Allocate(buffer) | EventKind::Hooked(buffer) => (buffer, Ownership::Owning),
            EventKind::Create(buffer) => (buffer, Ownership::NonOwning),
            EventKind::BulkFree(allocator) => {
                // It may be about to end, and another with other banks to take its place.
                self.banks.retain(|(_, of, _), _| of != allocator);
                self.addresses.retain(|(_, of, _), _| of != allocator);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let seen = self.seen.entry(event.pid).or_default();
        if *seen == LOOKED_AT {
            return Ok(());
        }
        *seen += 1;
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
        // Only what an allocator gave lies in its banks. A hooked one has no memory.
        if let EventKind::Allocate(buffer) = event.kind
            && size > 0
        {
            let place = (event.pid, buffer.allocator, buffer.buffer_type);
            let (low, high) = self.addresses.entry(place).or_insert((address, address));
            *low = (*low).min(address);
            *high = (*high).max(address);
            if let Some(&bytes_per_bank) = self.banks.get(&place)
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
        baseline::Banks,
        ledger::{Device, DeviceKind, Layout, Nanoseconds, ObjectPointer},
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
        let banks = Banks {
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
    fn buffers_lie_within_one_bank() {
        let mut witness = Witness::default();
        witness.know_banks(1, &[device_with(0x1000)]);
        assert_eq!(witness.look(&at(0x8000, 1)), Ok(()));
        assert_eq!(witness.look(&at(0x8fff, 2)), Ok(()));
        assert_eq!(
            witness.look(&at(0x9000, 3)),
            Err(Implausible::Bank {
                low: 0x8000,
                high: 0x9000,
                bytes_per_bank: 0x1000
            })
        );
    }

    #[test]
    fn an_allocator_that_freed_all_may_be_another_one_next() {
        let mut witness = Witness::default();
        witness.know_banks(1, &[device_with(0x1000)]);
        assert_eq!(witness.look(&at(0x8000, 1)), Ok(()));
        let free = event(1, EventKind::BulkFree(buffer(0).allocator));
        assert_eq!(witness.look(&free), Ok(()));
        assert_eq!(witness.look(&at(0x20_0000, 2)), Ok(()));
    }

    fn allocate(buffer: Buffer) -> Event {
        event(1, EventKind::Allocate(buffer))
    }

    #[test]
    fn a_size_is_a_multiple_of_the_page_size() {
        let mut witness = Witness::default();
        for (id, size, page_size) in [(0, 4096, 1024), (1, 0, 0), (2, 0, 512)] {
            let good = Buffer {
                size,
                page_size,
                ..buffer(id)
            };
            assert_eq!(witness.look(&allocate(good)), Ok(()));
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
            assert_eq!(witness.look(&allocate(bad)), Err(refused));
        }
    }

    #[test]
    fn who_owns_is_as_the_probe_point_says() {
        let mut witness = Witness::default();
        let created = event(1, EventKind::Create(buffer(0)));
        let refused = Implausible::Ownership {
            address: 0x40,
            owns_data: true,
        };
        assert_eq!(witness.look(&created), Err(refused));
        let view = Buffer {
            ownership: Ownership::NonOwning,
            ..buffer(1)
        };
        assert_eq!(witness.look(&event(1, EventKind::Create(view))), Ok(()));
        let refused = Implausible::Ownership {
            address: 0x40,
            owns_data: false,
        };
        assert_eq!(witness.look(&allocate(view)), Err(refused));
    }

    #[test]
    fn unique_ids_rise_in_each_thread() {
        let mut witness = Witness::default();
        assert_eq!(witness.look(&allocate(buffer(7))), Ok(()));
        // Another thread was seen late.
        assert_eq!(
            witness.look(&event(2, EventKind::Allocate(buffer(6)))),
            Ok(())
        );
        assert_eq!(witness.look(&allocate(buffer(8))), Ok(()));
        let refused = Implausible::UniqueId {
            address: 0x40,
            unique_id: 8,
            before: 8,
        };
        assert_eq!(witness.look(&allocate(buffer(8))), Err(refused));
        // Another copy of the library counts for itself.
        let other = Buffer {
            allocator: AllocatorPointer(0x3000),
            ..buffer(0)
        };
        assert_eq!(witness.look(&allocate(other)), Ok(()));
    }

    #[test]
    fn another_program_counts_from_its_own_start() {
        let mut witness = Witness::default();
        assert_eq!(witness.look(&allocate(buffer(7))), Ok(()));
        witness.forget(1);
        assert_eq!(witness.look(&allocate(buffer(0))), Ok(()));
    }

    #[test]
    fn only_the_first_births_are_looked_at() {
        let mut witness = Witness::default();
        for id in 0..u64::from(LOOKED_AT) {
            assert_eq!(witness.look(&allocate(buffer(id))), Ok(()));
        }
        assert_eq!(witness.look(&allocate(buffer(0))), Ok(()));
    }
}
