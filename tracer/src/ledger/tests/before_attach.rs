//! What was allocated before the tracer attached.

use super::*;

fn found(story: &mut Story, buffer: Buffer) -> Effect {
    story.apply(EventKind::Found(buffer)).effect
}

#[test]
fn a_found_buffer_is_live_and_was_never_allocated() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    assert_eq!(found(&mut story, buffer), Effect::Found);

    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (4 * KIB, 1));
    assert_eq!((account.allocated_bytes, account.allocations), (0, 0));
    assert_eq!(account.peak_bytes, 4 * KIB);
    let live = story.process().owning().next().unwrap();
    assert!(live.before_attach());
    assert_eq!(
        story.ledger.received(),
        0,
        "a found buffer was read, not received"
    );
}

#[test]
fn a_found_buffer_is_freed_like_any_other() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    found(&mut story, buffer);
    let Effect::Deallocated(live) = story.deallocate(buffer).effect else {
        panic!("an unmatched deallocation")
    };
    assert!(live.before_attach());
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.freed_bytes), (0, 4 * KIB));
    assert_eq!(story.process().counters().unmatched_deallocations, 0);
}

#[test]
fn a_bulk_free_frees_found_buffers() {
    let mut story = Story::default();
    found(&mut story, owning(0x10, chip(0), 0x1000, 4 * KIB));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    assert_eq!(story.dram(chip(0)).live_bytes, 0);
    assert!(story.ledger.is_exact());
}

#[test]
fn a_buffer_whose_allocation_was_seen_is_not_found_again() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(buffer);
    assert_eq!(found(&mut story, buffer), Effect::Known);
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.live_buffers), (4 * KIB, 1));
    assert!(!story.process().owning().next().unwrap().before_attach());
}

/// The snapshot was read after the allocator had given the address and before the probe was hit.
#[test]
fn a_buffer_that_was_found_in_the_middle_of_its_allocation_counts_once() {
    let mut story = Story::default();
    let buffer = owning(0x10, MESH, 0x1000, 4 * KIB);
    story.ledger.add_members(PID, MESH, [0, 1]);
    found(&mut story, buffer);
    assert_eq!(story.allocate(buffer).implied_ends, []);
    for device in [MESH, chip(0), chip(1)] {
        let account = story.dram(device);
        assert_eq!((account.live_bytes, account.live_buffers), (4 * KIB, 1));
        assert_eq!((account.allocated_bytes, account.allocations), (4 * KIB, 1));
        assert_eq!((account.freed_bytes, account.deallocations), (0, 0));
    }
    assert!(!story.process().owning().next().unwrap().before_attach());
    assert!(story.ledger.is_exact());
}

#[test]
fn another_buffer_at_a_found_buffers_object_implies_the_end_of_the_found_one() {
    let mut story = Story::default();
    let old = owning(0x10, chip(0), 0x1000, 4 * KIB);
    found(&mut story, old);
    let outcome = story.allocate(owning(0x10, chip(0), 0x2000, 2 * KIB));
    assert_eq!(outcome.implied_ends.len(), 1);
    assert_eq!(story.dram(chip(0)).live_bytes, 2 * KIB);
    assert!(!story.ledger.is_exact());
}

#[test]
fn a_found_buffer_of_a_mesh_with_known_members_counts_on_each() {
    let mut story = Story::default();
    story.ledger.add_members(PID, MESH, [0, 3]);
    found(&mut story, owning(0x10, MESH, 0x1000, 4 * KIB));
    assert_eq!(story.dram(chip(0)).live_bytes, 4 * KIB);
    assert_eq!(story.dram(chip(3)).live_bytes, 4 * KIB);
    let members = &story.process().devices()[&MESH].members;
    assert_eq!(members.iter().copied().collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn a_copy_of_the_parents_object_holds_no_memory() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.ledger.inherit(PID, buffer.object);
    assert_eq!(story.deallocate(buffer).effect, Effect::HadNoMemory);
    assert_eq!(story.process().counters().unmatched_deallocations, 0);
}
