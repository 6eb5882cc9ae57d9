//! Allocations that fail.

use super::*;
use crate::stack::StackId;

fn asked(size: u64) -> Buffer {
    owning(0x10_0000, chip(0), 0, size)
}

fn fail(story: &mut Story, size: u64) {
    story.stack = Some(StackId(1));
    story.apply(EventKind::Failed(asked(size)));
    story.stack = None;
}

#[test]
fn a_failure_tells_what_was_asked_for_and_by_whom() {
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
fn a_failure_tells_who_had_that_memory_then() {
    let mut story = Story::default();
    story.allocate_at(7, owning(0x10, chip(0), 0x1000, KIB));
    story.allocate_at(8, owning(0x20, chip(0), 0x2000, 4 * KIB));
    // Neither in that memory nor on that device.
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
    let tally = |buffers, bytes| Tally { buffers, bytes };
    assert_eq!(failed.live, tally(2, 5 * KIB));
    let at = |stack| Source::Traced(Some(StackId(stack)));
    assert_eq!(
        failed.largest,
        [(at(8), tally(1, 4 * KIB)), (at(7), tally(1, KIB))],
        "as it was then, the largest first"
    );
}

#[test]
fn beyond_the_largest_ten_the_rest_is_one() {
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
