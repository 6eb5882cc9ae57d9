//! The published schema: every summary satisfies it, and broken ones do not.

use jsonschema::Validator;
use serde_json::{Value, json};

use super::*;

const SCHEMA: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../schemas/summary-v1.schema.json"
));

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).expect("the schema is a schema")
}

fn json_of(summary: &Summary) -> Value {
    serde_json::to_value(summary).expect("a summary is JSON")
}

fn errors(value: &Value) -> Vec<String> {
    validator()
        .iter_errors(value)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect()
}

#[test]
fn the_schema_is_a_schema_of_its_draft() {
    jsonschema::draft202012::meta::validate(&schema()).expect("valid");
}

#[test]
fn every_summary_satisfies_the_schema() {
    let one_chip = Summary::new(&one_chip().ledger, &facts(vec![]));
    let empty = Summary::new(&Ledger::default(), &facts(vec![]));
    let bare = ProcessFacts {
        libraries: vec![Library {
            path: "/lib".into(),
            build_id: None,
            release: None,
            fields: BTreeMap::new(),
        }],
        ..python_facts(1, Attached::Running)
    };
    let bare = Summary::new(&Ledger::default(), &facts(vec![bare]));
    for summary in [
        two_chips_summary(),
        troubled_summary(),
        by_stack::model_summary(),
        baseline::changed_summary(),
        maps::summary_of(&maps::with_holes()),
        one_chip,
        empty,
        bare,
    ] {
        assert_eq!(errors(&json_of(&summary)), [] as [String; 0]);
    }
}

#[test]
fn a_buffer_from_before_attach_satisfies_the_schema() {
    let mut summary = two_chips_summary();
    let buffer = &mut summary.processes[0].live_buffers[0];
    *buffer = BufferSummary {
        before_attach: true,
        allocated_at_ns: None,
        tid: None,
        stack: None,
        ..buffer.clone()
    };
    assert_eq!(errors(&json_of(&summary)), [] as [String; 0]);
}

#[test]
fn a_field_that_is_added_later_satisfies_the_schema() {
    let mut value = json_of(&two_chips_summary());
    for pointer in [
        "",
        "/tool",
        "/processes/0",
        "/processes/0/devices/0",
        "/processes/0/library",
    ] {
        value.pointer_mut(pointer).expect("there")["new"] = json!(1);
    }
    assert_eq!(errors(&value), [] as [String; 0]);
}

/// A sample summary, the first that has a value at `pointer`, with that value replaced.
fn with(pointer: &str, replacement: Value) -> Value {
    for summary in [
        two_chips_summary(),
        by_stack::model_summary(),
        baseline::changed_summary(),
    ] {
        let mut value = json_of(&summary);
        if let Some(there) = value.pointer_mut(pointer) {
            *there = replacement;
            return value;
        }
    }
    panic!("nothing at {pointer}")
}

#[test]
fn a_broken_summary_does_not_satisfy_the_schema() {
    let live = "/processes/0/devices/0/memory/DRAM/live_bytes";
    let broken = [
        ("/schema_version", json!(2)),
        ("/schema_version", json!("1")),
        ("/started_at", json!("yesterday")),
        ("/started_at", json!(0)),
        ("/duration_ns", json!(-1)),
        ("/duration_ns", json!(1.5)),
        ("/events/lost", Value::Null),
        ("/processes", json!({})),
        ("/processes/0/pid", json!("100")),
        ("/processes/0/attached", json!("late")),
        ("/processes/0/exit", json!({"code": 1, "signal": 9})),
        ("/processes/0/exit", json!({})),
        ("/processes/0/exit", json!(0)),
        ("/processes/0/exit", json!({"signal": 0})),
        ("/processes/0/library/build_id", json!("not hexadecimal")),
        ("/processes/0/library/fields/size", json!(8)),
        ("/processes/0/devices/0/kind", json!("cluster")),
        ("/processes/0/devices/0/members", json!([0, 0])),
        ("/processes/0/devices/1/members", json!([0])),
        ("/processes/0/devices/0/memory/DRAM", Value::Null),
        (live, json!(-1)),
        (live, json!("12 MiB")),
        ("/processes/0/live_buffers/0/buffer_type", json!("dram")),
        ("/processes/0/live_buffers/0/layout", json!("SPIRAL")),
        ("/processes/0/live_buffers/0/owns_data", json!(false)),
        ("/processes/0/live_buffers/0/allocated_at_ns", Value::Null),
        ("/processes/0/live_buffers/0/tid", Value::Null),
        ("/processes/0/non_owning/buffers/0/owns_data", json!(true)),
        ("/processes/0/non_owning/live", json!(-1)),
        ("/processes/0/unmatched_deallocations", Value::Null),
        ("/processes/0/live_buffers/0/stack", json!("main")),
        ("/processes/0/live_buffers/0/origin", json!("elsewhere")),
        ("/processes/0/leaks", Value::Null),
        ("/processes/0/leaks/0/bytes", json!(-1)),
        ("/processes/0/leaks/0/origin", Value::Null),
        ("/processes/0/leaks/0/oldest_age_ns", json!(1.5)),
        ("/processes/0/peaks/0/groups", json!({})),
        ("/processes/0/peaks/0/peak_at_ns", Value::Null),
        ("/processes/0/temporary", json!([])),
        ("/processes/0/temporary/groups/0/before_attach", json!(1)),
        ("/processes/0/failures/0/rest", Value::Null),
        ("/processes/0/failures/0/free_bytes", json!(-1)),
        ("/processes/0/stacks/0/id", Value::Null),
        ("/processes/0/stacks/0/frames/0/kind", json!("rust")),
        ("/processes/0/stacks/0/frames/0/line", json!("12")),
    ];
    for (pointer, replacement) in broken {
        let value = with(pointer, replacement.clone());
        assert!(
            !validator().is_valid(&value),
            "{pointer} may be {replacement}"
        );
    }
    let unknown_type = {
        let mut value = json_of(&two_chips_summary());
        value["processes"][0]["devices"][0]["memory"]["L3"] = json!("much");
        value
    };
    assert!(!validator().is_valid(&unknown_type));
}

/// Collects each field of each object in the value, as the pointer to the object and the field's name.
fn fields(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.push((at.to_owned(), name.clone()));
                fields(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                fields(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_field_may_be_missing() {
    let validator = validator();
    for summary in [two_chips_summary(), by_stack::model_summary()] {
        let whole = json_of(&summary);
        let mut all = Vec::new();
        fields(&whole, "", &mut all);
        // The fields of a library are optional: they differ between releases.
        all.retain(|(object, _)| !object.ends_with("/fields"));
        assert!(all.len() > 150, "{}", all.len());
        for (object, name) in all {
            let mut value = whole.clone();
            let fields = value.pointer_mut(&object).and_then(Value::as_object_mut);
            fields.expect("an object").remove(&name);
            assert!(
                !validator.is_valid(&value),
                "{object}/{name} may be missing"
            );
        }
    }
}

#[test]
fn every_field_is_described() {
    fn check(schema: &Value, at: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let conditional = at.ends_with("/if") || at.ends_with("/then") || at.contains("/allOf/");
        for (name, property) in properties.into_iter().flatten().filter(|_| !conditional) {
            let described = property.get("description").is_some() || property.get("$ref").is_some();
            assert!(described, "{at}: {name}");
        }
        match schema {
            Value::Object(object) => {
                object
                    .iter()
                    .for_each(|(name, value)| check(value, &format!("{at}/{name}")));
            }
            Value::Array(items) => items
                .iter()
                .enumerate()
                .for_each(|(index, value)| check(value, &format!("{at}/{index}"))),
            _ => {}
        }
    }
    check(&schema(), "");
}
