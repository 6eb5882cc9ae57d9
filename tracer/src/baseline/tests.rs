//! What the events of a survey's time make of what was read. Times in nanoseconds; the early reading
//! is over at 100, the late one at 200.

use std::collections::BTreeMap;

use super::{Reading, Survey, reconcile, unexplained};
use crate::ledger::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};

const EARLY: Nanoseconds = Nanoseconds(100);
const LATE: Nanoseconds = Nanoseconds(200);

fn buffer(object: u64, size: u64) -> Buffer {
    Buffer {
        object: ObjectPointer(object),
        allocator: AllocatorPointer(7),
        device: Device {
            kind: DeviceKind::Mesh,
            id: 1,
        },
        address: 0x1000 * object,
        size,
        page_size: 32,
        buffer_type: BufferType::Dram,
        layout: Layout::Interleaved,
        bytes_per_bank: None,
        unique_id: None,
        ownership: Ownership::Owning,
    }
}

fn reading(until: Nanoseconds, buffers: &[Buffer]) -> Reading {
    let buffers = buffers.iter().map(|buffer| (buffer.object, *buffer));
    Reading {
        survey: Survey {
            buffers: buffers.collect(),
            ..Survey::default()
        },
        until,
    }
}

fn at(time: u64, kind: EventKind) -> Event {
    Event {
        pid: 1,
        tid: 1,
        time: Nanoseconds(time),
        kind,
        stack: None,
    }
}

/// The sizes of what is told to have been there before, by object.
fn before(early: &[Buffer], late: &[Buffer], events: &[Event]) -> BTreeMap<u64, u64> {
    reconcile(&reading(EARLY, early), &reading(LATE, late), events)
        .into_iter()
        .map(|(object, buffer)| (object.0, buffer.size))
        .collect()
}

#[test]
fn what_was_read_and_nothing_happened_to_was_there() {
    let all = [buffer(1, 64), buffer(2, 32)];
    assert_eq!(before(&all, &all, &[]), BTreeMap::from([(1, 64), (2, 32)]));
}

#[test]
fn one_that_only_the_late_reading_saw_was_there_too() {
    assert_eq!(
        before(&[], &[buffer(1, 64)], &[]),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn one_that_is_gone_without_an_event_was_being_freed_when_the_probes_went_on() {
    assert_eq!(before(&[buffer(1, 64)], &[], &[]), BTreeMap::new());
}

#[test]
fn one_that_was_born_meanwhile_is_told_by_its_event() {
    let events = [at(50, EventKind::Allocate(buffer(1, 64)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &all, &events), BTreeMap::new());
}

#[test]
fn one_that_was_read_and_then_freed_was_there() {
    let events = [at(150, EventKind::Deallocate(ObjectPointer(1)))];
    assert_eq!(
        before(&[buffer(1, 64)], &[], &events),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn one_that_was_freed_before_it_could_be_read_for_sure_is_left_out() {
    let events = [at(50, EventKind::Deallocate(ObjectPointer(1)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &[], &events), BTreeMap::new());
}

#[test]
fn one_whose_place_was_taken_by_another_is_told_as_it_was() {
    let events = [
        at(120, EventKind::Deallocate(ObjectPointer(1))),
        at(130, EventKind::Allocate(buffer(1, 4096))),
    ];
    assert_eq!(
        before(&[buffer(1, 64)], &[buffer(1, 4096)], &events),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn what_an_allocator_freed_at_once_after_it_was_read_was_there() {
    let events = [
        at(150, EventKind::BulkFree(AllocatorPointer(7))),
        // TT-Metal deallocates them one by one, too, and makes others.
        at(160, EventKind::Deallocate(ObjectPointer(1))),
        at(170, EventKind::Allocate(buffer(2, 128))),
    ];
    assert_eq!(
        before(&[buffer(1, 64), buffer(2, 32)], &[buffer(2, 128)], &events),
        BTreeMap::from([(1, 64), (2, 32)])
    );
}

#[test]
fn what_an_allocator_freed_at_once_before_it_was_read_is_left_out() {
    let events = [
        at(50, EventKind::BulkFree(AllocatorPointer(7))),
        at(160, EventKind::Deallocate(ObjectPointer(1))),
    ];
    let all = [buffer(1, 64), buffer(2, 32)];
    assert_eq!(before(&all, &[], &events), BTreeMap::new());
}

#[test]
fn another_allocators_bulk_free_is_nothing_to_it() {
    let events = [at(50, EventKind::BulkFree(AllocatorPointer(8)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &all, &events), BTreeMap::from([(1, 64)]));
}

#[test]
fn an_odd_object_counts_if_it_stays_so_and_nothing_happens_to_it() {
    let odd = |until, objects: &[u64]| Reading {
        survey: Survey {
            odd: objects
                .iter()
                .map(|object| ObjectPointer(*object))
                .collect(),
            ..Survey::default()
        },
        until,
    };
    let (early, late) = (odd(EARLY, &[1, 2, 3]), odd(LATE, &[2, 3, 4]));
    assert_eq!(unexplained(&early, &late, &[]), 2);
    let born = [at(250, EventKind::Allocate(buffer(3, 64)))];
    assert_eq!(unexplained(&early, &late, &born), 1);
}
