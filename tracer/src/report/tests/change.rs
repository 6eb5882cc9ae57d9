//! What has changed since a mark, and against an earlier trace.

use std::io::Write as _;

use serde_json::{Value, json};

use super::table::plain;
use super::*;
use crate::{
    origin::Origin,
    stack::{Stack, StackId},
};

/// A chip's own account and its mesh's are the same here.
fn buffer(number: u64, size: u64) -> Buffer {
    owning(0x100 * number, MESH, 0x1_0000 * number, size)
}

fn facts_of(stacks: &[(u32, Stack)]) -> Vec<ProcessFacts> {
    let stacks = stacks.iter().cloned();
    vec![ProcessFacts {
        stacks: stacks.map(|(id, stack)| (StackId(id), stack)).collect(),
        ..python(PID, Attached::Start)
    }]
}

const BINARIES: &str =
    "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)";

/// A step that replaces a cache, leaves something behind, and has a program cached.
fn marked() -> (Story, Vec<ProcessFacts>) {
    let mut story = Story::default();
    let mark = |story: &mut Story, name: Option<&str>| {
        let at = Nanoseconds(story.now);
        story.ledger.mark(name.map(str::to_owned), at);
    };
    mark(&mut story, None);
    story.ledger.join(PID, MESH, [0]);
    story.allocate_at(1, buffer(1, 8 * MIB));
    story.allocate_at(2, buffer(2, 4 * MIB));
    mark(&mut story, Some("warm\u{1b}up"));
    story.deallocate(buffer(2, 4 * MIB));
    story.allocate_at(2, buffer(3, 5 * MIB));
    story.allocate_at(2, buffer(4, 5 * MIB));
    story.allocate_at(3, buffer(5, 16 * KIB));
    // That it comes and goes is no change.
    story.allocate_at(1, buffer(6, MIB));
    story.deallocate(buffer(6, MIB));
    let stacks = [
        (1, by_stack::called(12, "load", by_stack::TENSOR)),
        (2, by_stack::called(31, "grow", by_stack::TENSOR)),
        (3, by_stack::called(31, "grow", BINARIES)),
    ];
    (story, facts_of(&stacks))
}

fn tally(buffers: u64, bytes: u64) -> Tally {
    Tally { buffers, bytes }
}

#[test]
fn the_summary_tells_what_has_changed_since_each_mark() {
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
        .find(|of| of.device_kind == DeviceKind::Mesh);
    assert_eq!(
        of_mesh,
        Some(&MemorySince {
            device_kind: DeviceKind::Mesh,
            device_id: 1,
            buffer_type: BufferType::Dram,
            then: tally(2, 12 * MIB),
            now: tally(4, 18 * MIB + 16 * KIB),
            allocated: tally(4, 11 * MIB + 16 * KIB),
            freed: tally(2, 5 * MIB),
        })
    );
    let group = |placed: &PlacedGroup| {
        let group = &placed.group;
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
fn what_was_found_after_a_mark_was_there_before_it() {
    let mut story = Story::default();
    story.ledger.mark(None, Nanoseconds(1));
    story.apply(EventKind::Found(buffer(1, MIB)));
    story.allocate(buffer(2, 2 * MIB));
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    let since = &summary.processes[0].since_marks[0];
    assert_eq!(since.memory[0].then, tally(1, MIB));
    assert_eq!(since.memory[0].now, tally(2, 3 * MIB));
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
fn a_mark_is_told_with_what_is_live_and_what_has_changed_since_the_one_before() {
    let (mut story, facts_of) = marked();
    let third = story.ledger.mark(None, Nanoseconds(story.now)).clone();
    let second = &story.ledger.marks()[1];
    assert_eq!(
        mark_set(&third, &story.ledger),
        "mark 3: 4 buffers, 18.02 MiB DRAM live"
    );
    let process = story.process();
    let named: Vec<u32> = stacks_since(process, 2).iter().map(|id| id.0).collect();
    assert_eq!(named, [2, 3]);
    let options = TableOptions::default();
    let stacks = &facts_of[0].stacks;
    let text = changed_since("pyth\non", PID, process, second, stacks, options);
    insta::assert_snapshot!(text.expect("it runs"));

    story.apply(EventKind::Exit(None));
    story.ledger.mark(None, Nanoseconds(story.now));
    let [.., fourth] = story.ledger.marks() else {
        panic!("marks")
    };
    assert_eq!(mark_set(fourth, &story.ledger), "mark 4: nothing live");
    let process = story.process();
    assert_eq!(
        changed_since("python", PID, process, fourth, stacks, options),
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

/// A summary as a later trace reads it.
fn reread(summary: &Summary) -> Result<Earlier, EarlierError> {
    let json = serde_json::to_vec(summary).expect("a summary is JSON");
    read(&json)
}

fn read(text: &[u8]) -> Result<Earlier, EarlierError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text).expect("a file of one's own");
    let earlier = Earlier::read(file.path())?;
    Ok(Earlier {
        path: "base.json".into(),
        ..earlier
    })
}

/// A process that holds so many bytes of each line of one function; with other numbers for its stacks
/// in each trace.
fn holding(first_stack: u32, held: &[(u32, u64)]) -> Summary {
    let mut story = Story::default();
    story.ledger.join(PID, MESH, [0]);
    let mut stacks = Vec::new();
    for (number, (line, size)) in (first_stack..).zip(held) {
        story.allocate_at(number, buffer(u64::from(number), *size));
        stacks.push((number, by_stack::called(*line, "load", by_stack::TENSOR)));
    }
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    Summary::new(&story.ledger, &facts(facts_of(&stacks)))
}

/// With the change against an earlier trace.
fn against(earlier: &Summary, mut now: Summary) -> Summary {
    let earlier = reread(earlier).expect("a summary");
    now.change = Some(Change::new(&earlier, &now));
    now
}

fn change(summary: &Summary) -> &Change {
    summary.change.as_ref().expect("a baseline")
}

#[test]
fn a_trace_has_not_changed_against_itself() {
    for summary in [
        by_stack::model_summary(),
        two_chips_summary(),
        troubled_summary(),
    ] {
        let now = against(&summary, summary.clone());
        let processes = &change(&now).processes;
        assert_eq!(processes.len(), summary.processes.len());
        for (process, change) in summary.processes.iter().zip(processes) {
            assert_eq!(change.pid, Some(process.pid));
            assert_eq!(change.baseline_pid, change.pid);
            assert_eq!(
                (change.live.as_slice(), change.peaks.as_slice()),
                (&[][..], &[][..])
            );
            for memory in &change.memory {
                assert_eq!(memory.live.baseline, memory.live.now);
                assert_eq!(memory.baseline_peak_bytes, memory.peak_bytes);
            }
        }
    }
}

#[test]
fn who_holds_more_or_less_is_told_by_line_whatever_the_stacks_numbers() {
    let earlier = holding(10, &[(1, MIB), (2, 2 * MIB), (3, 3 * MIB)]);
    let now = against(
        &earlier,
        holding(500, &[(3, 3 * MIB), (1, 2 * MIB), (4, 8 * MIB)]),
    );
    let [process] = change(&now).processes.as_slice() else {
        panic!("one process");
    };
    assert!(process.by_stack);
    let told: Vec<_> = process
        .live
        .iter()
        .map(|group| {
            let difference = group.buffers.difference;
            let place = group.place.as_str();
            (place, group.stack, difference.buffers, difference.bytes)
        })
        .collect();
    let mib = MIB as i64;
    assert_eq!(
        told,
        [
            ("model.py:4 in load", Some(StackId(502)), 1, 8 * mib),
            ("model.py:2 in load", None, -1, -2 * mib),
            ("model.py:1 in load", Some(StackId(501)), 0, mib),
        ]
    );
    let text = plain(&now);
    let (_, section) = text.split_once("\nChange against").expect("a section");
    insta::assert_snapshot!(section);
}

#[test]
fn with_a_baseline_a_leak_is_what_exceeds_it() {
    let earlier = holding(1, &[(1, MIB), (2, 2 * MIB)]);
    for (held, more) in [
        (&[(1, MIB), (2, 2 * MIB)][..], 0),
        (&[(1, MIB)], 0),
        (&[(1, MIB), (3, 3 * MIB)], MIB),
    ] {
        let now = holding(1, held);
        let alone: u64 = now.leaked().map(|(_, bytes)| bytes).sum();
        assert_eq!(alone, held.iter().map(|(_, bytes)| bytes).sum::<u64>());
        let leaked = against(&earlier, now);
        let leaked: Vec<u64> = leaked.leaked().map(|(_, bytes)| bytes).collect();
        assert_eq!(leaked, [more]);
    }
}

#[test]
fn without_stacks_in_both_only_totals_are_compared() {
    let earlier = holding(1, &[(1, MIB)]);
    let mut story = Story::default();
    story.allocate(buffer(1, 3 * MIB));
    let now = Summary::new(&story.ledger, &facts(facts_of(&[])));
    let now = against(&earlier, now);
    let process = &change(&now).processes[0];
    assert!(!process.by_stack);
    assert_eq!(process.live, []);
    assert_eq!(process.memory[0].live.difference.bytes, 2 * MIB as i64);
    assert!(plain(&now).contains("Who allocated it can't be compared"));
}

#[test]
fn processes_are_compared_by_command_line_then_by_name_then_in_order() {
    let processes = |list: &[(u32, &str, &str)]| {
        let list = list.iter().map(|(pid, comm, argument)| ProcessFacts {
            comm: (*comm).into(),
            command_line: vec![(*comm).into(), (*argument).into()],
            ..python(*pid, Attached::Start)
        });
        Summary::new(&Ledger::default(), &facts(list.collect()))
    };
    let earlier = processes(&[
        (1, "python", "a.py"),
        (2, "python", "b.py"),
        (3, "python", "b.py"),
        (4, "cat", "x"),
    ]);
    let now = against(
        &earlier,
        processes(&[
            (11, "python", "c.py"),
            (12, "python", "b.py"),
            (13, "python", "b.py"),
            (14, "sh", "x"),
        ]),
    );
    let pairs: Vec<_> = change(&now)
        .processes
        .iter()
        .map(|process| (process.pid, process.baseline_pid))
        .collect();
    assert_eq!(
        pairs,
        [
            (Some(11), Some(1)),
            (Some(12), Some(2)),
            (Some(13), Some(3)),
            (Some(14), None),
            (None, Some(4)),
        ]
    );
}

#[test]
fn a_summary_from_before_a_field_came_is_read() {
    let mut old = serde_json::to_value(holding(1, &[(1, MIB)])).expect("JSON");
    for name in ["marks", "change", "events", "untraced"] {
        old.as_object_mut().expect("an object").remove(name);
    }
    for name in ["leaks", "peaks", "stacks", "since_marks", "origins"] {
        let process = old["processes"][0].as_object_mut();
        process.expect("an object").remove(name);
    }
    let earlier = read(old.to_string().as_bytes()).expect("a summary");
    let now = holding(1, &[(1, 2 * MIB)]);
    let change = Change::new(&earlier, &now);
    assert_eq!(
        change.processes[0].memory[0].live.difference.bytes,
        MIB as i64
    );
}

#[test]
fn what_is_no_summary_is_refused_with_the_reason() {
    let says = |text: &str| match read(text.as_bytes()) {
        Ok(earlier) => panic!("it was read: {earlier:?}"),
        Err(error) => error
            .to_string()
            .split_once(' ')
            .expect("a path")
            .1
            .to_owned(),
    };
    for text in ["", "{", "# Changelog", "{\"schema_version\": 1} x"] {
        assert!(says(text).starts_with("is no JSON; "), "{text}");
    }
    for text in [
        "[]",
        "{}",
        "{\"schema_version\": 1}",
        "{\"started_at\": \"\", \"processes\": []}",
        "{\"schema_version\": 1, \"started_at\": \"\", \"processes\": [{\"pid\": \"1\"}]}",
    ] {
        assert!(
            says(text).starts_with("is no summary of tt-memtrace; "),
            "{text}"
        );
    }
    assert!(
        says("{\"schema_version\": 2}")
            .starts_with("is a summary of version 2, and only 1 is known")
    );
    let nowhere = Earlier::read("/nowhere/base.json".as_ref());
    let error = nowhere.expect_err("there is no such file");
    assert_eq!(error.to_string(), "cannot read /nowhere/base.json");
}

/// For the schema's tests.
pub fn changed_summary() -> Summary {
    let (story, facts_of) = marked();
    let now = Summary::new(&story.ledger, &facts(facts_of));
    against(&by_stack::model_summary(), now)
}

#[test]
fn the_json_of_a_change() {
    let summary = changed_summary();
    let json: Value = json!({
        "marks": summary.marks,
        "since_mark": summary.processes[0].since_marks[1],
        "change": summary.change,
    });
    insta::assert_json_snapshot!(json);
}
