//! What the events of two readings' time make of what was read. Times are in nanoseconds; the first
//! reading is over at 100, the second at 200.

use std::collections::BTreeMap;

use super::{count_unexplained, reconcile};
use crate::{
    ledger::{AllocatorPointer, Buffer, Event, EventKind, ObjectPointer},
    snapshot::fixture::{buffer, event, pair, unrecognized},
};

/// The sizes of the buffers that were live when the probes went on, by object.
fn before(first: &[Buffer], second: &[Buffer], events: &[Event]) -> BTreeMap<u64, u64> {
    reconcile(&pair(first, second), events)
        .into_iter()
        .map(|(object, buffer)| (object.0, buffer.size))
        .collect()
}

#[test]
fn a_buffer_that_was_read_and_has_no_event_was_live() {
    let all = [buffer(1, 64), buffer(2, 32)];
    assert_eq!(before(&all, &all, &[]), BTreeMap::from([(1, 64), (2, 32)]));
}

#[test]
fn a_buffer_that_only_the_second_reading_found_was_live() {
    assert_eq!(
        before(&[], &[buffer(1, 64)], &[]),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn a_buffer_that_is_gone_without_an_event_was_being_freed_when_the_probes_went_on() {
    assert_eq!(before(&[buffer(1, 64)], &[], &[]), BTreeMap::new());
}

#[test]
fn a_buffer_that_was_allocated_meanwhile_has_an_event_of_its_own() {
    let events = [event(50, EventKind::Allocate(buffer(1, 64)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &all, &events), BTreeMap::new());
}

#[test]
fn a_buffer_that_was_read_and_then_freed_was_live() {
    let events = [event(150, EventKind::Deallocate(ObjectPointer(1)))];
    assert_eq!(
        before(&[buffer(1, 64)], &[], &events),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn a_buffer_that_was_freed_before_a_reading_was_over_is_left_out() {
    let events = [event(50, EventKind::Deallocate(ObjectPointer(1)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &[], &events), BTreeMap::new());
}

#[test]
fn a_freed_buffer_whose_address_was_used_again_is_returned_as_it_was_read() {
    let events = [
        event(120, EventKind::Deallocate(ObjectPointer(1))),
        event(130, EventKind::Allocate(buffer(1, 4096))),
    ];
    assert_eq!(
        before(&[buffer(1, 64)], &[buffer(1, 4096)], &events),
        BTreeMap::from([(1, 64)])
    );
}

#[test]
fn buffers_of_a_bulk_free_after_the_reading_were_live() {
    let events = [
        event(150, EventKind::BulkFree(AllocatorPointer(7))),
        // TT-Metal deallocates each of them as well, and allocates others.
        event(160, EventKind::Deallocate(ObjectPointer(1))),
        event(170, EventKind::Allocate(buffer(2, 128))),
    ];
    assert_eq!(
        before(&[buffer(1, 64), buffer(2, 32)], &[buffer(2, 128)], &events),
        BTreeMap::from([(1, 64), (2, 32)])
    );
}

#[test]
fn buffers_of_a_bulk_free_before_the_reading_was_over_are_left_out() {
    let events = [
        event(50, EventKind::BulkFree(AllocatorPointer(7))),
        event(160, EventKind::Deallocate(ObjectPointer(1))),
    ];
    let all = [buffer(1, 64), buffer(2, 32)];
    assert_eq!(before(&all, &[], &events), BTreeMap::new());
}

#[test]
fn a_bulk_free_of_another_allocator_changes_nothing() {
    let events = [event(50, EventKind::BulkFree(AllocatorPointer(8)))];
    let all = [buffer(1, 64)];
    assert_eq!(before(&all, &all, &events), BTreeMap::from([(1, 64)]));
}

#[test]
fn an_object_is_unexplained_if_both_readings_have_it_and_no_event_names_it() {
    let readings = unrecognized(&[1, 2, 3], &[2, 3, 4]);
    assert_eq!(count_unexplained(&readings, &[]), 2);
    let allocated = [event(250, EventKind::Allocate(buffer(3, 64)))];
    assert_eq!(count_unexplained(&readings, &allocated), 1);
}
