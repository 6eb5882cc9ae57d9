//! What `tt-memtrace` wrote: the summary and the events.

use std::path::Path;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::workspace;

/// A summary that is valid by `schemas/summary-v1.schema.json`.
#[derive(Debug)]
pub struct Summary(pub Value);

/// The part of a summary that is about one process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSummary<'a>(pub &'a Value);

/// A live buffer, by what tells it apart: kind and id of its device, type, address, size. TT-Metal
/// numbers meshes and chips apart.
pub type Live = (String, u64, String, u64, u64);

impl Summary {
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text)
    }

    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let summary =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
        let errors: Vec<String> = schema()
            .iter_errors(&summary)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}\n{summary:#}", errors.join("\n"));
        Self(summary)
    }

    /// The process with that pid.
    #[track_caller]
    pub fn process(&self, pid: u32) -> ProcessSummary<'_> {
        self.processes()
            .find(|process| unsigned(process.0, "pid") == u64::from(pid))
            .unwrap_or_else(|| panic!("no process {pid} in {:#}", self.0))
    }

    /// The only process.
    #[track_caller]
    pub fn only_process(&self) -> ProcessSummary<'_> {
        let mut processes = self.processes();
        let (Some(process), None) = (processes.next(), processes.next()) else {
            panic!("not one process: {:#}", self.0);
        };
        process
    }

    pub fn processes(&self) -> impl Iterator<Item = ProcessSummary<'_>> {
        list(&self.0, "processes").iter().map(ProcessSummary)
    }

    #[track_caller]
    pub fn lost(&self) -> u64 {
        unsigned(&self.0["events"], "lost")
    }

    /// Panics if an event was lost.
    #[track_caller]
    pub fn expect_complete(&self) -> &Self {
        assert_eq!(self.lost(), 0, "{}", self.0["events"]);
        self
    }
}

impl<'a> ProcessSummary<'a> {
    /// A counter, such as `bulk_frees`.
    #[track_caller]
    pub fn count(self, name: &str) -> u64 {
        unsigned(self.0, name)
    }

    /// The live owning buffers, sorted.
    #[track_caller]
    pub fn owning(self) -> Vec<Live> {
        let mut live: Vec<Live> = list(self.0, "live_buffers")
            .iter()
            .filter(|buffer| buffer["owns_data"] == true)
            .map(live_buffer)
            .collect();
        live.sort();
        live
    }

    /// The live non-owning buffers, sorted.
    #[track_caller]
    pub fn non_owning(self) -> Vec<Live> {
        let mut live: Vec<Live> = list(&self.0["non_owning"], "buffers")
            .iter()
            .inspect(|buffer| assert_eq!(buffer["owns_data"], false, "{buffer}"))
            .map(live_buffer)
            .collect();
        live.sort();
        live
    }

    /// The whole entry of the live owning buffer at that address.
    #[track_caller]
    pub fn owning_at(self, address: u64) -> &'a Value {
        list(self.0, "live_buffers")
            .iter()
            .find(|buffer| unsigned(buffer, "address") == address)
            .unwrap_or_else(|| panic!("nothing at {address} in {:#}", self.0["live_buffers"]))
    }

    /// A figure of a device's memory, such as `live_bytes` of `DRAM`; 0 if the device has none.
    #[track_caller]
    pub fn memory(self, kind: &str, device: u64, buffer_type: &str, figure: &str) -> u64 {
        let device = list(self.0, "devices")
            .iter()
            .find(|entry| entry["kind"] == kind && unsigned(entry, "id") == device);
        device.map_or(0, |device| unsigned(&device["memory"][buffer_type], figure))
    }

    /// The ids of the chips that a mesh consists of.
    #[track_caller]
    pub fn members(self, mesh: u64) -> Vec<u64> {
        let device = list(self.0, "devices")
            .iter()
            .find(|entry| entry["kind"] == "mesh" && unsigned(entry, "id") == mesh)
            .unwrap_or_else(|| panic!("no mesh {mesh} in {:#}", self.0["devices"]));
        list(device, "members")
            .iter()
            .map(|id| id.as_u64().expect("an id"))
            .collect()
    }

    /// Panics unless all that the process held before it was traced could be read.
    #[track_caller]
    pub fn expect_whole_baseline(self) -> Self {
        let baseline = &self.0["baseline"];
        assert_eq!(baseline["problems"], serde_json::json!([]), "{baseline}");
        assert_eq!(baseline["unknown_bytes"], 0, "{baseline}");
        self
    }

    /// Panics unless the books balance: on every device, what lives is what was allocated and not
    /// freed, and the listed owning buffers are what the figures say. Only for a process that was
    /// traced from its start.
    #[track_caller]
    pub fn expect_balanced(self) -> Self {
        let owning = self.owning();
        for device in list(self.0, "devices") {
            let (kind, id) = (text(device, "kind"), unsigned(device, "id"));
            let memory = device["memory"].as_object().expect("an object");
            for (buffer_type, usage) in memory {
                let figure = |name: &str| unsigned(usage, name);
                let context = format!("{kind} {id} {buffer_type}: {usage}");
                let bytes = figure("allocated_bytes") - figure("freed_bytes");
                assert_eq!(figure("live_bytes"), bytes, "{context}");
                let buffers = figure("allocations") - figure("deallocations");
                assert_eq!(figure("live_buffers"), buffers, "{context}");
                assert!(figure("peak_bytes") >= figure("live_bytes"), "{context}");
                assert!(
                    figure("peak_bytes") <= figure("allocated_bytes"),
                    "{context}"
                );

                // A mesh's buffers lie on each of its members.
                let lies_here = |(on_kind, on, of_type, _, _): &&Live| {
                    let here = on_kind == kind && *on == id;
                    let by_mesh =
                        kind == "chip" && on_kind == "mesh" && self.members(*on).contains(&id);
                    of_type == buffer_type && (here || by_mesh)
                };
                let listed: u64 = owning.iter().filter(lies_here).map(|buffer| buffer.4).sum();
                assert_eq!(figure("live_bytes"), listed, "{context}: {owning:?}");
            }
        }
        self
    }
}

/// An unsigned number of a JSON object.
#[track_caller]
pub fn unsigned(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no number `{name}` in {value}"))
}

/// A string of a JSON object.
#[track_caller]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no string `{name}` in {value}"))
}

/// The events of that name.
pub fn events_named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["event"] == name)
        .collect()
}

/// The unique ids of buffers, as far as events tell of their birth. TT-Metal counts them from 0, in
/// the constructor: each buffer takes the next one, also the ones that then fail or are hooked.
#[derive(Debug)]
pub struct UniqueIds {
    /// Sorted.
    known: Vec<u64>,
    /// Births that tell no id: an allocation that failed.
    unknown: usize,
}

/// The unique ids that the events tell of.
#[track_caller]
pub fn unique_ids(events: &[Value]) -> UniqueIds {
    let births: Vec<&Value> = ["allocate", "create", "failed", "hooked"]
        .iter()
        .flat_map(|name| events_named(events, name))
        .collect();
    let mut known: Vec<u64> = births
        .iter()
        .filter_map(|birth| birth["unique_id"].as_u64())
        .collect();
    known.sort_unstable();
    let unknown = births.len() - known.len();
    UniqueIds { known, unknown }
}

impl UniqueIds {
    /// The last id.
    pub fn last(&self) -> Option<u64> {
        self.known.last().copied()
    }

    /// The first id from `start` on that no buffer has, up to the last one. There are as many as
    /// there were births without an id, or a birth was missed.
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
        assert_eq!(unknown, 0, "fewer gaps than births without an id: {self:?}");
        None
    }
}

#[track_caller]
fn live_buffer(buffer: &Value) -> Live {
    (
        text(buffer, "device_kind").to_owned(),
        unsigned(buffer, "device_id"),
        text(buffer, "buffer_type").to_owned(),
        unsigned(buffer, "address"),
        unsigned(buffer, "size"),
    )
}

/// A list of a JSON object.
#[track_caller]
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{name}` in {value}"))
}

fn schema() -> &'static Validator {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = workspace().join("schemas/summary-v1.schema.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let schema = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        jsonschema::validator_for(&schema)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}
