//! Marks and what has changed since each.

use super::table::plain;
use super::*;
use crate::{
    frame::{Stack, StackId},
    origin::Origin,
};

/// A buffer on the mesh. The mesh is one chip in these tests, so both have the same totals.
pub(super) fn buffer(number: u64, size: u64) -> Buffer {
    owning(0x100 * number, MESH, 0x1_0000 * number, size)
}

pub(super) fn facts_of(stacks: &[(u32, Stack)]) -> Vec<ProcessFacts> {
    let stacks = stacks.iter().cloned();
    vec![ProcessFacts {
        stacks: stacks.map(|(id, stack)| (StackId(id), stack)).collect(),
        ..python_facts(PID, Attached::Start)
    }]
}

const BINARIES: &str =
    "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)";

/// Two marks, and after the second one a step that replaces a cache, leaks a buffer, and caches a program.
pub(super) fn marked() -> (Story, Vec<ProcessFacts>) {
    let mut story = Story::default();
    let mark = |story: &mut Story, name: Option<&str>| {
        let at = Nanoseconds(story.now);
        story.ledger.mark(name.map(str::to_owned), at);
    };
    mark(&mut story, None);
    story.ledger.add_members(PID, MESH, [0]);
    story.allocate_at(1, buffer(1, 8 * MIB));
    story.allocate_at(2, buffer(2, 4 * MIB));
    mark(&mut story, Some("warm\u{1b}up"));
    story.deallocate(buffer(2, 4 * MIB));
    story.allocate_at(2, buffer(3, 5 * MIB));
    story.allocate_at(2, buffer(4, 5 * MIB));
    story.allocate_at(3, buffer(5, 16 * KIB));
    // A buffer that was allocated and freed since the mark is no change.
    story.allocate_at(1, buffer(6, MIB));
    story.deallocate(buffer(6, MIB));
    let stacks = [
        (1, by_stack::called(12, "load", by_stack::TENSOR)),
        (2, by_stack::called(31, "grow", by_stack::TENSOR)),
        (3, by_stack::called(31, "grow", BINARIES)),
    ];
    (story, facts_of(&stacks))
}

fn total(buffers: u64, bytes: u64) -> Count {
    Count { buffers, bytes }
}

#[test]
fn the_summary_has_the_changes_since_each_mark() {
    let (story, facts_of) = marked();
    let summary = Summary::new(&story.ledger, &facts(facts_of));
    let [first, second] = summary.marks.as_slice() else {
        panic!("two marks: {:?}", summary.marks);
    };
    assert_eq!((first.number, first.name.as_deref()), (1, None));
    assert_eq!((second.number, second.at_ns), (2, Nanoseconds(2)));
    let [all, since] = summary.processes[0].since_marks.as_slice() else {
        panic!("since two marks");
    };
    assert_eq!((all.mark, since.mark), (1, 2));
    assert_eq!((all.new.len(), all.gone.len()), (3, 0));

    let of_mesh = since
        .memory
        .iter()
        .find(|of| of.memory.device_kind == DeviceKind::Mesh);
    assert_eq!(
        of_mesh,
        Some(&MemorySince {
            memory: DeviceMemory {
                device_kind: DeviceKind::Mesh,
                device_id: 1,
                buffer_type: BufferType::Dram,
            },
            then: total(2, 12 * MIB),
            now: total(4, 18 * MIB + 16 * KIB),
            allocated: total(4, 11 * MIB + 16 * KIB),
            freed: total(2, 5 * MIB),
        })
    );
    let group = |held: &MemoryGroup| {
        let group = &held.group;
        (group.stack, group.origin, group.buffers, group.bytes)
    };
    let new: Vec<_> = since.new.iter().map(group).collect();
    let gone: Vec<_> = since.gone.iter().map(group).collect();
    assert_eq!(
        new,
        [
            (Some(StackId(2)), Origin::Tensor, 2, 10 * MIB),
            (Some(StackId(3)), Origin::Program, 1, 16 * KIB),
        ]
    );
    assert_eq!(gone, [(Some(StackId(2)), Origin::Tensor, 1, 4 * MIB)]);
}

#[test]
fn buffers_found_after_a_mark_count_as_live_at_it() {
    let mut story = Story::default();
    story.ledger.mark(None, Nanoseconds(1));
    story.apply(EventKind::Found(buffer(1, MIB)));
    story.allocate(buffer(2, 2 * MIB));
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    let since = &summary.processes[0].since_marks[0];
    assert_eq!(since.memory[0].then, total(1, MIB));
    assert_eq!(since.memory[0].now, total(2, 3 * MIB));
    assert_eq!(since.new.len(), 1);
}

#[test]
fn the_table_shows_what_has_changed_since_the_last_mark() {
    let (story, facts_of) = marked();
    let text = plain(&Summary::new(&story.ledger, &facts(facts_of)));
    let (_, since) = text.split_once("\n Since ").expect("a section");
    insta::assert_snapshot!(since);
}

#[test]
fn a_new_mark_is_reported_with_the_changes_since_the_one_before() {
    let (mut story, facts_of) = marked();
    let third = story.ledger.mark(None, Nanoseconds(story.now)).clone();
    let second = &story.ledger.marks()[1];
    assert_eq!(
        mark_line(&third, &story.ledger),
        "mark 3: 4 buffers, 18.02 MiB DRAM live"
    );
    let process = story.process();
    let named: Vec<u32> = stacks_since_mark(process, 2)
        .iter()
        .map(|id| id.0)
        .collect();
    assert_eq!(named, [2, 3]);
    let options = TableOptions::default();
    let stacks = &facts_of[0].stacks;
    let text = changes_since_mark("pyth\non", PID, process, second, stacks, options);
    insta::assert_snapshot!(text.expect("it runs"));

    story.apply(EventKind::Exit(None));
    story.ledger.mark(None, Nanoseconds(story.now));
    let [.., fourth] = story.ledger.marks() else {
        panic!("marks")
    };
    assert_eq!(mark_line(fourth, &story.ledger), "mark 4: nothing live");
    let process = story.process();
    assert_eq!(
        changes_since_mark("python", PID, process, fourth, stacks, options),
        None
    );
}

#[test]
fn a_mark_is_a_line_of_the_events() {
    let (story, _) = marked();
    let mut text = Vec::new();
    for mark in story.ledger.marks() {
        write_line(&mut text, &mark.into()).expect("a Vec takes everything");
    }
    assert_eq!(
        String::from_utf8(text).expect("JSON is UTF-8"),
        "{\"event\":\"mark\",\"time_ns\":0,\"pid\":0,\"tid\":0,\"number\":1,\"name\":null}\n\
         {\"event\":\"mark\",\"time_ns\":2,\"pid\":0,\"tid\":0,\"number\":2,\
         \"name\":\"warm\\u001bup\"}\n"
    );
}
