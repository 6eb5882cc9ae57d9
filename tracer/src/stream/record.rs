//! What every record begins with, and the reasons why a record can't be decoded.

use thiserror::Error;
use tracer_common::Header;

/// A record that can't be decoded. It counts as lost.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum DecodeError {
    #[error("a record of {0} bytes, which no probe point sends")]
    Length(usize),
    #[error("a record of probe point {0}, which doesn't exist")]
    Point(u32),
    #[error("the target's memory couldn't be read (faults {faults:#x}, needed {needed:#x})")]
    Fault { faults: u32, needed: u32 },
    #[error("buffer type {0}, which no release has")]
    BufferType(u64),
    #[error("a device whose vtable, {0:#x} from the probe, is neither a chip's nor a mesh's")]
    Device(u64),
    #[error("`owns_data` is {0}, which is no bool")]
    Ownership(u64),
    #[error("a program's region of L1 from {0:#x} to {1:#x}, which is impossible")]
    Region(u64, u64),
    #[error("a program's core range {0:?}, which is impossible")]
    CoreRange([u64; 4]),
}

/// The [`Capture::point`](tracer_common::Capture::point) that a record comes from.
pub(crate) fn point(record: &[u8]) -> Option<u32> {
    read_header(record).map(|header| header.point)
}

/// The time at which a record was made, by `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn time_ns(record: &[u8]) -> Option<u64> {
    read_header(record).map(|header| header.time_ns)
}

pub(super) fn read_header(record: &[u8]) -> Option<Header> {
    let bytes = record.get(..size_of::<Header>())?;
    let u32_at = |at: usize| number(&bytes[at..at + 4]) as u32;
    Some(Header {
        time_ns: number(&bytes[..8]),
        pid: u32_at(8),
        tid: u32_at(12),
        point: u32_at(16),
        faults: u32_at(20),
    })
}

/// A little-endian number of up to 8 bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .take(8)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
