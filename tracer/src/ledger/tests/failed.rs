//! Failed allocations.

use super::*;
use crate::frame::StackId;

fn asked(size: u64) -> Buffer {
    owning(0x10_0000, chip(0), 0, size)
}

fn fail(story: &mut Story, size: u64) {
    story.stack = Some(StackId(1));
    story.apply(EventKind::Failed(asked(size)));
    story.stack = None;
}

#[test]
fn a_failure_has_what_was_asked_for_and_where() {
    let mut story = Story::default();
    fail(&mut story, 64 * KIB);
    let [failed] = story.process().failed_allocations() else {
        panic!("one failure")
    };
    assert_eq!(failed.buffer.size, 64 * KIB);
    assert_eq!((failed.at, failed.tid), (Nanoseconds(1), TID));
    assert_eq!(failed.stack, Some(StackId(1)));
    assert_eq!((failed.live, failed.rest), Default::default());
    assert!(failed.largest.is_empty());
}

#[test]
fn a_failure_has_what_held_the_memory_at_that_time() {
    let mut story = Story::default();
    story.allocate_at(7, owning(0x10, chip(0), 0x1000, KIB));
    story.allocate_at(8, owning(0x20, chip(0), 0x2000, 4 * KIB));
    // The next two are in another type of memory or on another device.
    story.allocate_at(
        9,
        Buffer {
            buffer_type: BufferType::L1,
            ..owning(0x30, chip(0), 0x1000, KIB)
        },
    );
    story.allocate_at(9, owning(0x40, chip(1), 0x3000, KIB));
    fail(&mut story, 64 * KIB);
    story.deallocate(owning(0x20, chip(0), 0x2000, 4 * KIB));

    let failed = &story.process().failed_allocations()[0];
    let count = |buffers, bytes| Count { buffers, bytes };
    assert_eq!(failed.live, count(2, 5 * KIB));
    let at = |stack| Source::Traced(Some(StackId(stack)));
    assert_eq!(
        failed.largest,
        [(at(8), count(1, 4 * KIB)), (at(7), count(1, KIB))],
        "as it was at the failure, the largest part first"
    );
}

#[test]
fn beyond_the_ten_largest_parts_the_rest_is_added_up() {
    let mut story = Story::default();
    for number in 1..=12 {
        story.allocate_at(
            number as u32,
            owning(0x10 * number, chip(0), 0x1000 * number, number * KIB),
        );
    }
    fail(&mut story, 64 * KIB);
    let failed = &story.process().failed_allocations()[0];
    assert_eq!(failed.largest.len(), 10);
    assert_eq!(failed.largest[0].1.bytes, 12 * KIB);
    assert_eq!((failed.rest.buffers, failed.rest.bytes), (2, 3 * KIB));
    assert_eq!((failed.live.buffers, failed.live.bytes), (12, 78 * KIB));
}

#[test]
fn the_first_hundred_are_kept_and_all_are_counted() {
    let mut story = Story::default();
    for size in 0..150 {
        fail(&mut story, size);
    }
    let process = story.process();
    assert_eq!(process.counters().failed_allocations, 150);
    assert_eq!(process.failed_allocations().len(), 100);
    assert_eq!(process.failed_allocations()[99].buffer.size, 99);
}
