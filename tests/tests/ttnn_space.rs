//! What lies where in the banks of a device: byte for byte what the real ttnn's `get_memory_view` says of
//! each bank, with tensors of every layout, holes between them, and when an allocation fails.

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Finished, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir, events_named,
    for_each_release, text, unsigned, wait_for,
};

for_each_release!(
    banks_are_as_get_memory_view_says,
    banks_of_a_mesh_are_those_of_each_member if has_meshes,
    what_was_there_before_lies_where_the_allocator_says,
    a_failed_allocation_tells_what_was_free_then,
    a_closed_device_shows_what_lay_there_until_then,
);

/// The next line that the workload says.
#[track_caller]
fn said(process: &mut Process) -> Value {
    serde_json::from_str(&process.line()).expect("JSON")
}

/// A traced run of `space.py`, stopped at its first step. What the tracer can learn of its banks only
/// while it lives, it has learnt.
fn run(release: Release, cluster: &Cluster, dir: &WorkDir, words: &[&str]) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("space.py");
    let mut tracer = Tracer::run(dir).traced(workload.args(words)).start();
    let first = said(&mut tracer);
    wait_for("the first buffers", || {
        !events_named(&dir.events_so_far(), "allocate").is_empty()
    });
    (tracer, first)
}

/// Lets the workload take its other steps, and gives the last that it says, and its end.
fn to_its_end(mut process: Process, words: &[&str]) -> (Value, Finished) {
    process.send("on");
    let mut last = said(&mut process);
    let full = words.contains(&"full");
    for _ in 0..(if full { 3 } else { 0 }) {
        process.send("on");
        last = said(&mut process);
    }
    (last, process.finish())
}

/// The maps of a process by type, each of which is of one allocator.
#[track_caller]
fn map<'a>(process: ProcessSummary<'a>, buffer_type: &str) -> &'a Value {
    let maps = process.0["maps"].as_array().expect("maps").iter();
    let mut maps = maps.filter(|map| map["buffer_type"] == buffer_type);
    let (Some(map), None) = (maps.next(), maps.next()) else {
        panic!("not one map of {buffer_type}: {:#}", process.0["maps"]);
    };
    map
}

/// Panics unless the maps are what TT-Metal said of each bank.
#[track_caller]
fn expect_as_said(process: ProcessSummary<'_>, view: &Value) {
    for buffer_type in ["DRAM", "L1"] {
        let map = map(process, buffer_type);
        expect_room(map, &view[buffer_type]);
        expect_buffers(process, map);
    }
    // Of what nothing lies in there is no map.
    assert_eq!(view["TRACE"]["allocated"], 0);
    let maps = process.0["maps"].as_array().expect("maps");
    assert_eq!(maps.len(), 2, "{maps:#?}");
}

/// Panics unless a map has room as TT-Metal said.
#[track_caller]
fn expect_room(map: &Value, view: &Value) {
    let told = json!({
        "banks": map["banks"],
        "bytes": unsigned(map, "end") - unsigned(map, "start"),
        "allocated": map["allocated_per_bank"],
        "free": map["free_per_bank"],
        "largest_free": map["largest_free_per_bank"],
    });
    assert_eq!(told, *view, "{map:#}");
    let part = unsigned(view, "largest_free") as f64 / unsigned(view, "free") as f64;
    assert_eq!(map["fragmentation"], 1.0 - part);
    expect_tiled(map);
}

/// Panics unless the blocks of a map fill it without a gap, and are in sum what it says.
#[track_caller]
fn expect_tiled(map: &Value) {
    let mut at = unsigned(map, "start");
    let (mut allocated, mut free, mut largest) = (0, 0, 0);
    let mut before_is_free = false;
    for block in map["blocks"].as_array().expect("blocks") {
        assert_eq!(unsigned(block, "address"), at, "{block}");
        let bytes = unsigned(block, "bytes");
        assert!(bytes > 0, "{block}");
        at += bytes;
        let is_free = block["buffer"].is_null();
        assert!(!(is_free && before_is_free), "two free blocks in a row");
        before_is_free = is_free;
        if is_free {
            free += bytes;
            largest = largest.max(bytes);
        } else {
            allocated += bytes;
        }
    }
    assert_eq!(at, unsigned(map, "end"));
    let told = [
        "allocated_per_bank",
        "free_per_bank",
        "largest_free_per_bank",
    ];
    assert_eq!(
        told.map(|figure| unsigned(map, figure)),
        [allocated, free, largest]
    );
}

/// Panics unless the blocks in use are the live buffers, each of them.
#[track_caller]
fn expect_buffers(process: ProcessSummary<'_>, map: &Value) {
    if !map["freed_at_ns"].is_null() {
        return;
    }
    let tell = |size: &Value, rest: &Value, bytes: &Value| {
        let shared = ["address", "unique_id", "stack", "origin", "before_attach"];
        let mut told: Vec<Value> = shared.iter().map(|name| rest[name].clone()).collect();
        told.extend([size.clone(), bytes.clone()]);
        told
    };
    let live = process.0["live_buffers"].as_array().expect("buffers");
    let live: Vec<_> = live
        .iter()
        .filter(|buffer| buffer["buffer_type"] == map["buffer_type"])
        .map(|buffer| tell(&buffer["size"], buffer, &buffer["bytes_per_bank"]))
        .collect();
    let blocks = map["blocks"].as_array().expect("blocks").iter();
    let blocks: Vec<_> = blocks
        .filter(|block| !block["buffer"].is_null())
        .map(|block| {
            let mut buffer = block["buffer"].clone();
            buffer["address"] = block["address"].clone();
            tell(&buffer["size"], &buffer, &block["bytes"])
        })
        .collect();
    assert_eq!(blocks, live);
}

fn banks_are_as_get_memory_view_says(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (tracer, first) = run(release, &cluster, &dir, &[]);
    // Holes there are.
    for buffer_type in ["DRAM", "L1"] {
        let of = |figure| unsigned(&first["view"][buffer_type], figure);
        assert!(of("largest_free") < of("free"), "{first}");
    }
    let (last, done) = to_its_end(tracer, &[]);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.owning().len() as u64, unsigned(&last, "live"));
    expect_as_said(process, &last["view"]);
    assert!(map(process, "DRAM")["freed_at_ns"].is_null());
    let heading = "\n In each bank (";
    assert!(done.stderr.contains(heading), "{}", done.stderr);
}

fn banks_of_a_mesh_are_those_of_each_member(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (tracer, _) = run(release, &cluster, &dir, &["mesh"]);
    let (last, done) = to_its_end(tracer, &[]);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    expect_as_said(process, &last["view"]);
    assert_eq!(map(process, "L1")["device_kind"], "mesh");
}

fn what_was_there_before_lies_where_the_allocator_says(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("space.py");
    let mut target = Process::spawn(&mut workload);
    let first = said(&mut target);

    // As it is.
    let pid = target.pid();
    let look = Tracer::attach_to(&dir, pid).arguments(["--duration", "1s"]);
    look.start().finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    process.expect_whole_baseline();
    expect_as_said(process, &first["view"]);

    // As it goes on.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    let (last, _) = to_its_end(target, &[]);
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    expect_as_said(process, &last["view"]);
    let buffers = process.0["live_buffers"].as_array().expect("buffers");
    let before = |is| buffers.iter().any(|buffer| buffer["before_attach"] == is);
    assert!(before(true) && before(false), "{buffers:#?}");
}

/// A size as the terminal has it.
fn human(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    let (shift, unit) = unit.expect("a KiB or more");
    let hundredths = (bytes * 100 + (1 << (shift - 1))) >> shift;
    format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
}

fn a_failed_allocation_tells_what_was_free_then(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, _) = run(release, &cluster, &dir, &["full"]);
    tracer.send("on");
    said(&mut tracer);
    let mut views = Vec::new();
    for buffer_type in ["DRAM", "L1"] {
        tracer.send("on");
        let failed = said(&mut tracer);
        assert_eq!(failed["asked"], buffer_type);
        let view = failed["view"][buffer_type].clone();
        // The workload waits: it isn't over that it comes.
        let line = format!(
            "; each of {} banks had {} free, the largest block {}\n",
            view["banks"],
            human(unsigned(&view, "free")),
            human(unsigned(&view, "largest_free")),
        );
        wait_for(&line, || tracer.stderr().contains(&line));
        views.push(view);
    }
    tracer.send("on");
    let last = said(&mut tracer);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let failures = process.0["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 2);
    for (failure, view) in failures.iter().zip(&views) {
        let (banks, free, largest) = (
            unsigned(view, "banks"),
            unsigned(view, "free"),
            unsigned(view, "largest_free"),
        );
        let told = [
            "banks",
            "free_per_bank",
            "largest_free_per_bank",
            "free_bytes",
            "largest_free_bytes",
        ];
        assert_eq!(
            told.map(|figure| unsigned(failure, figure)),
            [banks, free, largest, banks * free, banks * largest],
            "{failure}"
        );
        assert!(largest < free, "no holes: {failure}");
        expect_room(&failure["map"], view);
    }
    // Since then, something was allocated.
    expect_as_said(process, &last["view"]);
    assert_ne!(last["view"]["DRAM"], views[0]);
}

fn a_closed_device_shows_what_lay_there_until_then(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (tracer, _) = run(release, &cluster, &dir, &["close"]);
    let (last, done) = to_its_end(tracer, &[]);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.owning().len(), 0);
    expect_as_said(process, &last["view"]);
    let freed = ["DRAM", "L1"].map(|buffer_type| map(process, buffer_type)["freed_at_ns"].as_u64());
    assert!(freed[0].is_some() && freed[0] == freed[1], "{freed:?}");
    let heading = "\n In each bank, when its device was closed (";
    assert!(done.stderr.contains(heading), "{}", done.stderr);
    let stacks = process.0["stacks"].as_array().expect("stacks");
    for block in map(process, "DRAM")["blocks"].as_array().expect("blocks") {
        let buffer = &block["buffer"];
        if !buffer.is_null() {
            assert_eq!(text(buffer, "origin"), "tensor");
            let known = stacks.iter().any(|stack| stack["id"] == buffer["stack"]);
            assert!(known, "{buffer}");
        }
    }
}
