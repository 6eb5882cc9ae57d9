//! Sample summaries for the tests of this room, and the tests of [`Summary::new`].

mod baseline;
mod by_stack;
mod event_line;
mod maps;
mod schema;
mod since_mark;
mod table;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{summary::*, *};
use crate::ledger::tests::{ALLOCATOR, KIB, MESH, PID, Story, TID, chip, mesh, owning, view};
use crate::ledger::*;

const MIB: u64 = 1024 * KIB;

fn facts(processes: Vec<ProcessFacts>) -> Facts {
    Facts {
        tool: Tool {
            name: "tt-memtrace".into(),
            version: "0.1.0".into(),
        },
        host: Host {
            hostname: "box".into(),
            kernel: "6.18.0".into(),
            arch: "x86_64".into(),
        },
        started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_250),
        duration: Duration::from_millis(1500),
        processes,
        untraced: vec![],
        every_stack: false,
        stacks_skipped: 0,
    }
}

fn python_facts(pid: u32, attached: Attached) -> ProcessFacts {
    let fields = [
        ("size", "[[buffer+0x10]+0x8]"),
        ("buffer_type", "[[buffer+0x10]+0x18]"),
    ];
    ProcessFacts {
        id: ProcessId { pid, generation: 0 },
        comm: "python3".into(),
        command_line: vec!["python3".into(), "bench.py".into()],
        attached,
        libraries: vec![Library {
            path: "/venv/ttnn/build/lib/libtt_metal.so".into(),
            build_id: Some("1a2b3c4d5e6f7081".into()),
            release: Some("0.81.1".into()),
            fields: BTreeMap::from(fields.map(|(name, path)| (name.into(), path.into()))),
        }],
        traces_programs: false,
        attach_snapshot: None,
        capacity: BTreeMap::new(),
        stacks: BTreeMap::new(),
    }
}

/// A process on a mesh of chips 0 and 1, with L1 of its own on chip 1, that exits while it holds
/// memory.
fn two_chips() -> Story {
    let mut story = Story::default();
    let weights = owning(0x100, MESH, 0x10_0000, 12 * MIB + 512 * KIB);
    let activations = owning(0x200, MESH, 0x200_0000, 8 * MIB);
    let small = Buffer {
        allocator: AllocatorPointer(0xb0),
        buffer_type: BufferType::L1,
        layout: Layout::HeightSharded,
        unique_id: Some(7),
        ..owning(0x300, chip(1), 0x1_8000, 1536)
    };
    story.allocate_on_mesh(weights, &[0, 1]);
    story.allocate_on_mesh(activations, &[0, 1]);
    for object in [0x201, 0x202] {
        story.destroy(view(object, chip(0), 0x200_0000, 8 * MIB));
    }
    story.deallocate(activations);
    story.allocate(small);
    story.now = 1_250_000_000;
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    story
}

/// A process on a mesh that is one chip.
fn one_chip() -> Story {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x100, MESH, 0x10_0000, 3 * MIB), &[0]);
    story.allocate_on_mesh(
        Buffer {
            buffer_type: BufferType::Trace,
            ..owning(0x200, MESH, 0x20_0000, 64 * KIB)
        },
        &[],
    );
    story
}

/// Everything that can go wrong, in three processes, one of which has no facts.
fn troubled() -> Story {
    let mut story = two_chips();
    let buffer = |object| owning(object, MESH, 0x1000 * object, MIB);
    let mut second = |kind| {
        story.event(200, 200, kind);
    };
    second(EventKind::Allocate(buffer(0x10)));
    second(EventKind::Allocate(buffer(0x20)));
    second(EventKind::Allocate(buffer(0x10)));
    second(EventKind::BulkFree(ALLOCATOR));
    second(EventKind::Allocate(buffer(0x30)));
    second(EventKind::Deallocate(buffer(0x40).object));
    second(EventKind::Destroy(view(0x50, chip(0), 0x1000, KIB).object));
    for object in 0..1200 {
        second(EventKind::Hooked(owning(0x10_0000 + object, MESH, 0, KIB)));
    }
    second(EventKind::Failed(owning(0x60, MESH, 0, 64 * 1024 * MIB)));
    second(EventKind::Exit(Some(Exit::Signal(9))));
    second(EventKind::Deallocate(buffer(0x30).object));
    story.event(300, 300, EventKind::BulkFree(ALLOCATOR));
    story.event(300, 300, EventKind::Exit(None));
    story.event(0, 0, EventKind::Lost(1234));
    story
}

fn two_chips_summary() -> Summary {
    let untraced = Untraced {
        pid: 400,
        comm: "trainer".into(),
        reason: "/lib/libtt_metal.so can't be traced: no symbols\nof the functions".into(),
    };
    Summary::new(
        &two_chips().ledger,
        &Facts {
            untraced: vec![untraced],
            ..facts(vec![python_facts(PID, Attached::Start)])
        },
    )
}

fn troubled_summary() -> Summary {
    let known = vec![
        python_facts(200, Attached::Running),
        python_facts(PID, Attached::Start),
    ];
    Summary::new(&troubled().ledger, &facts(known))
}

#[test]
fn the_json_of_a_summary() {
    insta::assert_json_snapshot!(two_chips_summary());
}

#[test]
fn the_written_json_is_indented_and_ends_with_a_newline() {
    let mut json = Vec::new();
    let summary = two_chips_summary();
    summary
        .write_json(&mut json)
        .expect("a Vec takes everything");
    let json = String::from_utf8(json).expect("JSON is UTF-8");
    assert!(json.starts_with("{\n  \"schema_version\": 1,\n"), "{json}");
    assert!(json.ends_with("\n}\n"), "{json}");
}

#[test]
fn buffers_are_ordered_by_device_type_and_address() {
    let mut story = Story::default();
    let mut object = 0;
    for device in [chip(1), mesh(1), chip(0)] {
        for buffer_type in [
            BufferType::SystemMemory,
            BufferType::L1Small,
            BufferType::Dram,
        ] {
            for address in [0x2000, 0x1000] {
                object += 0x10;
                let allocator = AllocatorPointer(u64::from(device.id) + 0x10 * device.kind as u64);
                story.allocate(Buffer {
                    allocator,
                    buffer_type,
                    ..owning(object, device, address, KIB)
                });
            }
        }
    }
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    let order: Vec<String> = summary.processes[0]
        .live_buffers
        .iter()
        .map(|b| {
            format!(
                "{:?} {} {} {:#x}",
                b.device_kind, b.device_id, b.buffer_type, b.address
            )
        })
        .collect();
    insta::assert_snapshot!(order.join("\n"));
}

#[test]
fn a_process_without_events_is_listed() {
    let summary = Summary::new(
        &Ledger::default(),
        &facts(vec![python_facts(PID, Attached::Start)]),
    );
    let [process] = summary.processes.as_slice() else {
        panic!("one process")
    };
    assert_eq!(
        (process.pid, process.events_received, process.exit),
        (PID, 0, None)
    );
    assert!(process.devices.is_empty());
}

#[test]
fn a_process_without_facts_is_listed_with_unknown_facts() {
    let summary = troubled_summary();
    assert_eq!(
        summary.processes.iter().map(|p| p.pid).collect::<Vec<_>>(),
        [100, 200, 300]
    );
    let unknown = &summary.processes[2];
    assert_eq!(
        (unknown.attached, &unknown.library),
        (Attached::Running, &None)
    );
    assert_eq!((unknown.exit, unknown.exited_at_ns.is_some()), (None, true));
}

#[test]
fn processes_with_the_same_pid_are_listed_separately() {
    let mut story = two_chips();
    let id = story.ledger.begin(PID);
    story.allocate(owning(0x100, chip(0), 0x1000, KIB));
    let second = ProcessFacts {
        id,
        comm: "second".into(),
        ..python_facts(PID, Attached::Start)
    };
    let known = vec![second, python_facts(PID, Attached::Start)];
    let summary = Summary::new(&story.ledger, &facts(known));
    let processes: Vec<_> = summary
        .processes
        .iter()
        .map(|p| (p.pid, p.comm.as_str(), p.exit, p.live_buffers.len()))
        .collect();
    let ended = Some(Exit::Code(0));
    assert_eq!(
        processes,
        [(PID, "python3", ended, 2), (PID, "second", None, 1)]
    );
}

#[test]
fn a_forked_child_that_did_nothing_is_not_listed() {
    let mut story = two_chips();
    story.event(
        300,
        300,
        EventKind::Allocate(owning(0x10, chip(0), 0x1000, KIB)),
    );
    story.event(300, 300, EventKind::Fork { child: 301 });
    story.event(300, 300, EventKind::Fork { child: 302 });
    story.event(
        302,
        302,
        EventKind::Allocate(owning(0x20, chip(0), 0x2000, KIB)),
    );
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    let listed: Vec<_> = summary
        .processes
        .iter()
        .map(|p| (p.pid, p.parent_pid))
        .collect();
    assert_eq!(listed, [(PID, None), (300, None), (302, Some(300))]);
}

#[test]
fn a_clock_that_was_never_set_does_not_panic() {
    let at = |started_at| {
        let facts = Facts {
            started_at,
            ..facts(vec![])
        };
        Summary::new(&Ledger::default(), &facts).started_at
    };
    let epoch = SystemTime::UNIX_EPOCH;
    assert_eq!(
        at(epoch - Duration::from_secs(5)),
        "1970-01-01T00:00:00.000Z"
    );
    assert_eq!(
        at(epoch + Duration::from_secs(1 << 40)),
        "9999-12-31T23:59:59.000Z"
    );
}
