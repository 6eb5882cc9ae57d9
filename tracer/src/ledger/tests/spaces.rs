//! What lies where, and what is free of each bank.

use super::*;

const KNOWN: BankRange = BankRange {
    banks: 12,
    start: 0x1000,
    end: 0x9000,
};

/// A DRAM buffer of the mesh that takes so much of each bank.
fn block(object: u64, address: u64, bytes: u64) -> Buffer {
    Buffer {
        bytes_per_bank: Some(bytes),
        ..owning(object, MESH, address, 12 * bytes)
    }
}

fn know(story: &mut Story, range: BankRange) {
    story
        .ledger
        .know_range(PID, ALLOCATOR, BufferType::Dram, range);
}

fn only(story: &Story) -> Space {
    let mut spaces = story.process().spaces();
    let (Some(space), None) = (spaces.next(), spaces.next()) else {
        panic!("one space")
    };
    space
}

/// Free bytes and the largest block of them.
type Left = Option<(u64, u64)>;

/// What is left, and the lengths of blocks in use by address.
fn told(story: &Story) -> (Left, Vec<(u64, Option<u64>)>) {
    let space = only(story);
    let free = space.free().map(|free| (free.bytes, free.largest));
    let used = space.used.iter().map(|used| (used.address, used.bytes));
    (free, used.collect())
}

#[test]
fn what_is_free_is_what_no_buffer_takes() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(block(0x20, 0x8000, 0x1000));
    story.allocate(block(0x30, 0x3000, 0x1000));
    // 0x1800 to 0x3000, and 0x4000 to 0x8000.
    let used = |used: &[(u64, u64)]| used.iter().map(|(at, bytes)| (*at, Some(*bytes))).collect();
    assert_eq!(
        told(&story),
        (
            Some((0x5800, 0x4000)),
            used(&[(0x1000, 0x800), (0x3000, 0x1000), (0x8000, 0x1000)])
        )
    );
    // The largest is before the first one.
    story.deallocate(block(0x30, 0x3000, 0x1000));
    story.deallocate(block(0x10, 0x1000, 0x800));
    assert_eq!(
        told(&story),
        (Some((0x7000, 0x7000)), used(&[(0x8000, 0x1000)]))
    );
    // And behind the last one.
    story.allocate(block(0x40, 0x2000, 0x100));
    story.deallocate(block(0x20, 0x8000, 0x1000));
    assert_eq!(
        told(&story),
        (Some((0x7f00, 0x6f00)), used(&[(0x2000, 0x100)]))
    );
}

#[test]
fn fragmentation_is_the_part_of_the_free_bytes_that_is_not_in_one_block() {
    let free = |bytes, largest| Free { bytes, largest }.fragmentation();
    assert_eq!(free(0x1000, 0x1000), 0.0);
    assert_eq!(free(0x1000, 0x400), 0.75);
    assert_eq!(free(0, 0), 0.0, "nothing is free, so nothing is in pieces");
}

#[test]
fn without_a_range_or_a_length_nobody_knows_what_is_free() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x1000, 0x800));
    assert_eq!(told(&story), (None, vec![(0x1000, Some(0x800))]));
    know(&mut story, KNOWN);
    assert_eq!(told(&story).0, Some((0x7800, 0x7800)));
    // One whose length nobody has told.
    story.allocate(owning(0x20, MESH, 0x2000, KIB));
    assert_eq!(
        told(&story),
        (None, vec![(0x1000, Some(0x800)), (0x2000, None)])
    );
    story.deallocate(owning(0x20, MESH, 0x2000, KIB));
    assert_eq!(told(&story).0, Some((0x7800, 0x7800)));
    // One beyond the range: it isn't that allocator's.
    story.allocate(block(0x30, 0x8800, 0x801));
    assert_eq!(told(&story).0, None);
}

#[test]
fn what_overlaps_because_an_end_was_lost_is_counted_once() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x2000));
    story.allocate(block(0x20, 0x1800, 0x800));
    story.allocate(block(0x30, 0x2800, 0x1000));
    // 0x1000 to 0x3800.
    assert_eq!(told(&story).0, Some((0x5800, 0x5800)));
}

#[test]
fn each_allocator_and_type_has_a_space_and_an_empty_buffer_lies_in_none() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(owning(0x20, MESH, 0, 0));
    story.allocate(Buffer {
        buffer_type: BufferType::L1,
        ..block(0x30, 0x1000, 0x800)
    });
    story.allocate(Buffer {
        allocator: AllocatorPointer(0xb0),
        ..block(0x40, 0x1000, 0x400)
    });
    let spaces: Vec<_> = story
        .process()
        .spaces()
        .map(|space| (space.buffer_type, space.used.len(), space.range))
        .collect();
    assert_eq!(
        spaces,
        [
            (BufferType::Dram, 1, Some(KNOWN)),
            (BufferType::L1, 1, None),
            (BufferType::Dram, 1, None),
        ]
    );
}

#[test]
fn what_was_found_lies_where_it_was_found() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.apply(EventKind::Found(block(0x10, 0x1000, 0x800)));
    assert_eq!(told(&story).0, Some((0x7800, 0x7800)));
    // Its allocation comes only now, and tells no length.
    story.allocate(owning(0x10, MESH, 0x1000, 12 * 0x800));
    assert_eq!(told(&story), (None, vec![(0x1000, None)]));
    assert_eq!(story.dram(MESH).live_buffers, 1);
}

#[test]
fn a_failure_knows_what_was_free_then() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(block(0x20, 0x3000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    story.deallocate(block(0x20, 0x3000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    let free: Vec<_> = story
        .process()
        .failed_allocations()
        .iter()
        .map(|failed| {
            failed
                .free
                .map(|(range, free)| (range, free.bytes, free.largest))
        })
        .collect();
    assert_eq!(
        free,
        [Some((KNOWN, 0x7000, 0x5800)), Some((KNOWN, 0x7800, 0x7800))]
    );
}

#[test]
fn a_failure_of_an_allocator_that_gave_nothing_has_all_free() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    let free = story.process().failed_allocations()[0].free;
    let all = Free {
        bytes: 0x8000,
        largest: 0x8000,
    };
    assert_eq!(free, Some((KNOWN, all)));
}

#[test]
fn a_range_that_is_learnt_later_tells_what_was_free_at_a_failure() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    let free = |story: &Story| {
        let free = story.process().failed_allocations()[0].free;
        free.map(|(_, free)| (free.bytes, free.largest))
    };
    assert_eq!(free(&story), None);
    story.deallocate(block(0x10, 0x2000, 0x800));
    know(&mut story, KNOWN);
    assert_eq!(free(&story), Some((0x7800, 0x6800)));
    // What the allocator has now was not what it had then.
    know(
        &mut story,
        BankRange {
            end: 0x8000,
            ..KNOWN
        },
    );
    assert_eq!(free(&story), Some((0x7800, 0x6800)));
}

#[test]
fn the_range_of_an_allocator_that_freed_all_is_not_that_of_the_next_one_there() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    know(&mut story, KNOWN);
    assert_eq!(story.process().failed_allocations()[0].free, None);
    story.apply(EventKind::BulkFree(ALLOCATOR));
    story.allocate(block(0x20, 0x2000, 0x800));
    assert_eq!(only(&story).range, None);
}

#[test]
fn what_lay_there_when_all_was_freed_is_kept_until_there_is_another() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(block(0x20, 0x3000, 0x800));
    story.deallocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    let freed_at = story.now;
    // A device that closes frees all twice.
    story.apply(EventKind::BulkFree(ALLOCATOR));
    let space = only(&story);
    assert_eq!(space.freed_at, Some(Nanoseconds(freed_at)));
    assert_eq!(
        told(&story),
        (Some((0x7800, 0x5800)), vec![(0x3000, Some(0x800))])
    );

    // The device is opened again.
    story.allocate(Buffer {
        allocator: AllocatorPointer(0xb0),
        ..block(0x40, 0x5000, 0x800)
    });
    let space = only(&story);
    assert_eq!((space.freed_at, space.used[0].address), (None, 0x5000));
}

#[test]
fn what_lies_there_when_the_process_ends_is_the_end() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    assert_eq!(told(&story).0, Some((0x7800, 0x7800)));
}

#[test]
fn a_program_that_is_executed_has_allocators_of_its_own() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Exec);
    assert_eq!(story.process().spaces().count(), 0);
    story.allocate(block(0x10, 0x1000, 0x800));
    assert_eq!(only(&story).range, None);
}

#[test]
fn lengths_that_turn_out_wrong_are_known_no_more() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    story.ledger.forget_lengths(PID);
    assert_eq!(told(&story), (None, vec![(0x1000, None)]));
    let process = story.process();
    assert_eq!(process.failed_allocations()[0].free, None);
    let live = process.owning().next().expect("one");
    assert_eq!(live.buffer.bytes_per_bank, None);
}

#[test]
fn where_not_all_in_use_is_known_nobody_knows_what_is_free() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.ledger.misses_some(PID);
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    assert_eq!(told(&story), (None, vec![(0x1000, Some(0x800))]));
    assert_eq!(story.process().failed_allocations()[0].free, None);
}

#[test]
fn the_first_failures_know_what_lay_where() {
    let mut story = Story::default();
    know(&mut story, KNOWN);
    let fail = |story: &mut Story, buffer_type| {
        story.apply(EventKind::Failed(Buffer {
            buffer_type,
            ..owning(0x30, MESH, 0, 1 << 30)
        }));
    };
    fail(&mut story, BufferType::Dram);
    story.allocate(block(0x10, 0x1000, 0x800));
    fail(&mut story, BufferType::Dram);
    fail(&mut story, BufferType::L1);
    story.deallocate(block(0x10, 0x1000, 0x800));
    for _ in 0..5 {
        fail(&mut story, BufferType::Dram);
    }
    let spaces: Vec<_> = story
        .process()
        .failed_allocations()
        .iter()
        .map(|failed| {
            let space = failed.space.as_ref()?;
            assert_eq!((space.device, space.freed_at), (MESH, None));
            let used: Vec<u64> = space.used.iter().map(|used| used.address).collect();
            Some((space.buffer_type, space.range, used))
        })
        .collect();
    let dram = |used| Some((BufferType::Dram, Some(KNOWN), used));
    assert_eq!(
        spaces,
        [
            dram(vec![]),
            dram(vec![0x1000]),
            Some((BufferType::L1, None, vec![])),
            dram(vec![]),
            dram(vec![]),
            None,
            None,
            None,
        ]
    );
}

#[test]
fn where_a_range_is_learnt_after_a_failure_its_space_has_it() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    for _ in 0..2 {
        story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
        know(&mut story, KNOWN);
        let failed = &story.process().failed_allocations()[0];
        let space = failed.space.as_ref().expect("of the first");
        assert_eq!(space.range, Some(KNOWN));
        assert_eq!(space.free(), failed.free.map(|(_, free)| free));
    }
}
