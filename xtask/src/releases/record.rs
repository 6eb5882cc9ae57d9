//! What was found out about a release, kept so that a run that was stopped goes on where it was.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::library;
use crate::sh;

/// What is known of one release.
pub struct Record {
    pub version: String,
    pub check: Check,
    pub run: Option<Run>,
}

/// What `tt-memtrace check --library … --json` says.
pub enum Check {
    /// Its exit code was 0.
    Traceable(Layout),
    /// It was refused, and why.
    Refused(String),
}

/// What was derived from a library.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    pub build_id: String,
    pub fields: Vec<Field>,
    pub points: Vec<Point>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    pub name: String,
    pub path: String,
    pub witnesses: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub kind: String,
    pub function: String,
    pub into: u64,
    pub instruction: String,
    pub cost: String,
}

/// How whole programs went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// On this device so many tests passed, and these failed.
    Tested {
        device: String,
        passed: u64,
        failures: Vec<String>,
    },
    /// The release runs on no device that can be had without hardware; one reason a device.
    Unrunnable(Vec<String>),
}

impl Check {
    /// Runs `check`; what it says stands in the result, an error is one of running it.
    pub fn of(tracer: &Path, library: &Path) -> Result<Self> {
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
            .with_context(|| format!("`{}` leaves something out", sh::show(&command)))
    }
}

impl Layout {
    fn parse(library: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let fields = library["fields"].as_array()?.iter().map(|field| {
            Some(Field {
                name: text(&field["name"])?,
                path: text(&field["path"])?,
                witnesses: field["witnesses"]
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

    /// Whether `Buffer` has its fields behind a pointer, as from 0.79 on.
    pub fn behind_a_pointer(&self) -> bool {
        self.fields
            .iter()
            .any(|field| field.name == "size" && field.path.starts_with("[["))
    }
}

impl Run {
    /// What was found with the same `tools`, if it was.
    pub fn read(version: &str, tools: &str) -> Option<Self> {
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

    pub fn write(&self, version: &str, tools: &str) -> Result<()> {
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

/// Releases with the same answer to a question, in the order of their first one.
pub fn groups<T: Ord>(
    records: &[Record],
    question: impl Fn(&Layout) -> T,
) -> Vec<(Vec<&str>, &Layout)> {
    let mut found: BTreeMap<T, usize> = BTreeMap::new();
    let mut groups: Vec<(Vec<&str>, &Layout)> = Vec::new();
    for record in records {
        if let Check::Traceable(layout) = &record.check {
            let index = *found.entry(question(layout)).or_insert_with(|| {
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
