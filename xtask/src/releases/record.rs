//! The results of a release, kept in files so that an interrupted run can continue.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::library;
use crate::sh;

/// The results of one release.
pub(super) struct Record {
    pub version: String,
    pub check: Check,
    pub run: Option<Run>,
}

/// The result of `tt-memtrace check --library … --json`.
pub(super) enum Check {
    /// The library can be traced.
    Traceable(Layout),
    /// The library was refused, for this reason.
    Refused(String),
}

/// The fields and probe points derived from a library.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Layout {
    pub build_id: String,
    pub fields: Vec<Field>,
    pub points: Vec<Point>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Field {
    pub name: String,
    pub path: String,
    pub evidence: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub kind: String,
    pub function: String,
    pub into: u64,
    pub instruction: String,
    pub cost: String,
}

/// The result of the whole-program tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// The device, how many tests passed on it, and which failed.
    Tested {
        device: String,
        passed: u64,
        failures: Vec<String>,
    },
    /// The release runs on no device that needs no hardware. One reason for each device.
    Unrunnable(Vec<String>),
}

impl Check {
    /// Runs `tt-memtrace check`. A library that is refused is a result; an error means that `check` could not be run.
    pub(super) fn run(tracer: &Path, library: &Path) -> Result<Self> {
        let mut command = Command::new(tracer);
        command.args(["check", "--json", "--library"]).arg(library);
        let output = command
            .output()
            .with_context(|| format!("can't start `{}`", sh::show(&command)))?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`{}` printed no JSON", sh::show(&command)))?;
        let library = &report["library"];
        if let Some(problem) = library["problem"].as_str() {
            return Ok(Self::Refused(problem.to_owned()));
        }
        Layout::parse(library)
            .map(Self::Traceable)
            .with_context(|| format!("the report of `{}` is incomplete", sh::show(&command)))
    }
}

impl Layout {
    fn parse(library: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let fields = library["fields"].as_array()?.iter().map(|field| {
            Some(Field {
                name: text(&field["name"])?,
                path: text(&field["path"])?,
                evidence: field["witnesses"]
                    .as_array()?
                    .iter()
                    .map(text)
                    .collect::<Option<_>>()?,
            })
        });
        let points = library["probe_points"].as_array()?.iter().map(|point| {
            Some(Point {
                kind: text(&point["kind"])?,
                function: text(&point["function"])?,
                into: point["into"].as_u64()?,
                instruction: text(&point["instruction"])?,
                cost: text(&point["cost"])?,
            })
        });
        Some(Self {
            build_id: text(&library["build_id"])?,
            fields: fields.collect::<Option<_>>()?,
            points: points.collect::<Option<_>>()?,
        })
    }

    /// Whether the fields of `Buffer` lie behind a pointer, as they do since 0.79.
    pub(super) fn behind_a_pointer(&self) -> bool {
        self.fields
            .iter()
            .any(|field| field.name == "size" && field.path.starts_with("[["))
    }
}

impl Run {
    /// The stored result, if it was made with the same `tools`.
    pub(super) fn read(version: &str, tools: &str) -> Option<Self> {
        let text = fs::read(library::directory(version).join("run.json")).ok()?;
        let json: Value = serde_json::from_slice(&text).ok()?;
        if json["tools"] != tools {
            return None;
        }
        let list = |value: &Value| -> Option<Vec<String>> {
            let list = value.as_array()?.iter();
            list.map(|entry| entry.as_str().map(str::to_owned))
                .collect()
        };
        if let Some(reasons) = list(&json["unrunnable"]) {
            return Some(Self::Unrunnable(reasons));
        }
        Some(Self::Tested {
            device: json["device"].as_str()?.to_owned(),
            passed: json["passed"].as_u64()?,
            failures: list(&json["failures"])?,
        })
    }

    pub(super) fn write(&self, version: &str, tools: &str) -> Result<()> {
        let json = match self {
            Self::Tested {
                device,
                passed,
                failures,
            } => json!({
                "tools": tools, "device": device, "passed": passed, "failures": failures,
            }),
            Self::Unrunnable(reasons) => json!({ "tools": tools, "unrunnable": reasons }),
        };
        let file = library::directory(version).join("run.json");
        fs::write(&file, json.to_string()).with_context(|| format!("write {}", file.display()))
    }
}

/// Groups releases by a property of their layout, in the order of each group's first release.
pub(super) fn groups<T: Ord>(
    records: &[Record],
    property: impl Fn(&Layout) -> T,
) -> Vec<(Vec<&str>, &Layout)> {
    let mut found: BTreeMap<T, usize> = BTreeMap::new();
    let mut groups: Vec<(Vec<&str>, &Layout)> = Vec::new();
    for record in records {
        if let Check::Traceable(layout) = &record.check {
            let index = *found.entry(property(layout)).or_insert_with(|| {
                groups.push((Vec::new(), layout));
                groups.len() - 1
            });
            if let Some((versions, _)) = groups.get_mut(index) {
                versions.push(&record.version);
            }
        }
    }
    groups
}
