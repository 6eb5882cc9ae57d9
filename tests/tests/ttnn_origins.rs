//! What each buffer is for (`origin`), compared with what the workload that created the buffers reports.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Buffer, Cluster, Device, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir,
    for_each_release, list, parsed, text, unsigned,
};

for_each_release!(
    every_live_buffer_has_its_origin,
    program_binaries_have_their_origin,
    origins_on_a_mesh_of_two_chips if has_meshes,
    every_freed_buffer_has_its_origin,
    without_stacks_no_origin_is_guessed,
);

/// Type of memory and address.
type Address = (String, u64);

/// The address of a buffer that the workload reports.
#[track_caller]
fn address(value: &Value) -> Address {
    let buffer_type = text(value, "buffer_type").to_owned();
    (buffer_type, unsigned(value, "address"))
}

/// The address of a buffer of the summary.
fn traced_address(buffer: &Buffer) -> Address {
    (buffer.buffer_type.clone(), buffer.address)
}

/// A run of `origins.py`, until it kills itself.
struct Run {
    release: Release,
    summary: Summary,
    /// Its answers: all buffers that it created, and then, with `freed`, those that are still live.
    answers: Vec<Value>,
}

impl Run {
    fn new(release: Release, shape: &str, arguments: &[&str], options: &[&str]) -> Self {
        let dir = WorkDir::new();
        let cluster = match shape {
            "1x1" => Cluster::n150(&dir),
            _ => Cluster::n300(&dir),
        };
        let mut workload = Ttnn::new(release, &cluster, &dir).workload("origins.py");
        workload.arg(shape).args(arguments);
        let tracer = Tracer::run(&dir).arguments(options).traced(&workload);
        let done = tracer.start().finish();
        done.expect_code(128 + 9);
        let printed = done.text();
        Self {
            release,
            summary: dir.summary(),
            answers: printed.lines().map(parsed).collect(),
        }
    }

    #[track_caller]
    fn process(&self) -> &ProcessSummary {
        self.summary.expect_complete().only_process()
    }

    /// Whether a tensor in another tensor's memory has a buffer of its own. In older releases the two share one.
    fn has_views(&self) -> bool {
        self.release.version() != "0.66.0"
    }

    /// Addresses and origins of the owning buffers that the workload created.
    fn created(&self) -> BTreeMap<Address, &str> {
        let created: BTreeMap<Address, &str> = list(&self.answers[0], "owning")
            .iter()
            .map(|created| (address(created), text(created, "origin")))
            .collect();
        // It reports an origin for every buffer of TT-Metal's own list.
        let listed: BTreeSet<Address> = list(&self.answers[0], "live")
            .iter()
            .map(|listed| {
                let buffer_type = listed[0].as_str().expect("a type").to_owned();
                (buffer_type, listed[1].as_u64().expect("an address"))
            })
            .collect();
        assert_eq!(created.keys().cloned().collect::<BTreeSet<_>>(), listed);
        created
    }

    /// How many owning buffers the workload created on each line, by origin.
    fn created_on_lines(&self) -> BTreeMap<(u64, &str), u64> {
        let mut on_lines = BTreeMap::new();
        for created in list(&self.answers[0], "owning") {
            let key = (unsigned(created, "line"), text(created, "origin"));
            *on_lines.entry(key).or_default() += 1;
        }
        on_lines
    }

    /// The line of the workload that a stack begins with.
    #[track_caller]
    fn line(&self, stack: Option<u64>) -> u64 {
        self.process().stack(stack).outermost_line("/origins.py")
    }

    /// Each live buffer has the origin that the workload reports.
    #[track_caller]
    fn expect_origins(&self) {
        let created = self.created();
        let process = self.process();
        let owning = process.live_buffers.iter();
        let traced: BTreeMap<Address, &str> = owning
            .map(|buffer| (traced_address(buffer), buffer.origin.as_str()))
            .collect();
        assert_eq!(traced, created);
        self.expect_non_owning_origins();

        // The totals by origin are those of the list.
        let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for buffer in &process.live_buffers {
            let (buffers, bytes) = totals.entry(&buffer.origin).or_default();
            *buffers += 1;
            *bytes += buffer.size;
        }
        let traced = process.origins.iter();
        let traced: BTreeMap<&str, (u64, u64)> = traced
            .map(|total| {
                let figures = (total.live_buffers, total.live_bytes);
                (total.origin.as_str(), figures)
            })
            .collect();
        assert_eq!(traced, totals);
        assert!(!totals.contains_key("unknown"));
    }

    /// Each non-owning buffer is a member of a mesh's buffer, a view that the workload made, or a program's.
    #[track_caller]
    fn expect_non_owning_origins(&self) {
        let answer = &self.answers[0];
        // Origins and lines of the non-owning buffers, by device and address.
        let mut non_owning: BTreeMap<(Device, Address), Vec<(&str, u64)>> = BTreeMap::new();
        for buffer in &self.process().non_owning.buffers {
            non_owning
                .entry((buffer.device, traced_address(buffer)))
                .or_default()
                .push((&buffer.origin, self.line(buffer.stack)));
        }
        for owning in list(answer, "owning") {
            let (at, line) = (address(owning), unsigned(owning, "line"));
            for chip in list(answer, "chips") {
                let chip = Device::chip(chip.as_u64().expect("an id"));
                let mut here = non_owning.remove(&(chip, at.clone())).unwrap_or_default();
                // One is the chip's member of the mesh's own buffer, created on the same line.
                let member = here.iter().position(|it| *it == ("mesh_member", line));
                let member = member.unwrap_or_else(|| panic!("no member at {at:?}: {here:?}"));
                here.swap_remove(member);
                // All others are views: each that the workload made, and those that an operation makes of its own
                // result.
                let views = list(answer, "views").iter();
                let views: BTreeSet<u64> = views
                    .filter(|view| address(view) == at && self.has_views())
                    .map(|view| unsigned(view, "line"))
                    .collect();
                let lines = here.iter().map(|(_, line)| *line);
                let lines: BTreeSet<u64> = lines.filter(|of_view| *of_view != line).collect();
                assert_eq!(lines, views, "at {at:?}: {here:?}");
                assert!(
                    here.iter().all(|(origin, _)| *origin == "view"),
                    "at {at:?}: {here:?}"
                );
                if text(owning, "origin") != "tensor" {
                    assert_eq!(here, []);
                }
            }
            // A program has one more buffer, on the mesh.
            let mesh = Device::mesh(unsigned(answer, "mesh"));
            let on_mesh = non_owning.remove(&(mesh, at));
            let is_program = text(owning, "origin") == "program";
            let expected = is_program.then(|| vec![("program", line)]);
            assert_eq!(on_mesh, expected);
        }
        assert_eq!(non_owning, BTreeMap::new(), "where nothing was created");
    }
}

fn every_live_buffer_has_its_origin(release: Release) {
    let run = Run::new(release, "1x1", &["held"], &[]);
    run.expect_origins();
    let origins: BTreeSet<&str> = run.created().into_values().collect();
    assert_eq!(
        origins,
        BTreeSet::from(["tensor", "semaphore", "global_circular_buffer"])
    );
}

fn program_binaries_have_their_origin(release: Release) {
    let run = Run::new(release, "1x1", &["held", "binaries"], &[]);
    run.expect_origins();
    let programs = run.created().into_values().filter(|it| *it == "program");
    if [Release::V0_77_0, Release::V0_81_1].contains(&release) {
        assert!(programs.count() >= 4);
    } else {
        assert_eq!(run.answers[0]["gathers"], false);
    }
}

fn origins_on_a_mesh_of_two_chips(release: Release) {
    let run = Run::new(release, "1x2", &["held", "binaries"], &[]);
    assert_eq!(run.answers[0]["chips"], json!([0, 1]));
    run.expect_origins();
}

fn every_freed_buffer_has_its_origin(release: Release) {
    // With so many allocations in between, every freed buffer counts as temporary, and is listed by its stack.
    let options = ["--temporary", "1000000"];
    let run = Run::new(release, "1x1", &["freed", "binaries"], &options);
    assert_eq!(run.answers[1]["live"], json!([]));
    let process = run.process();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    assert!(process.origins.is_empty(), "{:?}", process.origins);
    let mut freed: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for placed in &process.temporary.groups {
        let group = &placed.group;
        let key = (run.line(group.stack), group.origin.as_str());
        *freed.entry(key).or_default() += group.buffers;
    }
    // The workload reports what it created itself. Tensors that operations allocated and freed come on top.
    for (key, created) in run.created_on_lines() {
        let freed = freed.entry(key).or_default();
        assert!(*freed >= created, "{key:?}: {freed} of {created}");
        *freed -= created;
        assert!(key.1 == "tensor" || *freed == 0, "{key:?}: {freed} more");
    }
    freed.retain(|(_, origin), count| *count > 0 && *origin != "tensor");
    assert_eq!(freed, BTreeMap::new());
}

fn without_stacks_no_origin_is_guessed(release: Release) {
    let run = Run::new(release, "1x1", &["held"], &["--stacks", "none"]);
    let process = run.process();
    for buffer in &process.live_buffers {
        assert_eq!(buffer.origin, "unknown", "{buffer:?}");
    }
    // A chip's member is known without a stack: it is the first non-owning buffer at the address of its mesh's buffer.
    let mut non_owning: BTreeMap<Address, Vec<(u64, &str)>> = BTreeMap::new();
    for buffer in &process.non_owning.buffers {
        let created = buffer.allocated_at_ns.expect("a time");
        let here = non_owning.entry(traced_address(buffer)).or_default();
        here.push((created, &buffer.origin));
    }
    for (at, mut here) in non_owning {
        here.sort_unstable();
        let mut origins = here.iter().map(|(_, origin)| *origin);
        assert_eq!(origins.next(), Some("mesh_member"), "{at:?}");
        assert!(
            origins.all(|origin| origin == "unknown"),
            "{at:?}: {here:?}"
        );
    }
}
