//! Finds what was live when the probes went on, from two readings and the events that came meanwhile.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::heap_reading::ReadingPair;
use crate::ledger::{AllocatorPointer, Buffer, Event, EventKind, Nanoseconds, ObjectPointer};

/// How many objects can't be explained: allocators list them in both readings, they aren't live owning
/// buffers in either, and no event names them.
pub(super) fn count_unexplained(readings: &ReadingPair, events: &[Event]) -> usize {
    let ReadingPair { first, second } = readings;
    let named: HashSet<ObjectPointer> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Allocate(buffer)
            | EventKind::Hooked(buffer)
            | EventKind::Failed(buffer)
            | EventKind::Create(buffer) => Some(buffer.object),
            EventKind::Deallocate(object) | EventKind::Destroy(object) => Some(object),
            _ => None,
        })
        .collect();
    let both = first
        .heap
        .unrecognized
        .intersection(&second.heap.unrecognized);
    both.filter(|object| !named.contains(object)).count()
}

/// The first event of an object.
#[derive(Clone, Copy)]
enum FirstEvent {
    /// The object was created after the probes went on. The event has all that a reading could add.
    Creation,
    /// The object ended at this time. It was there before if it was read before.
    End(Nanoseconds),
}

/// The buffers that were live when the probes went on, by object.
///
/// `events` came in since the probes went on, in order of time.
///
/// - A buffer that no event names was live if it is in the second reading.
/// - A buffer that ended meanwhile was live if it was read before its end, and is returned as it was read.
/// - A buffer that ended before it could be read is left out; the ledger finds no buffer for its end.
pub(super) fn reconcile(
    readings: &ReadingPair,
    events: &[Event],
) -> BTreeMap<ObjectPointer, Buffer> {
    let ReadingPair { first, second } = readings;
    let mut first_events: HashMap<ObjectPointer, FirstEvent> = HashMap::new();
    let mut freed: HashMap<AllocatorPointer, Nanoseconds> = HashMap::new();
    for event in events {
        match event.kind {
            EventKind::Allocate(buffer)
            | EventKind::Hooked(buffer)
            | EventKind::Failed(buffer)
            | EventKind::Create(buffer) => {
                // A buffer that was created after its allocator's bulk free isn't concerned by that.
                if freed.contains_key(&buffer.allocator) {
                    continue;
                }
                first_events
                    .entry(buffer.object)
                    .or_insert(FirstEvent::Creation);
            }
            EventKind::Deallocate(object) | EventKind::Destroy(object) => {
                first_events
                    .entry(object)
                    .or_insert(FirstEvent::End(event.time));
            }
            EventKind::BulkFree(allocator) => {
                freed.entry(allocator).or_insert(event.time);
            }
            _ => {}
        }
    }
    // The first reading comes first: it is farther from a buffer's end.
    let candidates = [first, second].into_iter().flat_map(|reading| {
        let buffers = reading.heap.buffers.iter();
        buffers.map(|candidate| (candidate, reading.read_until))
    });
    let mut live = BTreeMap::new();
    for ((object, buffer), read_until) in candidates {
        let bulk = freed.get(&buffer.allocator).copied();
        let was_live = match (first_events.get(object).copied(), bulk) {
            (Some(FirstEvent::Creation), _) => false,
            (Some(FirstEvent::End(end)), Some(bulk)) => read_until < end.min(bulk),
            (Some(FirstEvent::End(end)), None) | (None, Some(end)) => read_until < end,
            (None, None) => second.heap.buffers.contains_key(object),
        };
        if was_live {
            live.entry(*object).or_insert(*buffer);
        }
    }
    live
}
