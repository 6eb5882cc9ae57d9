//! What is new since a mark, and what is gone.

use std::collections::BTreeMap;

use super::*;

const STACK: StackId = StackId(7);

fn dram(number: u64, size: u64) -> Buffer {
    owning(0x100 * number, MESH, 0x1_0000 * number, size)
}

fn mark(story: &mut Story) -> u32 {
    let now = Nanoseconds(story.now);
    story.ledger.mark(None, now).number
}

/// The sizes of the buffers that are new since a mark, and what is gone, by stack.
fn change(story: &Story, mark: u32) -> (Vec<u64>, BTreeMap<Option<StackId>, Count>) {
    let process = story.ledger.process(PID).expect("a process");
    let since = process.since(mark).expect("it hadn't ended by then");
    let new = process.owning().filter(|live| since.is_new(live));
    let mut new: Vec<u64> = new.map(|live| live.buffer.size).collect();
    new.sort_unstable();
    let gone = since.gone().into_iter();
    let gone = gone.map(|(key, count)| {
        assert_eq!((key.device, key.buffer_type), (MESH, BufferType::Dram));
        (key.source.stack(), count)
    });
    (new, gone.collect())
}

fn gone<const N: usize>(
    parts: [(Option<StackId>, u64, u64); N],
) -> BTreeMap<Option<StackId>, Count> {
    let parts = parts.into_iter();
    parts
        .map(|(stack, buffers, bytes)| (stack, Count { buffers, bytes }))
        .collect()
}

#[test]
fn each_mark_has_what_was_allocated_and_what_was_freed_after_it() {
    let mut story = Story::default();
    story.allocate(dram(1, 10));
    story.stack = Some(STACK);
    story.allocate(dram(2, 20));
    story.allocate(dram(3, 30));
    let first = mark(&mut story);
    story.deallocate(dram(2, 20));
    story.stack = None;
    story.allocate(dram(4, 40));
    story.allocate(dram(5, 50));
    let second = mark(&mut story);
    story.deallocate(dram(5, 50));
    story.deallocate(dram(3, 30));
    story.allocate(dram(6, 60));
    // It is allocated and freed after the last mark, so no mark has it.
    story.allocate(dram(7, 70));
    story.deallocate(dram(7, 70));

    assert_eq!((first, second), (1, 2));
    assert_eq!(
        change(&story, first),
        (vec![40, 60], gone([(Some(STACK), 2, 50)]))
    );
    assert_eq!(
        change(&story, second),
        (vec![60], gone([(Some(STACK), 1, 30), (None, 1, 50)]))
    );
    let process = story.ledger.process(PID).expect("a process");
    let then = |mark| process.since(mark).expect("it runs").memory(MESH)[BufferType::Dram];
    assert_eq!((then(first).live_bytes, then(second).live_bytes), (60, 130));
    assert_eq!(
        (then(first).allocations, then(second).deallocations),
        (3, 1)
    );
}

#[test]
fn an_object_that_is_used_again_is_another_buffer() {
    let mut story = Story::default();
    story.allocate(dram(1, 10));
    let only = mark(&mut story);
    story.deallocate(dram(1, 10));
    story.allocate(dram(1, 10));
    assert_eq!(change(&story, only), (vec![10], gone([(None, 1, 10)])));
}

#[test]
fn bulk_frees_and_execve_end_what_was_live_at_a_mark() {
    for kind in [EventKind::BulkFree(ALLOCATOR), EventKind::Exec] {
        let mut story = Story::default();
        story.allocate(dram(1, 10));
        let only = mark(&mut story);
        story.allocate(dram(2, 20));
        story.apply(kind);
        assert_eq!(change(&story, only), (vec![], gone([(None, 1, 10)])));
    }
}

#[test]
fn a_buffer_from_before_attach_was_live_at_each_mark() {
    let mut story = Story::default();
    let before = mark(&mut story);
    story.apply(EventKind::Found(dram(1, 10)));
    story.apply(EventKind::Found(dram(2, 20)));
    let after = mark(&mut story);
    story.deallocate(dram(1, 10));
    for mark in [before, after] {
        assert_eq!(change(&story, mark), (vec![], gone([(None, 1, 10)])));
    }
}

#[test]
fn all_of_a_process_is_new_since_marks_before_it_and_marks_after_its_end_have_nothing() {
    let mut story = Story::default();
    let before = mark(&mut story);
    story.allocate(dram(1, 10));
    let between = mark(&mut story);
    story.allocate(dram(2, 20));
    story.apply(EventKind::Exit(None));
    let after = mark(&mut story);
    assert_eq!(change(&story, before), (vec![10, 20], gone([])));
    assert_eq!(change(&story, between), (vec![20], gone([])));
    let process = story.ledger.process(PID).expect("a process");
    assert!(process.since(after).is_none());
}

#[test]
fn a_child_has_nothing_since_a_mark_before_its_fork() {
    let mut story = Story::default();
    story.allocate(dram(1, 10));
    let only = mark(&mut story);
    story.apply(EventKind::Fork { child: PID + 1 });
    story.event(PID + 1, PID + 1, EventKind::Deallocate(dram(1, 10).object));
    let child = story.ledger.process(PID + 1).expect("the child");
    let since = child.since(only).expect("it runs");
    assert_eq!(since.gone(), BTreeMap::new());
    assert_eq!(change(&story, only), (vec![], gone([])));
}
