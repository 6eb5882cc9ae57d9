//! The lines of instructions: `co_linetable`.

use std::ops::Range;

/// A code object's table, in the format of its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineTable {
    /// CPython 3.10 (PEP 626; `Objects/lnotab_notes.txt` of 3.10): pairs of bytes. The first is the number
    /// of bytes of code. The second is the difference to the line before, a signed number; -128 means no line.
    Pairs(Vec<u8>),
    /// CPython 3.11 to 3.13 (PEP 657; `Objects/locations.md` of 3.11): entries. The first byte of an entry
    /// has the high bit set, four bits of kind, and three bits of the length in code units less one. The
    /// other bytes have the high bit clear.
    Locations(Vec<u8>),
}

/// Instructions of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// In code units of two bytes.
    pub instructions: Range<u32>,
    /// `None` for instructions that the compiler added.
    pub line: Option<u32>,
}

impl LineTable {
    /// All instructions in their order, from 0 on without a gap. `first_line`: of the code object.
    pub(crate) fn spans(&self, first_line: i32) -> Vec<Span> {
        let mut spans = Vec::new();
        let (mut end, mut line) = (0_u32, i64::from(first_line));
        let mut add = |units: u32, delta: Option<i64>| {
            let start = end;
            end = end.saturating_add(units);
            line = line.saturating_add(delta.unwrap_or_default());
            spans.push(Span {
                instructions: start..end,
                line: delta.and(u32::try_from(line).ok()),
            });
        };
        match self {
            Self::Pairs(table) => {
                for [bytes, delta] in table.as_chunks().0 {
                    let delta = *delta as i8;
                    add(
                        u32::from(bytes / 2),
                        (delta != i8::MIN).then_some(delta.into()),
                    );
                }
            }
            Self::Locations(table) => {
                for entry in table.chunk_by(|_, next| next & 0x80 == 0) {
                    let (first, rest) = (entry[0], &entry[1..]);
                    add(
                        u32::from(first & 7) + 1,
                        line_delta((first >> 3) & 0xf, rest),
                    );
                }
            }
        }
        spans
    }
}

/// The difference between the line of a location and that of the one before; `None` if it has no line.
fn line_delta(kind: u8, rest: &[u8]) -> Option<i64> {
    match kind {
        NO_LOCATION => None,
        LONG_FORM | NO_COLUMNS => Some(signed(rest)),
        ONE_LINE_0..=ONE_LINE_2 => Some((kind - ONE_LINE_0).into()),
        // The short forms, which stay in the same line.
        _ => Some(0),
    }
}

// `enum _PyCodeLocationInfoKind` (`Include/cpython/code.h` of 3.11).
const ONE_LINE_0: u8 = 10;
const ONE_LINE_2: u8 = 12;
const NO_COLUMNS: u8 = 13;
const LONG_FORM: u8 = 14;
const NO_LOCATION: u8 = 15;

/// A signed number of variable length: six bits in each byte, the lowest first. Bit 6 of a byte is set if
/// another one follows. The lowest bit of the number is its sign.
fn signed(bytes: &[u8]) -> i64 {
    let mut number = 0_i64;
    for (i, byte) in bytes.iter().take(6).enumerate() {
        number |= i64::from(byte & 0x3f) << (6 * i);
        if byte & 0x40 == 0 {
            break;
        }
    }
    if number & 1 == 0 {
        number >> 1
    } else {
        -(number >> 1)
    }
}
