//! Readings and events for tests. Times are in nanoseconds; the first reading is over at 100, the second at
//! 200.

use super::heap_reading::{HeapReading, ReadingPair, TimedReading};
use crate::ledger::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};

pub(super) const FIRST: Nanoseconds = Nanoseconds(100);
pub(super) const SECOND: Nanoseconds = Nanoseconds(200);

/// The process that [`event`] is about.
pub(super) const PID: u32 = 1;

pub(super) fn buffer(object: u64, size: u64) -> Buffer {
    Buffer {
        object: ObjectPointer(object),
        allocator: AllocatorPointer(7),
        device: Device {
            kind: DeviceKind::Mesh,
            id: 1,
        },
        address: 0x1000 * object,
        size,
        page_size: 32,
        buffer_type: BufferType::Dram,
        layout: Layout::Interleaved,
        bytes_per_bank: None,
        unique_id: None,
        ownership: Ownership::Owning,
    }
}

/// Two readings that found these buffers.
pub(super) fn pair(first: &[Buffer], second: &[Buffer]) -> ReadingPair {
    let heap = |buffers: &[Buffer]| HeapReading {
        buffers: buffers
            .iter()
            .map(|buffer| (buffer.object, *buffer))
            .collect(),
        ..HeapReading::default()
    };
    timed(heap(first), heap(second))
}

/// Two readings that found these objects and couldn't make buffers of them.
pub(super) fn unrecognized(first: &[u64], second: &[u64]) -> ReadingPair {
    let heap = |objects: &[u64]| HeapReading {
        unrecognized: objects
            .iter()
            .map(|object| ObjectPointer(*object))
            .collect(),
        ..HeapReading::default()
    };
    timed(heap(first), heap(second))
}

fn timed(first: HeapReading, second: HeapReading) -> ReadingPair {
    let timed = |heap, read_until| TimedReading { heap, read_until };
    ReadingPair {
        first: timed(first, FIRST),
        second: timed(second, SECOND),
    }
}

pub(super) fn event(time: u64, kind: EventKind) -> Event {
    Event {
        pid: PID,
        tid: PID,
        time: Nanoseconds(time),
        kind,
        stack: None,
    }
}
