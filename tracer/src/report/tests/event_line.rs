//! The lines of `--events`.

use std::{cell::Cell, collections::BTreeMap};

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use serde_json::Value;

use super::*;
use crate::properties::property_config;

/// The lines of a process with these events.
fn lines(events: &[(u32, EventKind)]) -> String {
    let mut story = Story::default();
    let mut text = Vec::new();
    for (tid, kind) in events {
        let (event, outcome) = story.event(PID, *tid, *kind);
        write_lines(&mut text, &event, &outcome).expect("a Vec takes everything");
    }
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn every_kind() -> Vec<(u32, EventKind)> {
    let buffer = owning(0x10, MESH, 0x1000, 4 * KIB);
    let other = owning(0x20, MESH, 0x2000, KIB);
    let part = view(0x11, chip(0), 0x1000, 4 * KIB);
    let hooked = owning(0x30, MESH, 0, KIB);
    [
        EventKind::Allocate(buffer),
        EventKind::Create(part),
        EventKind::Deallocate(buffer.object),
        EventKind::Destroy(part.object),
        EventKind::Deallocate(other.object),
        EventKind::Hooked(hooked),
        EventKind::Deallocate(hooked.object),
        EventKind::Failed(hooked),
        EventKind::Allocate(other),
        EventKind::Allocate(Buffer {
            object: ObjectPointer(0x40),
            ..other
        }),
        EventKind::BulkFree(ALLOCATOR),
        EventKind::BulkFree(ALLOCATOR),
        EventKind::Fork { child: 102 },
        EventKind::Allocate(other),
        EventKind::Exec,
        EventKind::Lost(5),
        EventKind::Exit(Some(Exit::Signal(15))),
        EventKind::Destroy(part.object),
        EventKind::Exit(None),
    ]
    .map(|kind| (TID, kind))
    .to_vec()
}

#[test]
fn a_line_for_each_kind_of_event() {
    insta::assert_snapshot!(lines(&every_kind()));
}

#[test]
fn the_free_of_a_buffer_has_its_allocation_time() {
    let buffer = owning(0x10, chip(0), 0x1000, KIB);
    let unknown = owning(0x20, chip(0), 0x2000, KIB);
    let text = lines(&[
        (7, EventKind::Allocate(buffer)),
        (8, EventKind::Deallocate(buffer.object)),
        (8, EventKind::Deallocate(unknown.object)),
    ]);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&lines[1]["time_ns"], &lines[1]["allocated_at_ns"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&lines[1]["tid"], &lines[1]["before_attach"]),
        (&8.into(), &false.into())
    );
    assert_eq!(
        (&lines[2]["allocated_at_ns"], &lines[2]["note"]),
        (&Value::Null, &"unmatched".into())
    );
}

/// An event of one of two chips, each of which has an allocator of its own.
fn event_on_a_chip() -> impl Strategy<Value = EventKind> {
    let numbers = (0..16_u32, 0..2_u32, 0..9_u64, 1..8_u64, 0..5_u64);
    numbers.prop_map(|(kind, device, object, address, size)| {
        let buffer = Buffer {
            allocator: AllocatorPointer(u64::from(device)),
            ..owning(0x10 * object, chip(device), 0x1000 * address, KIB * size)
        };
        match kind {
            0..8 => EventKind::Allocate(buffer),
            8..14 => EventKind::Deallocate(buffer.object),
            14 => EventKind::Hooked(Buffer {
                address: 0,
                ..buffer
            }),
            _ => EventKind::BulkFree(buffer.allocator),
        }
    })
}

#[test]
fn the_sizes_on_the_lines_add_up_to_the_ledgers_totals() {
    let implied = Cell::new(0);
    let mut runner = TestRunner::new(property_config(8));
    let run = runner.run(&vec(event_on_a_chip(), 0..=3000), |events| {
        let mut story = Story::default();
        let mut live: BTreeMap<u64, i64> = BTreeMap::new();
        for kind in events {
            let (event, outcome) = story.event(PID, TID, kind);
            for line in EventLine::from_event(&event, &outcome) {
                let line = serde_json::to_value(line).expect("JSON");
                let id = line["device_id"].as_u64();
                let add = match (line["event"].as_str(), line["note"].as_str()) {
                    (Some("allocate"), None) => line["size"].as_i64(),
                    (Some("deallocate"), None | Some("implied")) => {
                        line["size"].as_i64().map(|n| -n)
                    }
                    (Some("bulk_free"), None) => line["freed_bytes"].as_i64().map(|n| -n),
                    _ => None,
                };
                if let (Some(id), Some(add)) = (id, add) {
                    *live.entry(id).or_default() += add;
                }
            }
        }
        let Some(process) = story.ledger.process(PID) else {
            return Ok(());
        };
        for id in 0..2 {
            let account = process.devices().get(&chip(id));
            let expected = account.map_or(0, |account| account.memory[BufferType::Dram].live_bytes);
            let added_up = live.get(&u64::from(id)).copied().unwrap_or_default();
            prop_assert_eq!(added_up, expected as i64);
        }
        implied.set(implied.get() + process.counters().implied_deallocations);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    assert!(implied.get() > 100, "implied ends were among the lines");
}
