//! The comparison with a baseline, and leaks.

use serde_json::{Value, json};

use super::since_mark::{buffer, facts_of, marked};
use super::table::plain;
use super::*;
use crate::{frame::StackId, report::leaks::leaked_bytes};

fn parse(json: &[u8]) -> Result<BaselineSummary, BaselineError> {
    BaselineSummary::parse("base.json".as_ref(), json)
}

/// A process that holds these buffers at its end, each given as the line that allocated it and its size.
/// The ids of its stacks count from `first_stack`.
fn holding(first_stack: u32, held: &[(u32, u64)]) -> Summary {
    let mut story = Story::default();
    story.ledger.add_members(PID, MESH, [0]);
    let mut stacks = Vec::new();
    for (number, (line, size)) in (first_stack..).zip(held) {
        story.allocate_at(number, buffer(u64::from(number), *size));
        stacks.push((number, by_stack::called(*line, "load", by_stack::TENSOR)));
    }
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    Summary::new(&story.ledger, &facts(facts_of(&stacks)))
}

/// The summary with its change against a baseline.
fn against(baseline: &Summary, mut now: Summary) -> Summary {
    let mut json = Vec::new();
    baseline
        .write_json(&mut json)
        .expect("a Vec takes everything");
    let baseline = parse(&json).expect("a summary");
    now.change = Some(Change::new(&baseline, &now));
    now
}

fn change(summary: &Summary) -> &Change {
    summary.change.as_ref().expect("a baseline")
}

#[test]
fn a_trace_compared_with_itself_has_not_changed() {
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
fn groups_are_compared_by_line_not_by_stack_id() {
    let baseline = holding(10, &[(1, MIB), (2, 2 * MIB), (3, 3 * MIB)]);
    let now = against(
        &baseline,
        holding(500, &[(3, 3 * MIB), (1, 2 * MIB), (4, 8 * MIB)]),
    );
    let [process] = change(&now).processes.as_slice() else {
        panic!("one process");
    };
    assert!(process.by_stack);
    let groups: Vec<_> = process
        .live
        .iter()
        .map(|group| {
            let difference = group.buffers.difference;
            let label = group.label.as_str();
            (label, group.stack, difference.buffers, difference.bytes)
        })
        .collect();
    let mib = MIB as i64;
    assert_eq!(
        groups,
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
    let baseline = holding(1, &[(1, MIB), (2, 2 * MIB)]);
    for (held, more) in [
        (&[(1, MIB), (2, 2 * MIB)][..], 0),
        (&[(1, MIB)], 0),
        (&[(1, MIB), (3, 3 * MIB)], MIB),
    ] {
        let now = holding(1, held);
        let alone: u64 = leaked_bytes(&now).map(|(_, bytes)| bytes).sum();
        assert_eq!(alone, held.iter().map(|(_, bytes)| bytes).sum::<u64>());
        let leaked = against(&baseline, now);
        let leaked: Vec<u64> = leaked_bytes(&leaked).map(|(_, bytes)| bytes).collect();
        assert_eq!(leaked, [more]);
    }
}

#[test]
fn the_leaks_of_processes_that_ended_are_an_error_beyond_the_limit() {
    let summary = holding(1, &[(1, MIB), (2, 512 * KIB)]);
    assert_eq!(check_leaks(&summary, MIB + 512 * KIB), Ok(()));
    let error = check_leaks(&summary, MIB).expect_err("it leaked more");
    assert_eq!(
        error.to_string(),
        "held until the end: python3 (pid 100) 1.50 MiB"
    );
    let summary = against(&holding(1, &[(1, MIB)]), summary);
    assert_eq!(check_leaks(&summary, 512 * KIB), Ok(()));
    let error = check_leaks(&summary, 0).expect_err("it leaked more");
    assert_eq!(
        error.to_string(),
        "held until the end: python3 (pid 100) 512 KiB, beyond base.json"
    );
}

#[test]
fn without_stacks_in_both_only_totals_are_compared() {
    let baseline = holding(1, &[(1, MIB)]);
    let mut story = Story::default();
    story.allocate(buffer(1, 3 * MIB));
    let now = Summary::new(&story.ledger, &facts(facts_of(&[])));
    let now = against(&baseline, now);
    let process = &change(&now).processes[0];
    assert!(!process.by_stack);
    assert_eq!(process.live, []);
    assert_eq!(process.memory[0].live.difference.bytes, 2 * MIB as i64);
    assert!(plain(&now).contains("Stacks can't be compared"));
}

#[test]
fn processes_are_compared_by_command_line_then_by_name_then_in_order() {
    let processes = |list: &[(u32, &str, &str)]| {
        let list = list.iter().map(|(pid, comm, argument)| ProcessFacts {
            comm: (*comm).into(),
            command_line: vec![(*comm).into(), (*argument).into()],
            ..python_facts(*pid, Attached::Start)
        });
        Summary::new(&Ledger::default(), &facts(list.collect()))
    };
    let baseline = processes(&[
        (1, "python", "a.py"),
        (2, "python", "b.py"),
        (3, "python", "b.py"),
        (4, "cat", "x"),
    ]);
    let now = against(
        &baseline,
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
fn a_summary_without_fields_added_later_is_read() {
    let mut old = serde_json::to_value(holding(1, &[(1, MIB)])).expect("JSON");
    for name in ["marks", "change", "events", "untraced"] {
        old.as_object_mut().expect("an object").remove(name);
    }
    for name in ["leaks", "peaks", "stacks", "since_marks", "origins"] {
        let process = old["processes"][0].as_object_mut();
        process.expect("an object").remove(name);
    }
    let baseline = parse(old.to_string().as_bytes()).expect("a summary");
    let now = holding(1, &[(1, 2 * MIB)]);
    let change = Change::new(&baseline, &now);
    assert_eq!(
        change.processes[0].memory[0].live.difference.bytes,
        MIB as i64
    );
}

#[test]
fn a_file_that_is_no_summary_is_refused_with_the_reason() {
    let says = |text: &str| match parse(text.as_bytes()) {
        Ok(baseline) => panic!("it was accepted: {baseline:?}"),
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
}

/// For the schema's tests.
pub(super) fn changed_summary() -> Summary {
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
