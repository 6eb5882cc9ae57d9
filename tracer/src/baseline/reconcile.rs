//! What was there before, told from what was read and what happened meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Survey;
use crate::ledger::{AllocatorPointer, Buffer, Event, EventKind, Nanoseconds, ObjectPointer};

/// A survey and when it was over.
#[derive(Clone, Debug)]
pub struct Reading {
    pub survey: Survey,
    /// Everything in it was read before.
    pub until: Nanoseconds,
}

/// How many objects allocators list that aren't buffers of theirs, from the first reading to the
/// last, and without an event that would say what became of them: what can't be understood.
pub fn unexplained(early: &Reading, late: &Reading, events: &[Event]) -> usize {
    let told: HashSet<ObjectPointer> = events
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
    let both = early.survey.odd.intersection(&late.survey.odd);
    both.filter(|object| !told.contains(object)).count()
}

/// What the events say first about an object.
#[derive(Clone, Copy)]
enum First {
    /// It came into being: what was read of it before is of no account, what was read after is told
    /// by the event.
    Birth,
    /// It ended then: it was there before, if it was read before.
    End(Nanoseconds),
}

/// The buffers that were live when the probes were on, by object.
///
/// `early` and `late` were read after that, in this order, and far enough apart that whatever a
/// thread was in the middle of when the probes were put on was over when `late` was read; `events`
/// came in since the probes were on, in their order. A buffer of which no event tells is live if it
/// is still there in `late`. One that ended meanwhile is told as it was read before its end; one that
/// ended before it could be read is left out, and its end finds nothing.
pub fn reconcile(
    early: &Reading,
    late: &Reading,
    events: &[Event],
) -> BTreeMap<ObjectPointer, Buffer> {
    let mut first: HashMap<ObjectPointer, First> = HashMap::new();
    let mut freed: HashMap<AllocatorPointer, Nanoseconds> = HashMap::new();
    for event in events {
        match event.kind {
            EventKind::Allocate(buffer)
            | EventKind::Hooked(buffer)
            | EventKind::Failed(buffer)
            | EventKind::Create(buffer) => {
                // One that is born after its allocator freed all has nothing to do with that.
                if freed.contains_key(&buffer.allocator) {
                    continue;
                }
                first.entry(buffer.object).or_insert(First::Birth);
            }
            EventKind::Deallocate(object) | EventKind::Destroy(object) => {
                first.entry(object).or_insert(First::End(event.time));
            }
            EventKind::BulkFree(allocator) => {
                freed.entry(allocator).or_insert(event.time);
            }
            _ => {}
        }
    }
    let candidates = early
        .survey
        .buffers
        .iter()
        .map(|candidate| (candidate, early.until))
        .chain(
            late.survey
                .buffers
                .iter()
                .map(|candidate| (candidate, late.until)),
        );
    let mut live = BTreeMap::new();
    for ((object, buffer), until) in candidates {
        let bulk = freed.get(&buffer.allocator).copied();
        let was_live = match (first.get(object).copied(), bulk) {
            (Some(First::Birth), _) => false,
            (Some(First::End(end)), Some(bulk)) => until < end.min(bulk),
            (Some(First::End(end)), None) | (None, Some(end)) => until < end,
            (None, None) => late.survey.buffers.contains_key(object),
        };
        if was_live {
            // What was read first is farthest from the end.
            live.entry(*object).or_insert(*buffer);
        }
    }
    live
}
