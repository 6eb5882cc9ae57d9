//! Ends of buffers: unmatched, implied, and in bulk; and the end of a process.

use super::*;
use crate::ledger::process::End;

#[test]
fn the_end_of_an_unknown_owning_buffer_changes_no_total() {
    let mut story = Story::default();
    let (known, unknown) = (
        owning(0x10, chip(0), 0x1000, 4 * KIB),
        owning(0x20, chip(0), 0x9000, 8 * KIB),
    );
    story.allocate(known);
    let before = story.dram(chip(0));
    assert_eq!(story.deallocate(unknown).effect, Effect::Unmatched);
    assert_eq!(story.dram(chip(0)), before);
    assert_eq!(story.process().counters().unmatched_deallocations, 1);
}

#[test]
fn the_end_of_an_unknown_non_owning_buffer_is_counted_apart_from_the_destroyed() {
    let mut story = Story::default();
    assert_eq!(
        story.destroy(view(0x10, chip(0), 0x1000, KIB)).effect,
        Effect::Unmatched
    );
    let counters = story.process().counters();
    assert_eq!((counters.destroyed, counters.unmatched_destroys), (0, 1));
    assert_eq!(story.process().non_owning().len(), 0);
}

#[test]
fn an_allocation_on_a_live_object_implies_that_its_buffer_was_freed() {
    let mut story = Story::default();
    let old = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(old);
    let outcome = story.allocate(owning(0x10, chip(0), 0x2000, KIB));

    assert_eq!(outcome.effect, Effect::Allocated);
    assert_eq!(
        outcome
            .implied_ends
            .iter()
            .map(|live| live.buffer)
            .collect::<Vec<_>>(),
        [old]
    );
    assert_eq!(story.process().counters().implied_deallocations, 1);
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (KIB, 1));
    assert_eq!((account.freed_bytes, account.deallocations), (4 * KIB, 1));
    // The old buffer ended before the new one was allocated.
    assert_eq!(account.peak_bytes, 4 * KIB);
    assert!(!story.ledger.is_exact());
}

#[test]
fn an_allocation_at_a_live_address_implies_that_the_buffer_there_was_freed() {
    let mut story = Story::default();
    let old = owning(0x10, chip(0), 0x1000, 4 * KIB);
    let new = owning(0x20, chip(0), 0x1000, KIB);
    story.allocate(old);
    story.allocate(new);
    assert_eq!(story.process().counters().implied_deallocations, 1);
    assert_eq!(story.dram(chip(0)).live_bytes, KIB);
    assert_eq!(story.deallocate(old).effect, Effect::Unmatched);
    assert!(matches!(
        story.deallocate(new).effect,
        Effect::Deallocated(_)
    ));
}

#[test]
fn another_allocator_or_type_of_memory_may_give_the_same_address() {
    let mut story = Story::default();
    let first = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(first);
    story.allocate(Buffer {
        object: ObjectPointer(0x20),
        allocator: AllocatorPointer(0xb0),
        device: chip(1),
        ..first
    });
    story.allocate(Buffer {
        object: ObjectPointer(0x30),
        buffer_type: BufferType::L1,
        ..first
    });
    assert_eq!(story.process().owning().len(), 3);
    assert!(story.ledger.is_exact());
}

#[test]
fn an_address_is_free_again_after_any_end() {
    let mut story = Story::default();
    let at = |object| owning(object, chip(0), 0x1000, KIB);
    story.allocate(at(0x10));
    story.deallocate(at(0x10));
    story.allocate(at(0x20));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    story.allocate(at(0x30));
    assert!(story.ledger.is_exact());
    assert_eq!(story.process().owning().len(), 1);
}

#[test]
fn a_creation_on_a_live_object_implies_that_its_buffer_was_destroyed() {
    let mut story = Story::default();
    story.create(view(0x10, chip(0), 0x1000, KIB));
    story.create(view(0x10, chip(0), 0x2000, KIB));
    let counters = story.process().counters();
    assert_eq!(
        (
            counters.created,
            counters.destroyed,
            counters.implied_destroys
        ),
        (2, 1, 1)
    );
    assert_eq!(story.process().non_owning().len(), 1);
}

#[test]
fn an_object_is_either_owning_or_non_owning() {
    let mut story = Story::default();
    story.allocate(owning(0x10, chip(0), 0x1000, KIB));
    story.create(view(0x10, chip(0), 0x1000, KIB));
    assert_eq!(
        (
            story.process().owning().len(),
            story.process().non_owning().len()
        ),
        (0, 1)
    );
    story.allocate(owning(0x10, chip(0), 0x1000, KIB));
    assert_eq!(
        (
            story.process().owning().len(),
            story.process().non_owning().len()
        ),
        (1, 0)
    );
    let counters = story.process().counters();
    assert_eq!(
        (counters.implied_deallocations, counters.implied_destroys),
        (1, 1)
    );
}

#[test]
fn an_end_of_the_other_kind_implies_an_end_and_is_itself_unmatched() {
    let mut story = Story::default();
    story.allocate(owning(0x10, chip(0), 0x1000, KIB));
    story.destroy(view(0x10, chip(0), 0x1000, KIB));
    story.create(view(0x20, chip(0), 0x1000, KIB));
    story.deallocate(owning(0x20, chip(0), 0x1000, KIB));

    let counters = story.process().counters();
    assert_eq!(
        (counters.implied_deallocations, counters.unmatched_destroys),
        (1, 1)
    );
    assert_eq!(
        (counters.implied_destroys, counters.unmatched_deallocations),
        (1, 1)
    );
    assert_eq!(story.dram(chip(0)).live_bytes, 0);
}

#[test]
fn a_bulk_free_ends_all_live_owning_buffers_of_its_allocator_and_no_others() {
    let mut story = Story::default();
    let other = Buffer {
        allocator: AllocatorPointer(0xb0),
        ..owning(0x30, chip(1), 0x1000, 16 * KIB)
    };
    story.allocate(owning(0x10, chip(0), 0x1000, 4 * KIB));
    story.allocate(owning(0x20, chip(0), 0x2000, 2 * KIB));
    story.allocate(other);
    story.create(view(0x40, chip(0), 0x1000, 4 * KIB));

    let outcome = story.apply(EventKind::BulkFree(ALLOCATOR));
    let freed = Effect::BulkFreed {
        buffers: 2,
        bytes: 6 * KIB,
        device: Some(chip(0)),
    };
    assert_eq!(outcome.effect, freed);
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (0, 0));
    assert_eq!((account.freed_bytes, account.deallocations), (6 * KIB, 2));
    assert_eq!(story.dram(chip(1)).live_bytes, 16 * KIB);
    assert_eq!(
        story.process().non_owning().len(),
        1,
        "a view outlives the memory that it refers to"
    );
    assert_eq!(story.process().counters().bulk_frees, 1);
}

#[test]
fn a_bulk_free_of_nothing_counts_as_a_bulk_free() {
    let mut story = Story::default();
    let outcome = story.apply(EventKind::BulkFree(ALLOCATOR));
    assert_eq!(
        outcome.effect,
        Effect::BulkFreed {
            buffers: 0,
            bytes: 0,
            device: None
        }
    );
    assert_eq!(story.process().counters().bulk_frees, 1);
}

#[test]
fn the_late_end_of_a_buffer_freed_in_bulk_is_not_unmatched() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(buffer);
    story.apply(EventKind::BulkFree(ALLOCATOR));
    assert_eq!(story.deallocate(buffer).effect, Effect::HadNoMemory);
    assert_eq!(story.process().counters().unmatched_deallocations, 0);
    assert_eq!(story.dram(chip(0)).deallocations, 1);
}

#[test]
fn an_exit_leaves_the_state_as_it_was() {
    let mut story = Story::default();
    story.allocate(owning(0x10, chip(0), 0x1000, 4 * KIB));
    assert_eq!(
        story.apply(EventKind::Exit(Some(Exit::Code(3)))).effect,
        Effect::Exited
    );

    let end = story.process().end();
    assert_eq!(
        end,
        Some(End {
            at: Nanoseconds(2),
            how: Some(Exit::Code(3))
        })
    );
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (4 * KIB, 1));
    assert_eq!((account.freed_bytes, account.deallocations), (0, 0));
}

#[test]
fn events_after_an_exit_are_counted_but_not_applied() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(buffer);
    story.apply(EventKind::Exit(None));
    assert_eq!(story.deallocate(buffer).effect, Effect::AfterExit);
    assert_eq!(
        story.apply(EventKind::BulkFree(ALLOCATOR)).effect,
        Effect::AfterExit
    );

    assert_eq!(story.dram(chip(0)).live_buffers, 1);
    let counters = story.process().counters();
    assert_eq!(
        (counters.bulk_frees, counters.after_exit, counters.received),
        (0, 2, 4)
    );
}

#[test]
fn of_several_exits_the_last_one_counts() {
    let mut story = Story::default();
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    story.apply(EventKind::Exit(Some(Exit::Signal(9))));
    let end = |at, exit| {
        Some(End {
            at: Nanoseconds(at),
            how: Some(exit),
        })
    };
    assert_eq!(story.process().end(), end(2, Exit::Signal(9)));
    // An exit of unknown cause doesn't replace a known one.
    story.apply(EventKind::Exit(None));
    assert_eq!(story.process().end(), end(3, Exit::Signal(9)));
}
