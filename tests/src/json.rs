//! Values of JSON objects whose shape no schema of ours describes: event lines, and answers of the programs under test.

use serde_json::Value;

/// An unsigned number of a JSON object.
#[track_caller]
pub fn unsigned(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no number `{name}` in {value}"))
}

/// A pid of a JSON object.
#[track_caller]
pub fn pid(value: &Value, name: &str) -> u32 {
    u32::try_from(unsigned(value, name)).expect("a pid is a u32")
}

/// A string of a JSON object.
#[track_caller]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no string `{name}` in {value}"))
}

/// A list of a JSON object.
#[track_caller]
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{name}` in {value}"))
}

/// The JSON value that a line of output consists of.
#[track_caller]
pub fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"))
}
