//! Forks, executed programs, and pids that are used again.

use super::*;

const CHILD: u32 = 200;

fn fork(story: &mut Story) {
    let outcome = story.apply(EventKind::Fork { child: CHILD });
    assert_eq!(outcome.effect, Effect::Forked { child: CHILD });
}

fn of_child(story: &mut Story, kind: EventKind) -> Effect {
    story.event(CHILD, CHILD, kind).1.effect
}

#[test]
fn a_child_inherits_objects_but_no_memory() {
    let mut story = Story::default();
    let buffer = owning(0x10, MESH, 0x1000, 4 * KIB);
    story.allocate_on_mesh(buffer, &[0, 1]);
    fork(&mut story);

    let child = story.ledger.process(CHILD).unwrap();
    assert_eq!((child.owning().len(), child.non_owning().len()), (0, 0));
    assert_eq!(child.parent(), Some(story.ledger.id(PID)));
    assert_eq!(story.dram(chip(0)).live_bytes, 4 * KIB);

    let freed = of_child(&mut story, EventKind::Deallocate(buffer.object));
    assert_eq!(freed, Effect::HadNoMemory);
    let member = view(0x11, chip(0), 0x1000, 4 * KIB);
    let ended = of_child(&mut story, EventKind::Destroy(member.object));
    assert_eq!(ended, Effect::HadNoMemory);
    // Each object ends only once.
    let again = of_child(&mut story, EventKind::Deallocate(buffer.object));
    assert_eq!(again, Effect::Unmatched);
    // The parent's buffers are unchanged.
    assert_eq!(story.dram(chip(0)).live_bytes, 4 * KIB);
    assert_eq!(story.process().non_owning().len(), 2);
    assert!(story.ledger.is_exact());
}

#[test]
fn a_childs_buffers_are_its_own_and_lie_on_its_parents_chips() {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0, 1]);
    fork(&mut story);
    // The device address and the object are those of the parent's buffer.
    let buffer = owning(0x10, MESH, 0x1000, 2 * KIB);
    let allocated = of_child(&mut story, EventKind::Allocate(buffer));
    assert_eq!(allocated, Effect::Allocated);
    let child = story.ledger.process(CHILD).unwrap();
    let on = |device| child.devices()[&device].memory[BufferType::Dram].live_bytes;
    assert_eq!(
        (on(chip(0)), on(chip(1)), on(MESH)),
        (2 * KIB, 2 * KIB, 2 * KIB)
    );
    assert_eq!(story.dram(chip(1)).live_bytes, 4 * KIB);
    let freed = of_child(&mut story, EventKind::Deallocate(buffer.object));
    assert!(matches!(freed, Effect::Deallocated(_)));
}

#[test]
fn a_grandchild_inherits_what_its_parent_inherited() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(buffer);
    fork(&mut story);
    let grandchild = 300;
    of_child(&mut story, EventKind::Fork { child: grandchild });
    let (_, outcome) = story.event(grandchild, grandchild, EventKind::Deallocate(buffer.object));
    assert_eq!(outcome.effect, Effect::HadNoMemory);
}

#[test]
fn executing_a_program_ends_all_that_was_held() {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0]);
    story.allocate(owning(0x20, MESH, 0x2000, 2 * KIB));
    let outcome = story.apply(EventKind::Exec);
    let executed = Effect::Executed {
        buffers: 2,
        bytes: 6 * KIB,
    };
    assert_eq!((outcome.effect, outcome.implied_ends), (executed, vec![]));
    let account = story.dram(chip(0));
    assert_eq!((account.live_bytes, account.freed_bytes), (0, 6 * KIB));
    assert_eq!(story.process().non_owning().len(), 0);
    assert_eq!(story.process().counters().destroyed, 1);

    // The new program's first buffer has the object and the address of the old program's.
    let buffer = owning(0x10, MESH, 0x1000, KIB);
    let outcome = story.allocate(buffer);
    assert_eq!(
        (outcome.effect, outcome.implied_ends),
        (Effect::Allocated, vec![])
    );
    assert!(story.ledger.is_exact());
}

#[test]
fn nothing_is_inherited_by_an_executed_program() {
    let mut story = Story::default();
    let buffer = owning(0x10, chip(0), 0x1000, 4 * KIB);
    story.allocate(buffer);
    fork(&mut story);
    of_child(&mut story, EventKind::Exec);
    let freed = of_child(&mut story, EventKind::Deallocate(buffer.object));
    assert_eq!(freed, Effect::Unmatched);
}

#[test]
fn a_pid_that_is_used_again_stands_for_another_process() {
    let mut story = Story::default();
    story.allocate(owning(0x10, chip(0), 0x1000, 4 * KIB));
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    let old = story.ledger.id(PID);
    let new = story.ledger.begin(PID);
    assert_eq!((new.pid, new.generation), (PID, old.generation + 1));
    story.allocate(owning(0x10, chip(0), 0x1000, 2 * KIB));
    let live = |id| story.ledger.processes()[&id].owning().len();
    assert_eq!((live(old), live(new)), (1, 1));
    assert_eq!(story.dram(chip(0)).live_bytes, 2 * KIB);
    assert!(story.ledger.processes()[&old].end().is_some());
    assert_eq!(story.process().end(), None);
}

#[test]
fn a_childs_pid_no_longer_stands_for_an_earlier_process() {
    let mut story = Story::default();
    of_child(
        &mut story,
        EventKind::Allocate(owning(0x10, chip(0), 0x1000, KIB)),
    );
    fork(&mut story);
    let child = story.ledger.process(CHILD).unwrap();
    assert_eq!(child.owning().len(), 0);
    assert_eq!(story.ledger.id(CHILD).generation, 1);
}

#[test]
fn a_process_without_memory_events_can_be_forgotten() {
    let mut story = Story::default();
    story.allocate(owning(0x10, chip(0), 0x1000, KIB));
    fork(&mut story);
    story.ledger.forget(CHILD);
    assert!(story.ledger.process(CHILD).is_none());
    story.ledger.forget(PID);
    assert!(story.ledger.process(PID).is_some());
}
