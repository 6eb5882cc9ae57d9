//! The rules of accounting.

mod before_attach;
mod composition;
mod ends;
mod failed;
mod marks;
mod members;
mod model;
mod processes;
mod spaces;
mod temporary;

use super::*;
use crate::frame::StackId;

pub(crate) const KIB: u64 = 1024;
pub(crate) const PID: u32 = 100;
pub(crate) const TID: u32 = 101;
pub(crate) const ALLOCATOR: AllocatorPointer = AllocatorPointer(0xa0);
pub(crate) const MESH: Device = mesh(1);

pub(crate) const fn mesh(id: u32) -> Device {
    Device {
        kind: DeviceKind::Mesh,
        id,
    }
}

pub(crate) const fn chip(id: u32) -> Device {
    Device {
        kind: DeviceKind::Chip,
        id,
    }
}

/// An owning DRAM buffer.
pub(crate) fn owning(object: u64, device: Device, address: u64, size: u64) -> Buffer {
    Buffer {
        object: ObjectPointer(object),
        allocator: ALLOCATOR,
        device,
        address,
        size,
        page_size: KIB,
        buffer_type: BufferType::Dram,
        layout: Layout::Interleaved,
        bytes_per_bank: None,
        unique_id: None,
        ownership: Ownership::Owning,
    }
}

/// A non-owning DRAM buffer.
pub(crate) fn view(object: u64, device: Device, address: u64, size: u64) -> Buffer {
    Buffer {
        ownership: Ownership::NonOwning,
        ..owning(object, device, address, size)
    }
}

/// A ledger, and a clock that advances by one nanosecond with each event.
#[derive(Default)]
pub(crate) struct Story {
    pub ledger: Ledger,
    pub now: u64,
    /// The stack of the next events.
    pub stack: Option<StackId>,
}

impl Story {
    pub(crate) fn event(&mut self, pid: u32, tid: u32, kind: EventKind) -> (Event, Outcome) {
        self.now += 1;
        let event = Event {
            pid,
            tid,
            time: Nanoseconds(self.now),
            kind,
            stack: self.stack,
        };
        (event, self.ledger.apply(&event))
    }

    pub(crate) fn apply(&mut self, kind: EventKind) -> Outcome {
        self.event(PID, TID, kind).1
    }

    pub(crate) fn allocate(&mut self, buffer: Buffer) -> Outcome {
        self.apply(EventKind::Allocate(buffer))
    }

    /// Allocates with a stack. The next events have none.
    pub(crate) fn allocate_at(&mut self, stack: u32, buffer: Buffer) -> Outcome {
        self.stack = Some(StackId(stack));
        let outcome = self.allocate(buffer);
        self.stack = None;
        outcome
    }

    pub(crate) fn deallocate(&mut self, buffer: Buffer) -> Outcome {
        self.apply(EventKind::Deallocate(buffer.object))
    }

    pub(crate) fn create(&mut self, buffer: Buffer) -> Outcome {
        self.apply(EventKind::Create(buffer))
    }

    pub(crate) fn destroy(&mut self, buffer: Buffer) -> Outcome {
        self.apply(EventKind::Destroy(buffer.object))
    }

    /// Does what TT-Metal does for a mesh's buffer: allocates it, then creates a non-owning buffer for each
    /// member. The members' objects follow the mesh's.
    pub(crate) fn allocate_on_mesh(&mut self, buffer: Buffer, members: &[u32]) {
        self.allocate(buffer);
        for (object, &member) in (buffer.object.0 + 1..).zip(members) {
            self.create(view(object, chip(member), buffer.address, buffer.size));
        }
    }

    pub(crate) fn process(&self) -> &Process {
        self.ledger.process(PID).unwrap()
    }

    pub(crate) fn dram(&self, device: Device) -> Account {
        self.process().devices()[&device].memory[BufferType::Dram]
    }
}

#[test]
fn an_allocation_is_live_until_its_deallocation() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);

    assert_eq!(story.allocate(buffer).effect, Effect::Allocated);
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (4 * KIB, 1));
    assert_eq!((account.allocated_bytes, account.allocations), (4 * KIB, 1));
    assert_eq!((account.freed_bytes, account.deallocations), (0, 0));

    let Effect::Deallocated(live) = story.deallocate(buffer).effect else {
        panic!("an unmatched deallocation")
    };
    assert_eq!(live.since(), Some(Nanoseconds(1)));
    assert_eq!(live.tid(), Some(TID));
    assert!(!live.before_attach());
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (0, 0));
    assert_eq!((account.allocated_bytes, account.allocations), (4 * KIB, 1));
    assert_eq!((account.freed_bytes, account.deallocations), (4 * KIB, 1));
    assert!(story.ledger.is_exact());
}

#[test]
fn the_peak_is_the_most_bytes_live_at_once_and_when_they_were_first_live() {
    let mut story = Story::default();
    let (a, b) = (
        owning(0x10, chip(0), 0x1000, 4 * KIB),
        owning(0x20, chip(0), 0x2000, 2 * KIB),
    );
    story.allocate(a);
    story.allocate(b);
    story.deallocate(a);
    story.allocate(a);
    story.deallocate(a);
    story.deallocate(b);

    let account = story.dram(chip(0));
    assert_eq!(
        (account.peak_bytes, account.peak_at),
        (6 * KIB, Nanoseconds(2))
    );
}

#[test]
fn each_type_of_memory_has_an_account_of_its_own() {
    let mut story = Story::default();
    for (number, buffer_type) in (1..).zip(BufferType::ALL) {
        // All have the same address: each type of memory has its own addresses.
        let buffer = owning(0x10 * number, chip(0), 0x1000, number * KIB);
        story.allocate(Buffer {
            buffer_type,
            ..buffer
        });
    }
    let memory = story.process().devices()[&chip(0)].memory;
    let live = BufferType::ALL.map(|buffer_type| memory[buffer_type].live_bytes / KIB);
    assert_eq!(live, [1, 2, 3, 4, 5]);
    assert_eq!(story.process().counters().implied_deallocations, 0);
}

#[test]
fn processes_are_kept_apart_even_where_their_pointers_are_the_same() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.event(1, 1, EventKind::Allocate(buffer));
    story.event(2, 2, EventKind::Allocate(buffer));
    story.event(1, 1, EventKind::Deallocate(buffer.object));

    let live = |pid| story.ledger.process(pid).unwrap().owning().len();
    assert_eq!((live(1), live(2)), (0, 1));
    assert_eq!(story.ledger.received(), 3);
    assert_eq!(story.ledger.process(1).unwrap().counters().received, 2);
    assert!(story.ledger.is_exact());
}

#[test]
fn a_mesh_and_a_chip_with_one_id_are_two_devices() {
    let mut story = Story::default();
    story.allocate(owning(0x10, mesh(1), 0x1000, 4 * KIB));
    story.allocate(Buffer {
        allocator: AllocatorPointer(0xb0),
        ..owning(0x20, chip(1), 0x1000, 2 * KIB)
    });
    assert_eq!(story.dram(mesh(1)).live_bytes, 4 * KIB);
    assert_eq!(story.dram(chip(1)).live_bytes, 2 * KIB);
}

#[test]
fn non_owning_buffers_are_counted_and_are_in_no_total() {
    let mut story = Story::default();
    let (a, b) = (
        view(0x10, chip(0), 0x1000, 4 * KIB),
        view(0x20, chip(0), 0x1000, 4 * KIB),
    );
    assert_eq!(story.create(a).effect, Effect::Created { joined: None });
    story.create(b);
    assert!(matches!(story.destroy(a).effect, Effect::Destroyed(live) if live.buffer == a));

    let counters = story.process().counters();
    assert_eq!((counters.created, counters.destroyed), (2, 1));
    assert_eq!(story.process().non_owning().len(), 1);
    assert_eq!(story.dram(chip(0)), Account::default());
}

#[test]
fn a_buffer_of_size_zero_is_a_buffer() {
    let mut story = Story::default();
    let empty = |object| owning(object, chip(0), 0, 0);
    story.allocate(empty(0x10));
    // Both have address 0, which the allocator gave to neither.
    story.allocate(empty(0x20));
    assert_eq!(
        (
            story.dram(chip(0)).live_buffers,
            story.dram(chip(0)).live_bytes
        ),
        (2, 0)
    );
    assert!(story.ledger.is_exact());
    story.deallocate(empty(0x10));
    assert_eq!(story.dram(chip(0)).live_buffers, 1);
}

#[test]
fn a_failed_allocation_is_counted_and_holds_no_memory() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0, 4 * KIB);
    assert_eq!(
        story.apply(EventKind::Failed(buffer)).effect,
        Effect::Failed
    );
    assert_eq!(story.process().counters().failed_allocations, 1);
    assert_eq!(story.dram(chip(0)), Account::default());
}

#[test]
fn a_hooked_allocation_is_counted_and_holds_no_memory() {
    let mut story = Story::default();
    let hooked = owning(0x10, chip(0), 0, 4 * KIB);
    assert_eq!(
        story.apply(EventKind::Hooked(hooked)).effect,
        Effect::Hooked
    );
    assert_eq!(story.deallocate(hooked).effect, Effect::HadNoMemory);

    let counters = story.process().counters();
    assert_eq!(
        (
            counters.hooked_allocations,
            counters.unmatched_deallocations
        ),
        (1, 0)
    );
    assert_eq!(story.dram(chip(0)), Account::default());

    // A hooked buffer ends only once.
    assert_eq!(story.deallocate(hooked).effect, Effect::Unmatched);
    assert_eq!(story.process().counters().unmatched_deallocations, 1);
}

#[test]
fn a_hooked_buffers_object_that_is_used_again_is_no_longer_hooked() {
    let mut story = Story::default();
    let hooked = owning(0x10, chip(0), 0, 4 * KIB);
    let real = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.apply(EventKind::Hooked(hooked));
    story.allocate(real);
    assert!(matches!(
        story.deallocate(real).effect,
        Effect::Deallocated(_)
    ));
    assert_eq!(story.deallocate(hooked).effect, Effect::Unmatched);

    story.apply(EventKind::Hooked(hooked));
    story.apply(EventKind::Failed(hooked));
    assert_eq!(story.deallocate(hooked).effect, Effect::Unmatched);
}

#[test]
fn lost_events_are_added_up_and_make_the_ledger_inexact() {
    let mut story = Story::default();
    assert!(story.ledger.is_exact());
    assert_eq!(
        story.event(0, 0, EventKind::Lost(3)).1.effect,
        Effect::Lost(3)
    );
    story.event(0, 0, EventKind::Lost(4));
    assert_eq!(story.ledger.lost(), 7);
    assert_eq!(story.ledger.received(), 0);
    assert!(
        story.ledger.processes().is_empty(),
        "a loss belongs to no process"
    );
    assert!(!story.ledger.is_exact());
}

#[test]
fn absurd_sizes_saturate() {
    let mut story = Story::default();
    let (a, b) = (
        owning(0x10, chip(0), 1, u64::MAX),
        owning(0x20, chip(0), 2, u64::MAX),
    );
    story.allocate(a);
    story.allocate(b);
    assert_eq!(story.dram(chip(0)).live_bytes, u64::MAX);
    story.deallocate(a);
    story.deallocate(b);
    assert_eq!(story.dram(chip(0)).live_bytes, 0);
    story.event(0, 0, EventKind::Lost(u64::MAX));
    story.event(0, 0, EventKind::Lost(1));
    assert_eq!(story.ledger.lost(), u64::MAX);
}
