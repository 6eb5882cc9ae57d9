//! The text for a person.

use super::*;
use crate::frame::StackId;

pub(super) fn plain(summary: &Summary) -> String {
    table(summary, TableOptions::default())
}

fn coloured(summary: &Summary) -> String {
    table(
        summary,
        TableOptions {
            colour: true,
            width: Some(100),
        },
    )
}

#[test]
fn a_mesh_of_two_chips() {
    insta::assert_snapshot!(plain(&two_chips_summary()));
}

#[test]
fn a_mesh_of_one_chip_is_shown_once() {
    let summary = Summary::new(
        &one_chip().ledger,
        &facts(vec![python_facts(PID, Attached::Start)]),
    );
    insta::assert_snapshot!(plain(&summary));
}

#[test]
fn a_mesh_of_one_chip_with_other_buffers_is_shown_beside_the_chip() {
    let mut story = one_chip();
    story.allocate(Buffer {
        allocator: AllocatorPointer(0xb0),
        ..owning(0x300, chip(0), 0x1000, MIB)
    });
    let text = plain(&Summary::new(&story.ledger, &facts(vec![])));
    assert!(text.contains("chip 0, total"), "{text}");
    assert!(text.contains("mesh 1 (chip 0), its part"), "{text}");
}

#[test]
fn many_chips_with_the_same_use_share_their_rows() {
    let mut story = Story::default();
    let chips: Vec<u32> = (0..32).collect();
    story.allocate_on_mesh(owning(0x1000, MESH, 0x10_0000, 3 * MIB), &chips);
    insta::assert_snapshot!(plain(&Summary::new(&story.ledger, &facts(vec![]))));
}

#[test]
fn everything_that_can_go_wrong() {
    insta::assert_snapshot!(plain(&troubled_summary()));
}

#[test]
fn in_colour_a_loss_is_red() {
    let text = coloured(&troubled_summary());
    assert!(text.contains("\x1b[1;31m1,234 lost\x1b[0m"), "{text}");
    insta::assert_snapshot!(text.replace('\x1b', "␛"));
}

#[test]
fn no_loss_is_plain_even_in_colour() {
    let text = coloured(&two_chips_summary());
    assert!(text.ends_with("11 events, 0 lost\n"), "{text}");
}

#[test]
fn without_colour_there_are_no_escapes_even_in_names() {
    let comm = "ev\x1b[2Jil\n".to_owned();
    let facts = facts(vec![ProcessFacts {
        comm,
        ..python_facts(PID, Attached::Start)
    }]);
    let text = plain(&Summary::new(&two_chips().ledger, &facts));
    assert!(!text.contains('\x1b'), "{text}");
    assert!(
        text.starts_with("ev\u{fffd}[2Jil\u{fffd} (pid 100): "),
        "{text}"
    );
}

#[test]
fn the_table_fits_a_narrow_terminal() {
    let text = table(
        &two_chips_summary(),
        TableOptions {
            colour: false,
            width: Some(72),
        },
    );
    let rows = text
        .lines()
        .skip(1)
        .take_while(|line| !line.contains("non-owning"));
    assert!(rows.clone().count() > 5);
    for row in rows {
        assert!(row.chars().count() <= 72, "{row}");
    }
}

#[test]
fn without_anything_to_show_the_table_says_so() {
    let empty = Summary::new(&Ledger::default(), &facts(vec![]));
    assert_eq!(plain(&empty), "No process was traced.\n0 events, 0 lost\n");
    let facts = facts(vec![ProcessFacts {
        libraries: vec![],
        ..python_facts(PID, Attached::Start)
    }]);
    let text = plain(&Summary::new(&Ledger::default(), &facts));
    assert!(text.starts_with("python3 (pid 100): still running, loaded no TT-Metal\n\n"));
}

fn model_within(width: Option<u16>) -> String {
    let options = TableOptions {
        colour: false,
        width,
    };
    table(&by_stack::model_summary(), options)
}

#[test]
fn sections_by_stack() {
    insta::assert_snapshot!(model_within(None));
}

#[test]
fn sections_fit_a_narrow_terminal() {
    for width in [80, 120] {
        let text = model_within(Some(width));
        // The first line has names in it and is not wrapped.
        let lines = text.lines().skip(1);
        assert!(lines.clone().count() > 30);
        for line in lines {
            assert!(line.chars().count() <= usize::from(width), "{line}");
        }
        insta::assert_snapshot!(format!("sections_by_stack_in_{width}_columns"), text);
    }
}

/// The table of fourteen buffers. The stack of buffer N is on line `line(N)`.
fn fourteen_buffers(line: fn(u32) -> u32) -> String {
    let mut story = Story::default();
    let mut facts_of = python_facts(PID, Attached::Start);
    for number in 1..=14_u32 {
        let factor = u64::from(number);
        let buffer = owning(0x10 * factor, chip(0), 0x1000 * factor, factor * MIB);
        story.allocate_at(100 + number, buffer);
        let stack = by_stack::called(line(number), "forward", by_stack::TENSOR);
        facts_of.stacks.insert(StackId(100 + number), stack);
    }
    plain(&Summary::new(&story.ledger, &facts(vec![facts_of])))
}

#[test]
fn groups_with_the_same_label_share_a_row() {
    let text = fourteen_buffers(|number| if number <= 12 { 1 } else { number });
    let rows: Vec<String> = text
        .lines()
        .filter(|line| line.contains("model.py"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rows.len(), 2 * 3, "{text}");
    assert_eq!(
        rows[0],
        "78.00 MiB 12 buffers DRAM, chip 0 1s 500ms model.py:1 in forward"
    );
    assert!(!text.contains("other places"), "{text}");
}

#[test]
fn the_capacity_is_left_out_without_room_for_it() {
    let capacity = Capacity {
        banks: 12,
        bytes_per_bank: 1 << 30,
        allocated_per_bank: 0,
        free_per_bank: 1 << 30,
        largest_free_per_bank: 1 << 30,
        read_at_ns: Nanoseconds(0),
    };
    let mut facts_of = python_facts(PID, Attached::Start);
    for device in [MESH, chip(0)] {
        facts_of
            .capacity
            .insert((device, BufferType::Dram), capacity);
    }
    let summary = Summary::new(&one_chip().ledger, &facts(vec![facts_of]));
    for (width, shown) in [(None, true), (Some(120), true), (Some(80), false)] {
        let options = TableOptions {
            colour: true,
            width,
        };
        let text = table(&summary, options);
        assert_eq!(text.contains("Capacity"), shown, "{text}");
        assert_eq!(text.contains("12.00 GiB"), shown, "{text}");
    }
}

#[test]
fn a_snapshot_that_is_not_complete_is_not_exact_and_said_so() {
    let incomplete = |unknown_bytes, problems: &[&str]| AttachSnapshotSummary {
        read_at_ns: Nanoseconds(0),
        buffers: 415,
        bytes: 415 * MIB,
        at_one_moment: false,
        unknown_bytes,
        problems: problems.iter().map(ToString::to_string).collect(),
    };
    let cases = [
        (None, true),
        (Some(incomplete(0, &[])), true),
        (Some(incomplete(MIB, &[])), false),
        (Some(incomplete(0, &["it doesn't come to an end"])), false),
    ];
    for (attach_snapshot, exact) in cases {
        let facts_of = ProcessFacts {
            attach_snapshot: attach_snapshot.clone(),
            ..python_facts(PID, Attached::Running)
        };
        let summary = Summary::new(&one_chip().ledger, &facts(vec![facts_of]));
        assert_eq!(summary.events.exact, exact, "{attach_snapshot:?}");
        let last = plain(&summary);
        let last = last.lines().last().expect("the line of events");
        let warned = last.contains("not all that was there before attach could be read");
        assert_eq!(warned, !exact, "{last}");
    }
}

#[test]
fn groups_beyond_the_largest_share_a_row() {
    let text = fourteen_buffers(|number| number);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.contains("other places"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>(),
        [
            "10.00 MiB 4 buffers in 4 other places",
            "66.00 MiB 11 buffers in 11 other places"
        ]
    );
}

#[test]
fn without_stacks_there_are_no_sections() {
    for summary in [two_chips_summary(), troubled_summary()] {
        let text = plain(&summary);
        for title in [
            "Live at exit:",
            "Peak:",
            "Temporary:",
            "Out of memory:",
            "held for",
        ] {
            assert!(!text.contains(title), "{text}");
        }
    }
}

#[test]
fn a_failure_is_reported_in_one_line() {
    let story = by_stack::model();
    let failed = &story.process().failed_allocations()[0];
    assert_eq!(
        out_of_memory("pyth\non", PID, failed),
        "out of memory: pyth\u{fffd}on (pid 100) asked for 64.00 GiB of DRAM on mesh 1, \
         where 9 buffers held 47.07 MiB"
    );
}
