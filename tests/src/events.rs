//! What the event lines of a trace (`--events`) say.

use serde_json::Value;

/// The events of that name.
pub fn events_named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["event"] == name)
        .collect()
}

/// The only event of that name.
#[track_caller]
pub fn only_event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    let [event] = events_named(events, name)[..] else {
        panic!("not exactly one event `{name}`: {events:?}");
    };
    event
}

/// The unique ids of buffers that the events have. TT-Metal counts them from 0, in the constructor: each
/// buffer takes the next id, also a buffer whose allocation then fails or is hooked.
#[derive(Debug)]
pub struct UniqueIds {
    /// Sorted.
    known: Vec<u64>,
    /// Events of new buffers without an id: failed allocations.
    unknown: usize,
}

/// The unique ids in the events of new buffers.
#[track_caller]
pub fn unique_ids(events: &[Value]) -> UniqueIds {
    let new: Vec<&Value> = ["allocate", "create", "failed", "hooked"]
        .iter()
        .flat_map(|name| events_named(events, name))
        .collect();
    let mut known: Vec<u64> = new
        .iter()
        .filter_map(|event| event["unique_id"].as_u64())
        .collect();
    known.sort_unstable();
    let unknown = new.len() - known.len();
    UniqueIds { known, unknown }
}

impl UniqueIds {
    /// The last id.
    pub fn last(&self) -> Option<u64> {
        self.known.last().copied()
    }

    /// The first id from `start` to the last one that no buffer has. The number of such gaps must equal the
    /// number of events without an id; more gaps mean that an event is missing.
    #[track_caller]
    pub fn first_gap_since(&self, start: u64) -> Option<u64> {
        let since = &self.known[self.known.partition_point(|id| *id < start)..];
        assert!(!since.is_empty(), "no id from {start} on: {self:?}");
        assert!(since.is_sorted_by(|a, b| a < b), "an id twice: {since:?}");
        let mut unknown = self.unknown;
        let mut next = start;
        for id in since {
            while next != *id {
                unknown = match unknown.checked_sub(1) {
                    None => return Some(next),
                    Some(left) => left,
                };
                next += 1;
            }
            next += 1;
        }
        assert_eq!(unknown, 0, "fewer gaps than events without an id: {self:?}");
        None
    }
}
