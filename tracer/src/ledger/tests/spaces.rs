//! The blocks in use of each bank, and what is free.

use super::*;

const RANGE: BankRange = BankRange {
    banks: 12,
    start: 0x1000,
    end: 0x9000,
};

/// A DRAM buffer on the mesh that takes this many bytes of each bank.
fn block(object: u64, address: u64, bytes: u64) -> Buffer {
    Buffer {
        bytes_per_bank: Some(bytes),
        ..owning(object, MESH, address, 12 * bytes)
    }
}

fn set_range(story: &mut Story, range: BankRange) {
    story
        .ledger
        .set_bank_range(PID, ALLOCATOR, BufferType::Dram, range);
}

fn only(story: &Story) -> Space {
    let mut spaces = story.process().spaces();
    let (Some(space), None) = (spaces.next(), spaces.next()) else {
        panic!("one space")
    };
    space
}

/// Free bytes, and the size of the largest free block.
type Free = Option<(u64, u64)>;

/// What is free, and the address and length of each block in use.
fn bank(story: &Story) -> (Free, Vec<(u64, Option<u64>)>) {
    let space = only(story);
    let free = space.free().map(|free| (free.bytes, free.largest));
    let used = space.used.iter().map(|used| (used.address, used.bytes));
    (free, used.collect())
}

#[test]
fn what_no_buffer_takes_is_free() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(block(0x20, 0x8000, 0x1000));
    story.allocate(block(0x30, 0x3000, 0x1000));
    // 0x1800 to 0x3000, and 0x4000 to 0x8000.
    let used = |used: &[(u64, u64)]| used.iter().map(|(at, bytes)| (*at, Some(*bytes))).collect();
    assert_eq!(
        bank(&story),
        (
            Some((0x5800, 0x4000)),
            used(&[(0x1000, 0x800), (0x3000, 0x1000), (0x8000, 0x1000)])
        )
    );
    // The largest free block is before the first buffer.
    story.deallocate(block(0x30, 0x3000, 0x1000));
    story.deallocate(block(0x10, 0x1000, 0x800));
    assert_eq!(
        bank(&story),
        (Some((0x7000, 0x7000)), used(&[(0x8000, 0x1000)]))
    );
    // The largest free block is after the last buffer.
    story.allocate(block(0x40, 0x2000, 0x100));
    story.deallocate(block(0x20, 0x8000, 0x1000));
    assert_eq!(
        bank(&story),
        (Some((0x7f00, 0x6f00)), used(&[(0x2000, 0x100)]))
    );
}

#[test]
fn fragmentation_is_the_share_of_the_free_bytes_outside_of_the_largest_block() {
    let free = |bytes, largest| FreeSpace { bytes, largest }.fragmentation();
    assert_eq!(free(0x1000, 0x1000), 0.0);
    assert_eq!(free(0x1000, 0x400), 0.75);
    assert_eq!(free(0, 0), 0.0, "nothing is free, so nothing is fragmented");
}

#[test]
fn without_the_range_or_a_length_what_is_free_is_unknown() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x1000, 0x800));
    assert_eq!(bank(&story), (None, vec![(0x1000, Some(0x800))]));
    set_range(&mut story, RANGE);
    assert_eq!(bank(&story).0, Some((0x7800, 0x7800)));
    // A buffer of unknown length.
    story.allocate(owning(0x20, MESH, 0x2000, KIB));
    assert_eq!(
        bank(&story),
        (None, vec![(0x1000, Some(0x800)), (0x2000, None)])
    );
    story.deallocate(owning(0x20, MESH, 0x2000, KIB));
    assert_eq!(bank(&story).0, Some((0x7800, 0x7800)));
    // A buffer outside of the range: so the range isn't that allocator's.
    story.allocate(block(0x30, 0x8800, 0x801));
    assert_eq!(bank(&story).0, None);
}

#[test]
fn blocks_that_overlap_because_an_end_was_lost_count_once() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x2000));
    story.allocate(block(0x20, 0x1800, 0x800));
    story.allocate(block(0x30, 0x2800, 0x1000));
    // 0x1000 to 0x3800.
    assert_eq!(bank(&story).0, Some((0x5800, 0x5800)));
}

#[test]
fn each_allocator_and_type_has_a_space_and_an_empty_buffer_has_no_block() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
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
            (BufferType::Dram, 1, Some(RANGE)),
            (BufferType::L1, 1, None),
            (BufferType::Dram, 1, None),
        ]
    );
}

#[test]
fn a_found_buffer_has_a_block() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.apply(EventKind::Found(block(0x10, 0x1000, 0x800)));
    assert_eq!(bank(&story).0, Some((0x7800, 0x7800)));
    // Its allocation comes only now, without a length.
    story.allocate(owning(0x10, MESH, 0x1000, 12 * 0x800));
    assert_eq!(bank(&story), (None, vec![(0x1000, None)]));
    assert_eq!(story.dram(MESH).live_buffers, 1);
}

#[test]
fn a_failure_has_what_was_free_at_that_time() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
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
        [Some((RANGE, 0x7000, 0x5800)), Some((RANGE, 0x7800, 0x7800))]
    );
}

#[test]
fn for_a_failure_of_an_allocator_without_buffers_everything_was_free() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    let free = story.process().failed_allocations()[0].free;
    let all = FreeSpace {
        bytes: 0x8000,
        largest: 0x8000,
    };
    assert_eq!(free, Some((RANGE, all)));
}

#[test]
fn a_range_that_is_set_later_gives_what_was_free_at_a_failure() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    let free = |story: &Story| {
        let free = story.process().failed_allocations()[0].free;
        free.map(|(_, free)| (free.bytes, free.largest))
    };
    assert_eq!(free(&story), None);
    story.deallocate(block(0x10, 0x2000, 0x800));
    set_range(&mut story, RANGE);
    assert_eq!(free(&story), Some((0x7800, 0x6800)));
    // A range that changes afterwards doesn't apply to the failure.
    set_range(
        &mut story,
        BankRange {
            end: 0x8000,
            ..RANGE
        },
    );
    assert_eq!(free(&story), Some((0x7800, 0x6800)));
}

#[test]
fn the_range_of_an_allocator_that_freed_everything_is_not_that_of_the_next_one_at_its_address() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    set_range(&mut story, RANGE);
    assert_eq!(story.process().failed_allocations()[0].free, None);
    story.apply(EventKind::BulkFree(ALLOCATOR));
    story.allocate(block(0x20, 0x2000, 0x800));
    assert_eq!(only(&story).range, None);
}

#[test]
fn blocks_freed_in_bulk_are_kept_until_there_is_another_allocator() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.allocate(block(0x20, 0x3000, 0x800));
    story.deallocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::BulkFree(ALLOCATOR));
    let freed_at = story.now;
    // A device that closes frees everything twice.
    story.apply(EventKind::BulkFree(ALLOCATOR));
    let space = only(&story);
    assert_eq!(space.freed_at, Some(Nanoseconds(freed_at)));
    assert_eq!(
        bank(&story),
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
fn blocks_in_use_when_the_process_ends_stay() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    assert_eq!(bank(&story).0, Some((0x7800, 0x7800)));
}

#[test]
fn an_executed_program_has_allocators_of_its_own() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Exec);
    assert_eq!(story.process().spaces().count(), 0);
    story.allocate(block(0x10, 0x1000, 0x800));
    assert_eq!(only(&story).range, None);
}

#[test]
fn wrong_lengths_are_discarded() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    story.ledger.forget_lengths(PID);
    assert_eq!(bank(&story), (None, vec![(0x1000, None)]));
    let process = story.process();
    assert_eq!(process.failed_allocations()[0].free, None);
    let live = process.owning().next().expect("a live buffer");
    assert_eq!(live.buffer.bytes_per_bank, None);
}

#[test]
fn with_unknown_buffers_what_is_free_is_unknown() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
    story.allocate(block(0x10, 0x1000, 0x800));
    story.ledger.expect_unknown_buffers(PID);
    story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
    assert_eq!(bank(&story), (None, vec![(0x1000, Some(0x800))]));
    assert_eq!(story.process().failed_allocations()[0].free, None);
}

#[test]
fn the_first_failures_have_the_blocks_in_use() {
    let mut story = Story::default();
    set_range(&mut story, RANGE);
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
    let dram = |used| Some((BufferType::Dram, Some(RANGE), used));
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
fn a_range_that_is_set_after_a_failure_is_in_the_failures_space() {
    let mut story = Story::default();
    story.allocate(block(0x10, 0x2000, 0x800));
    for _ in 0..2 {
        story.apply(EventKind::Failed(owning(0x30, MESH, 0, 1 << 30)));
        set_range(&mut story, RANGE);
        let failed = &story.process().failed_allocations()[0];
        let space = failed.space.as_ref().expect("one of the first failures");
        assert_eq!(space.range, Some(RANGE));
        assert_eq!(space.free(), failed.free.map(|(_, free)| free));
    }
}
