//! Allocations that don't last.

use super::*;
use crate::stack::StackId;

fn buffer(number: u64) -> Buffer {
    owning(0x10 * number, chip(0), 0x1000 * number, number * KIB)
}

fn temporary(story: &Story) -> Vec<(Kin, Tally)> {
    let mut all: Vec<_> = story
        .process()
        .temporary()
        .iter()
        .map(|(kin, tally)| (*kin, *tally))
        .collect();
    all.sort_by_key(|(kin, _)| *kin);
    all
}

fn kin(stack: u32) -> Kin {
    let source = Source::Traced(Some(StackId(stack)));
    (chip(0), BufferType::Dram, source)
}

#[test]
fn what_is_freed_with_one_other_in_between_is_temporary() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1));
    story.deallocate(buffer(1));
    story.allocate_at(7, buffer(2));
    story.allocate_at(8, buffer(3));
    story.deallocate(buffer(2));
    let expected = Tally {
        buffers: 2,
        bytes: 3 * KIB,
    };
    assert_eq!(temporary(&story), [(kin(7), expected)]);
}

#[test]
fn with_two_others_in_between_it_is_not() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1));
    story.allocate(buffer(2));
    story.allocate(buffer(3));
    story.deallocate(buffer(1));
    assert_eq!(temporary(&story), []);
}

#[test]
fn how_many_others_is_for_the_person_to_say() {
    let lasting = |most| {
        let mut story = Story {
            ledger: Ledger::new(most),
            ..Story::default()
        };
        story.allocate_at(7, buffer(1));
        story.allocate(buffer(2));
        story.allocate(buffer(3));
        story.deallocate(buffer(1));
        temporary(&story).len()
    };
    assert_eq!([lasting(0), lasting(1), lasting(2)], [0, 0, 1]);
}

#[test]
fn only_a_free_of_its_own_makes_it_temporary() {
    let mut story = Story::default();
    // A non-owning buffer is no allocation, and what nobody saw born has no age.
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
