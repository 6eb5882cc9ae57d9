//! What one process held when the tracer attached to it.

use super::{
    heap_reading::{DeviceState, ReadingPair},
    reconcile::{count_unexplained, reconcile},
};
use crate::ledger::{
    AllocatorPointer, BankRange, Buffer, BufferType, Event, Nanoseconds, ObjectPointer,
};

/// What a process held when its probes went on, as far as one library and some of its devices are
/// concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachSnapshot {
    pub pid: u32,
    /// When the reading was over.
    pub read_at: Nanoseconds,
    /// Devices with their member chips and banks.
    pub devices: Vec<DeviceState>,
    /// Which addresses the allocators can give.
    pub ranges: Vec<(AllocatorPointer, BufferType, BankRange)>,
    /// Owning buffers that were live when the probes went on, by object. They include buffers that made
    /// events of their own, where their device was found only after these events.
    pub buffers: Vec<Buffer>,
    /// Objects that are copies of an ancestor's: a fork made them before the tracer came, and they hold no
    /// memory.
    pub inherited: Vec<ObjectPointer>,
    /// Whether everything was read as it was at one moment.
    pub at_one_moment: bool,
    /// Bytes that allocators count as allocated and that may belong to the unexplained objects; 0 where
    /// there are none, since the rest is padding.
    pub unknown_bytes: u64,
    /// How many objects allocators list that aren't live owning buffers.
    pub unexplained: usize,
    /// What couldn't be read and why, for a person; the unexplained objects among it.
    pub problems: Vec<String>,
    /// Whether these devices were found by the search of the whole heap, after the others were read.
    pub by_search: bool,
}

impl AttachSnapshot {
    /// Makes the snapshot of a process from two readings and `events`: what happened since the probes went
    /// on, in all processes. `is_of_ancestor`: whether an ancestor held the same buffer.
    pub(super) fn new(
        pid: u32,
        by_search: bool,
        readings: &ReadingPair,
        events: &[Event],
        is_of_ancestor: impl Fn(&Buffer) -> bool,
    ) -> Self {
        let own = events.iter().filter(|event| event.pid == pid);
        let own: Vec<Event> = own.copied().collect();
        let heap = &readings.second.heap;
        let (copies, mut buffers): (Vec<Buffer>, Vec<Buffer>) = reconcile(readings, &own)
            .into_values()
            .partition(is_of_ancestor);
        for buffer in &mut buffers {
            let heaps = [heap, &readings.first.heap].into_iter();
            buffer.bytes_per_bank = heaps.filter_map(|heap| heap.bytes_per_bank(buffer)).next();
        }
        let maps = heap.maps.iter();
        let unexplained = count_unexplained(readings, &own);
        let mut problems = heap.problems.clone();
        if unexplained > 0 {
            problems.push(format!(
                "allocators list {unexplained} objects that aren't live owning buffers"
            ));
        }
        Self {
            pid,
            read_at: readings.second.read_until,
            devices: heap.devices.clone(),
            ranges: maps
                .map(|((allocator, buffer_type), map)| (*allocator, *buffer_type, map.range))
                .collect(),
            buffers,
            inherited: copies.iter().map(|copy| copy.object).collect(),
            at_one_moment: heap.at_one_moment,
            unknown_bytes: if unexplained > 0 {
                heap.unknown_bytes
            } else {
                0
            },
            unexplained,
            problems,
            by_search,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        ledger::EventKind,
        snapshot::{
            banks::BankMap,
            fixture::{PID, SECOND, buffer, event, pair, unrecognized},
        },
    };

    #[test]
    fn a_buffer_that_an_ancestor_held_is_inherited() {
        let all = [buffer(1, 64), buffer(2, 32)];
        let snapshot = AttachSnapshot::new(PID, false, &pair(&all, &all), &[], |buffer| {
            buffer.object == ObjectPointer(1)
        });
        assert_eq!(snapshot.inherited, [ObjectPointer(1)]);
        assert_eq!(snapshot.buffers, [buffer(2, 32)]);
        assert_eq!(snapshot.read_at, SECOND);
    }

    #[test]
    fn events_of_another_process_change_nothing() {
        let all = [buffer(1, 64)];
        let freed = event(50, EventKind::Deallocate(ObjectPointer(1)));
        let elsewhere = Event {
            pid: PID + 1,
            ..freed
        };
        let of =
            |event| AttachSnapshot::new(PID, false, &pair(&all, &all), &[event], |_| false).buffers;
        assert_eq!(of(elsewhere), all);
        assert_eq!(of(freed), []);
    }

    /// A freed buffer's block is in the map of the first reading only.
    #[test]
    fn a_block_length_comes_from_the_latest_map_that_has_the_buffer() {
        let (kept, freed) = (buffer(1, 64), buffer(2, 32));
        let mut readings = pair(&[kept, freed], &[kept]);
        let range = BankRange {
            banks: 12,
            start: 0,
            end: 0x9000,
        };
        let map = |used: &[(u64, u64)]| BankMap {
            range,
            used: BTreeMap::from_iter(used.iter().copied()),
        };
        let key = (kept.allocator, kept.buffer_type);
        let first = map(&[(kept.address, 0x40), (freed.address, 0x20)]);
        readings.first.heap.maps.insert(key, first);
        let second = map(&[(kept.address, 0x80)]);
        readings.second.heap.maps.insert(key, second);
        let freed_event = event(150, EventKind::Deallocate(freed.object));
        let snapshot = AttachSnapshot::new(PID, false, &readings, &[freed_event], |_| false);
        let lengths = snapshot.buffers.iter().map(|buffer| buffer.bytes_per_bank);
        assert_eq!(lengths.collect::<Vec<_>>(), [Some(0x80), Some(0x20)]);
        assert_eq!(snapshot.ranges, [(key.0, key.1, range)]);
    }

    #[test]
    fn bytes_are_unknown_only_where_objects_are_unexplained() {
        let of = |mut readings: ReadingPair| {
            readings.second.heap.unknown_bytes = 4096;
            let snapshot = AttachSnapshot::new(PID, false, &readings, &[], |_| false);
            let AttachSnapshot {
                unexplained,
                unknown_bytes,
                problems,
                ..
            } = snapshot;
            (unexplained, unknown_bytes, problems)
        };
        assert_eq!(of(unrecognized(&[3], &[])), (0, 0, vec![]));
        let problem = "allocators list 1 objects that aren't live owning buffers".to_owned();
        assert_eq!(of(unrecognized(&[3], &[3])), (1, 4096, vec![problem]));
    }
}
