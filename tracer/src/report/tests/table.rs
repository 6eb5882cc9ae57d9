//! What a person sees.

use super::*;

fn plain(summary: &Summary) -> String {
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
        &facts(vec![python(PID, Attached::Start)]),
    );
    insta::assert_snapshot!(plain(&summary));
}

#[test]
fn a_mesh_of_one_chip_that_holds_more_is_shown_beside_it() {
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
fn many_chips_that_are_all_alike_share_their_rows() {
    let mut story = Story::default();
    let chips: Vec<u32> = (0..32).collect();
    story.allocate_on_mesh(owning(0x1000, MESH, 0x10_0000, 3 * MIB), &chips);
    insta::assert_snapshot!(plain(&Summary::new(&story.ledger, &facts(vec![]))));
}

#[test]
fn all_that_can_be_the_matter() {
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
fn without_colour_there_is_no_escape_and_names_cannot_bring_one_in() {
    let comm = "ev\x1b[2Jil\n".to_owned();
    let facts = facts(vec![ProcessFacts {
        comm,
        ..python(PID, Attached::Start)
    }]);
    let text = plain(&Summary::new(&two_chips().ledger, &facts));
    assert!(!text.contains('\x1b'), "{text}");
    assert!(
        text.starts_with("ev\u{fffd}[2Jil\u{fffd} (pid 100): "),
        "{text}"
    );
}

#[test]
fn a_narrow_terminal_is_stayed_within() {
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
fn nothing_to_show_is_said() {
    let nobody = Summary::new(&Ledger::default(), &facts(vec![]));
    assert_eq!(plain(&nobody), "No process was traced.\n0 events, 0 lost\n");
    let facts = facts(vec![ProcessFacts {
        libraries: vec![],
        ..python(PID, Attached::Start)
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
fn who_allocated_what() {
    insta::assert_snapshot!(model_within(None));
}

#[test]
fn who_allocated_what_in_a_narrow_terminal() {
    for width in [80, 120] {
        let text = model_within(Some(width));
        // The first line has names in it.
        let lines = text.lines().skip(1);
        assert!(lines.clone().count() > 30);
        for line in lines {
            assert!(line.chars().count() <= usize::from(width), "{line}");
        }
        insta::assert_snapshot!(format!("who_allocated_what_in_{width}_columns"), text);
    }
}

#[test]
fn beyond_the_largest_groups_the_rest_is_one_row() {
    let mut story = Story::default();
    for number in 1..=14 {
        let buffer = owning(0x10 * number, chip(0), 0x1000 * number, number * MIB);
        story.allocate_at(100 + number as u32, buffer);
    }
    let text = plain(&Summary::new(&story.ledger, &facts(vec![])));
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
fn without_stacks_there_is_no_section() {
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
fn a_failure_is_told_in_one_line() {
    let story = by_stack::model();
    let failed = &story.process().failed_allocations()[0];
    assert_eq!(
        out_of_memory("pyth\non", PID, failed),
        "out of memory: pyth\u{fffd}on (pid 100) asked for 64.00 GiB of DRAM on mesh 1, \
         where 9 buffers held 47.07 MiB"
    );
}
