//! Temporary allocations.

use super::*;
use crate::frame::StackId;

fn buffer(number: u64) -> Buffer {
    owning(0x10 * number, chip(0), 0x1000 * number, number * KIB)
}

fn temporary(story: &Story) -> Vec<(GroupKey, Count)> {
    let mut all: Vec<_> = story
        .process()
        .temporary()
        .iter()
        .map(|(key, count)| (*key, *count))
        .collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

fn key(stack: u32) -> GroupKey {
    GroupKey {
        device: chip(0),
        buffer_type: BufferType::Dram,
        source: Source::Traced(Some(StackId(stack))),
    }
}

#[test]
fn a_buffer_freed_after_at_most_one_other_allocation_is_temporary() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1));
    story.deallocate(buffer(1));
    story.allocate_at(7, buffer(2));
    story.allocate_at(8, buffer(3));
    story.deallocate(buffer(2));
    let expected = Count {
        buffers: 2,
        bytes: 3 * KIB,
    };
    assert_eq!(temporary(&story), [(key(7), expected)]);
}

#[test]
fn a_buffer_freed_after_two_other_allocations_is_not_temporary() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1));
    story.allocate(buffer(2));
    story.allocate(buffer(3));
    story.deallocate(buffer(1));
    assert_eq!(temporary(&story), []);
}

#[test]
fn the_number_of_other_allocations_is_configurable() {
    let temporaries = |max_between| {
        let mut story = Story {
            ledger: Ledger::new(max_between),
            ..Story::default()
        };
        story.allocate_at(7, buffer(1));
        story.allocate(buffer(2));
        story.allocate(buffer(3));
        story.deallocate(buffer(1));
        temporary(&story).len()
    };
    assert_eq!([temporaries(0), temporaries(1), temporaries(2)], [0, 0, 1]);
}

#[test]
fn only_an_owning_buffers_own_deallocation_makes_it_temporary() {
    let mut story = Story::default();
    // A non-owning buffer isn't allocated, and a found buffer has no age.
    story.create(view(0x100, chip(0), 0x1000, KIB));
    story.destroy(view(0x100, chip(0), 0x1000, KIB));
    story.apply(EventKind::Found(buffer(1)));
    story.deallocate(buffer(1));
    story.allocate(buffer(2));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    story.allocate(buffer(3));
    story.allocate(Buffer {
        object: ObjectPointer(0x200),
        ..buffer(3)
    });
    story.allocate(buffer(4));
    story.apply(EventKind::Exec);
    assert_eq!(temporary(&story), []);
}
