//! The lines of `--events`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

/// All events of one life of a process, as lines.
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
fn the_end_of_an_owning_buffer_says_since_when_it_was_live() {
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

#[test]
fn adding_up_the_lines_gives_the_ledgers_totals() {
    let mut story = Story::default();
    let mut live: BTreeMap<u64, i64> = BTreeMap::new();
    for step in 0..3000_u64 {
        let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let device = chip((random % 2) as u32);
        let buffer = owning(
            0x10 * ((random >> 4) % 9),
            device,
            0x1000 * (1 + (random >> 9) % 7),
            KIB * ((random >> 14) % 5),
        );
        let buffer = Buffer {
            allocator: AllocatorPointer(u64::from(device.id)),
            ..buffer
        };
        let kind = match (random >> 20) % 16 {
            0..8 => EventKind::Allocate(buffer),
            8..14 => EventKind::Deallocate(buffer.object),
            14 => EventKind::Hooked(Buffer {
                address: 0,
                ..buffer
            }),
            _ => EventKind::BulkFree(buffer.allocator),
        };
        let (event, outcome) = story.event(PID, TID, kind);
        for line in EventLine::all(&event, &outcome) {
            let line = serde_json::to_value(line).expect("JSON");
            let id = line["device_id"].as_u64();
            let add = match (line["event"].as_str(), line["note"].as_str()) {
                (Some("allocate"), None) => line["size"].as_i64(),
                (Some("deallocate"), None | Some("implied")) => line["size"].as_i64().map(|n| -n),
                (Some("bulk_free"), None) => line["freed_bytes"].as_i64().map(|n| -n),
                _ => None,
            };
            if let (Some(id), Some(add)) = (id, add) {
                *live.entry(id).or_default() += add;
            }
        }
    }
    for id in 0..2 {
        let expected = story.dram(chip(id)).live_bytes as i64;
        assert_eq!(live[&u64::from(id)], expected);
    }
    assert!(story.process().counters().implied_deallocations > 100);
}
