//! The tests' own tools can tell right from wrong.

use serde_json::{Value, json};
use tt_memtrace_tests::{Summary, unique_ids};

fn births(ids: &[Option<u64>]) -> Vec<Value> {
    ids.iter()
        .map(|id| match id {
            Some(id) => json!({"event": "allocate", "unique_id": id}),
            None => json!({"event": "failed", "unique_id": null}),
        })
        .collect()
}

#[test]
fn a_gap_in_the_ids_is_found() {
    let gap = |ids: &[Option<u64>], start| unique_ids(&births(ids)).first_gap_since(start);
    assert_eq!(gap(&[Some(1), Some(0), Some(2)], 0), None);
    assert_eq!(gap(&[Some(0), Some(2)], 0), Some(1));
    assert_eq!(gap(&[Some(1)], 0), Some(0));
    assert_eq!(gap(&[Some(3), Some(5), Some(6)], 5), None);
    // One that failed explains one gap.
    assert_eq!(gap(&[Some(0), None, Some(2)], 0), None);
    assert_eq!(gap(&[Some(0), None, Some(3)], 0), Some(2));
}

#[test]
#[should_panic(expected = "an id twice")]
fn an_id_twice_is_found() {
    unique_ids(&births(&[Some(0), Some(0)])).first_gap_since(0);
}

#[test]
#[should_panic(expected = "fewer gaps than births without an id")]
fn a_failure_that_never_was_is_found() {
    unique_ids(&births(&[Some(0), None, Some(1)])).first_gap_since(0);
}

#[test]
#[should_panic(expected = "schema_version")]
fn what_the_schema_forbids_is_found() {
    Summary::parse(r#"{"schema_version": 2}"#);
}
