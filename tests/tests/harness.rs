//! Tests of the tests' own tools: they detect what is wrong.

use serde_json::{Value, json};
use tt_memtrace_tests::{Capacity, Frame, Summary, unique_ids};

/// Events of new buffers with these ids. One without an id is a failed allocation.
fn new_buffers(ids: &[Option<u64>]) -> Vec<Value> {
    ids.iter()
        .map(|id| match id {
            Some(id) => json!({"event": "allocate", "unique_id": id}),
            None => json!({"event": "failed", "unique_id": null}),
        })
        .collect()
}

#[test]
fn a_gap_in_the_ids_is_found() {
    let gap = |ids: &[Option<u64>], start| unique_ids(&new_buffers(ids)).first_gap_since(start);
    assert_eq!(gap(&[Some(1), Some(0), Some(2)], 0), None);
    assert_eq!(gap(&[Some(0), Some(2)], 0), Some(1));
    assert_eq!(gap(&[Some(1)], 0), Some(0));
    assert_eq!(gap(&[Some(3), Some(5), Some(6)], 5), None);
    // A failed allocation explains one gap.
    assert_eq!(gap(&[Some(0), None, Some(2)], 0), None);
    assert_eq!(gap(&[Some(0), None, Some(3)], 0), Some(2));
}

#[test]
#[should_panic(expected = "an id twice")]
fn an_id_twice_is_found() {
    unique_ids(&new_buffers(&[Some(0), Some(0)])).first_gap_since(0);
}

#[test]
#[should_panic(expected = "fewer gaps than events without an id")]
fn a_failed_allocation_without_a_gap_is_found() {
    unique_ids(&new_buffers(&[Some(0), None, Some(1)])).first_gap_since(0);
}

#[test]
#[should_panic(expected = "schema_version")]
fn a_summary_that_the_schema_forbids_is_found() {
    Summary::parse(r#"{"schema_version": 2}"#);
}

#[test]
fn an_unknown_field_of_a_summary_is_ignored() {
    let capacity = json!({
        "banks": 1,
        "bytes_per_bank": 2,
        "allocated_per_bank": 3,
        "free_per_bank": 4,
        "largest_free_per_bank": 5,
        "from_a_later_version": 6,
    });
    let capacity: Capacity = serde_json::from_value(capacity).expect("a capacity");
    assert_eq!(capacity.largest_free_per_bank, 5);
}

#[test]
fn a_missing_field_of_a_summary_is_named() {
    let frame = json!({
        "kind": "python",
        "function": "forward",
        "file": "train.py",
        "line": 21,
        "module": null,
        "offset": null,
    });
    let frame = frame.as_object().expect("an object");
    for name in frame.keys() {
        let mut without = frame.clone();
        without.remove(name);
        let error = serde_json::from_value::<Frame>(Value::Object(without)).expect_err(name);
        assert_eq!(error.to_string(), format!("missing field `{name}`"));
    }
}
