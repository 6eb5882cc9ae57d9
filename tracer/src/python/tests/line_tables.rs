//! Line tables of CPython's standard library, compared with CPython's own `co_lines`.

use proptest::{collection::vec, prelude::*};

use crate::{
    properties::property_config,
    python::{LineTable, lines::Span},
};

/// Written by `fixtures/line_tables.py`.
const FIXTURES: [(&str, &str); 4] = [
    ("3.10", include_str!("../fixtures/line_tables-3.10.txt")),
    ("3.11", include_str!("../fixtures/line_tables-3.11.txt")),
    ("3.12", include_str!("../fixtures/line_tables-3.12.txt")),
    ("3.13", include_str!("../fixtures/line_tables-3.13.txt")),
];

fn table(version: &str, bytes: Vec<u8>) -> LineTable {
    if version == "3.10" {
        LineTable::Pairs(bytes)
    } else {
        LineTable::Locations(bytes)
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&hexadecimal[i..i + 2], 16).expect("hexadecimal");
    (0..hexadecimal.len()).step_by(2).map(byte).collect()
}

/// The line of each instruction.
fn lines(spans: &[Span]) -> Vec<Option<u32>> {
    let each = |span: &Span| span.instructions.clone().map(|_| span.line).collect();
    spans.iter().flat_map::<Vec<_>, _>(each).collect()
}

/// The line of each instruction, from ranges like `0-3:12 3-5:-`.
fn expected(ranges: &[&str]) -> Vec<Option<u32>> {
    let span = |range: &&str| {
        let (instructions, line) = range.split_once(':')?;
        let (start, end) = instructions.split_once('-')?;
        Some(Span {
            instructions: start.parse().ok()?..end.parse().ok()?,
            line: line.parse().ok(),
        })
    };
    let spans: Option<Vec<Span>> = ranges.iter().map(span).collect();
    lines(&spans.expect("ranges"))
}

#[test]
fn every_instruction_has_the_line_that_cpython_says() {
    for (version, text) in FIXTURES {
        let mut count = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [module, name, first_line, table_bytes, ref ranges @ ..] =
                line.split(' ').collect::<Vec<_>>()[..]
            else {
                panic!("not a line of a fixture: {line}");
            };
            let spans =
                table(version, bytes(table_bytes)).spans(first_line.parse().expect("a line"));
            assert_eq!(
                lines(&spans),
                expected(ranges),
                "{version}: {module} {name}"
            );
            count += 1;
        }
        assert!(count > 30, "{version}: {count} code objects");
    }
}

#[test]
fn a_line_after_a_location_without_one_counts_from_the_last_line() {
    // Two code units without a line, one in the next line, one five lines up.
    let table = LineTable::Locations(vec![0xf9, 0xd8, 0, 0, 0xe8, 0x0b]);
    let spans = table.spans(10);
    assert_eq!(lines(&spans), [None, None, Some(11), Some(6)]);
    let table = LineTable::Pairs(vec![4, 0x80, 2, 1, 2, 0xfb]);
    assert_eq!(lines(&table.spans(10)), [None, None, Some(11), Some(6)]);
}

proptest! {
    #![proptest_config(property_config(2_000))]

    /// Many bytes have bit 6 set and bit 7 clear, so that there are numbers of any length.
    #[test]
    fn a_table_of_random_bytes_does_no_harm(
        bytes in vec(prop_oneof![any::<u8>(), 0x40..0x80_u8], 0..200)
    ) {
        for version in ["3.10", "3.11"] {
            for first_line in [1, 0, -1, i32::MAX, i32::MIN] {
                let mut end = 0;
                for Span { instructions, .. } in table(version, bytes.clone()).spans(first_line) {
                    prop_assert_eq!(instructions.start, end, "{}, from line {}", version, first_line);
                    prop_assert!(instructions.end >= end, "{version}, from line {first_line}");
                    end = instructions.end;
                }
            }
        }
    }
}
