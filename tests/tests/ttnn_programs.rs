//! What programs of the real ttnn take of L1, against what TT-Metal says itself: its graph capture of
//! circular buffers, the regions that its errors name, its statistics in `/dev/shm`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir, events_named,
    for_each_release, list, shm, text, unsigned,
};

for_each_release!(
    each_program_is_laid_out_as_tt_metal_says if dispatches_fast,
    what_was_dispatched_last_lies_there if dispatches_fast,
    buffers_in_buffers_are_counted_there if dispatches_fast,
    a_cleared_cache_takes_nothing if dispatches_fast,
    cached_programs_are_known_when_attached_to if dispatches_fast,
    each_chip_of_a_mesh_has_the_same if dispatches_fast_to_meshes,
);

const OPERATIONS: [&str; 3] = ["matmul", "softmax", "binary_ng"];

/// Starts the workload under `tt-memtrace run`, and gives what it says of its programs.
fn started(release: Release, cluster: &Cluster, dir: &WorkDir, mesh: &str) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("programs.py");
    let mut tracer = Tracer::run(dir).traced(workload.arg(mesh)).start();
    let said = serde_json::from_str(&tracer.line()).expect("JSON");
    (tracer, said)
}

fn ask(process: &mut Process, word: &str) -> Value {
    process.send(word);
    let answer: Value = serde_json::from_str(&process.line()).expect("JSON");
    assert_eq!(answer["done"], word);
    answer
}

fn memory(process: ProcessSummary<'_>) -> &Value {
    &process.0["program_memory"]
}

/// The one program of an operation.
#[track_caller]
fn program<'a>(process: ProcessSummary<'a>, operation: &str) -> &'a Value {
    let programs = list(&process.0["program_memory"], "programs");
    let mut of = programs
        .iter()
        .filter(|program| program["operation"] == operation);
    let (Some(program), None) = (of.next(), of.next()) else {
        panic!("not one program of {operation} in {programs:#?}");
    };
    program
}

#[track_caller]
fn device<'a>(process: ProcessSummary<'a>, kind: &str, id: u64) -> &'a Value {
    let devices = list(&process.0["program_memory"], "devices");
    let found = devices
        .iter()
        .find(|device| device["device_kind"] == kind && device["device_id"] == id);
    found.unwrap_or_else(|| panic!("no {kind} {id} in {devices:#?}"))
}

/// Core ranges as the workload tells them.
fn ranges(cores: &Value) -> Value {
    let corner = |core: &Value| json!([core["x"], core["y"]]);
    let mut ranges: Vec<Value> = cores
        .as_array()
        .expect("a list")
        .iter()
        .map(|range| json!([corner(&range["start"]), corner(&range["end"])]))
        .collect();
    ranges.sort_by_key(Value::to_string);
    Value::Array(ranges)
}

/// Those circular buffers of a program that lie in its own memory, as the workload tells of them.
fn own_circular_buffers(program: &Value) -> Vec<Value> {
    let buffers = list(program, "buffers").iter();
    let own = buffers
        .filter(|buffer| buffer["kind"] == "circular_buffer" && buffer["backing"] == "program");
    own.map(|buffer| {
        let (address, size) = (&buffer["address"], &buffer["size"]);
        json!({"address": address, "size": size, "cores": ranges(&buffer["cores"])})
    })
    .collect()
}

fn each_program_is_laid_out_as_tt_metal_says(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, said) = started(release, &cluster, &dir, "1x1");
    let pid = u32::try_from(unsigned(&said, "pid")).expect("a pid is a u32");
    let statistics = release
        .has_statistics()
        .then(|| shm::of_process(&cluster.statistics(0), pid));
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(memory(process)["incomplete"], 0);
    assert_eq!(memory(process)["unknown_dispatches"], 0);
    for operation in OPERATIONS {
        let program = program(process, operation);
        assert_eq!(program["complete"], true);
        // A release has circular buffers or dataflow buffers for it, which it doesn't report.
        let reported = list(&said["reported"], operation);
        assert_eq!(own_circular_buffers(program), *reported, "{operation}");
        let kinds: BTreeSet<&str> = list(program, "buffers")
            .iter()
            .map(|buffer| text(buffer, "kind"))
            .collect();
        let expected = if reported.is_empty() {
            "dataflow_buffer"
        } else {
            "circular_buffer"
        };
        assert_eq!(kinds, BTreeSet::from([expected]), "{operation}");

        // Its own buffers lie in its regions, one behind the other from the first byte to the last: what
        // it takes of each core is their sum, and the error names its end.
        let regions = list(program, "regions");
        let [region] = regions else {
            panic!("{operation} has not one range of cores: {regions:#?}");
        };
        let [bytes] = list(region, "ranges") else {
            panic!("{operation} has not one region: {region:#}");
        };
        let own: u64 = list(program, "buffers")
            .iter()
            .filter(|buffer| buffer["backing"] == "program")
            .inspect(|buffer| {
                assert_eq!(ranges(&buffer["cores"]), ranges(&json!([region["cores"]])))
            })
            .map(|buffer| unsigned(buffer, "size"))
            .sum();
        let length = unsigned(bytes, "end") - unsigned(bytes, "begin");
        assert_eq!(own, length, "{operation}: {program:#}");
        assert_eq!(
            unsigned(program, "bytes"),
            length * unsigned(program, "cores")
        );
        if let Some(clash) = said["clashes"].get(operation) {
            let named = json!({"program": program["id"], "end": bytes["end"]});
            assert_eq!(*clash, named, "{operation}");
        }
        // As laid out, cached, not for want of room, and once more.
        assert_eq!(program["dispatches"], 3, "{operation}");
    }
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    assert_eq!(mesh["laid_out_programs"], 3);
    // TT-Metal counts circular buffers alone.
    if let Some(statistics) = statistics {
        assert_eq!(
            statistics.circular_buffers,
            unsigned(mesh, "laid_out_circular_buffer_bytes")
        );
    }
}

fn what_was_dispatched_last_lies_there(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, said) = started(release, &cluster, &dir, "1x1");
    ask(&mut tracer, "again");
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    // `add` was the last and is on all cores that the others are on.
    let last = program(process, "binary_ng");
    assert_eq!(last["dispatches"], 4);
    let on_each: u64 = list(&said["reported"], "binary_ng")
        .iter()
        .map(|buffer| unsigned(buffer, "size"))
        .sum();
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    let cores = list(mesh, "cores");
    assert_eq!(cores.len(), 64);
    for core in cores {
        assert_eq!(core["program"], last["number"], "{core}");
        assert_eq!(unsigned(core, "live_bytes"), on_each, "{core}");
    }
    assert_eq!(unsigned(mesh, "live_bytes"), on_each * 64);

    // The most on a core was that of the operation which takes most there.
    let takes = |core: &Value, operation: &str| {
        let program = program(process, operation);
        let region = &list(program, "regions")[0];
        let (start, end) = (&region["cores"]["start"], &region["cores"]["end"]);
        let within = |side: &str| {
            (unsigned(start, side)..=unsigned(end, side)).contains(&unsigned(core, side))
        };
        let taken = unsigned(program, "bytes") / unsigned(program, "cores");
        if within("x") && within("y") { taken } else { 0 }
    };
    for core in cores {
        let most = OPERATIONS.map(|operation| takes(core, operation));
        assert_eq!(
            Some(unsigned(core, "peak_bytes")),
            most.into_iter().max(),
            "{core}"
        );
    }
    // Each replaces what lay on its own cores only. Twice in the beginning, then once, then once more.
    let twice = OPERATIONS.into_iter().flat_map(|operation| [operation; 2]);
    let mut lies: Vec<u64> = vec![0; cores.len()];
    let mut peak = 0;
    for operation in twice.chain(OPERATIONS).chain(OPERATIONS) {
        for (core, lies) in cores.iter().zip(&mut lies) {
            match takes(core, operation) {
                0 => {}
                taken => *lies = taken,
            }
        }
        peak = peak.max(lies.iter().sum());
    }
    assert_eq!(unsigned(mesh, "peak_bytes"), peak);
}

fn buffers_in_buffers_are_counted_there(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, said) = started(release, &cluster, &dir, "1x1");
    let answer = ask(&mut tracer, "sharded");
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let relu = program(process, "unary");
    assert_eq!(relu["bytes"], 0);
    let buffers = list(relu, "buffers");
    assert_eq!(buffers.len(), 2);
    for buffer in buffers {
        assert_eq!(buffer["backing"], "buffer", "{buffer}");
        // Of each of 16 cores.
        assert_eq!(buffer["size"], 512 * 512 * 2 / 16, "{buffer}");
    }
    // A dataflow buffer learns its address only when it is dispatched.
    if buffers[0]["kind"] == "circular_buffer" {
        assert_eq!(buffers[0]["address"], answer["address"]);
    }
    // What lay on the cores before lies there still.
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    let last = program(process, "binary_ng");
    assert_eq!(mesh["live_bytes"], last["bytes"]);
}

fn a_cleared_cache_takes_nothing(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, said) = started(release, &cluster, &dir, "1x1");
    ask(&mut tracer, "clear");
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    // Each event has its line; what has changed nothing has none.
    let events = dir.events();
    let programs_of = |name: &str| -> BTreeSet<u64> {
        let events = events_named(&events, name);
        events
            .iter()
            .map(|event| unsigned(event, "program"))
            .collect()
    };
    let laid_out: BTreeSet<u64> = (1..=memory(process)["laid_out"].as_u64().unwrap_or(0)).collect();
    assert_eq!(programs_of("program_laid_out"), laid_out);
    assert_eq!(programs_of("program_ended"), laid_out);
    let dispatches = events_named(&events, "program_dispatched").len() as u64;
    assert_eq!(dispatches, unsigned(memory(process), "dispatches"));
    assert_eq!(memory(process)["programs"], json!([]));
    assert_eq!(memory(process)["ended"], memory(process)["laid_out"]);
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    assert_eq!(mesh["live_bytes"], 0);
    assert_eq!(mesh["laid_out_bytes"], 0);
    assert!(unsigned(mesh, "peak_bytes") > 0, "{mesh}");
    for core in list(mesh, "cores") {
        assert_eq!(core["program"], Value::Null, "{core}");
        assert_eq!(core["live_bytes"], 0, "{core}");
    }
}

fn cached_programs_are_known_when_attached_to(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("programs.py");
    let mut target = Process::spawn(workload.arg("1x1"));
    let said: Value = serde_json::from_str(&target.line()).expect("JSON");
    let pid = target.pid();
    // It goes on dispatching while the tracer reads what was there before.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {
        ask(&mut target, "again");
    });
    ask(&mut target, "again");
    target.send("end");
    target.wait();
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(memory(process)["unknown_dispatches"], 0);
    let programs = list(memory(process), "programs");
    let mut ends: Vec<(u64, u64)> = programs
        .iter()
        .map(|program| {
            assert!(unsigned(program, "dispatches") >= 1, "{program:#}");
            assert_eq!(program["device_id"], said["mesh"], "{program:#}");
            let range = &program["regions"][0]["ranges"][0];
            (unsigned(program, "id"), unsigned(range, "end"))
        })
        .collect();
    ends.sort_unstable();
    let clash = |operation: &str| {
        let clash = &said["clashes"][operation];
        (unsigned(clash, "program"), unsigned(clash, "end"))
    };
    assert_eq!(ends.len(), 3);
    assert_eq!(ends[1..], [clash("softmax"), clash("binary_ng")]);
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    assert_eq!(list(mesh, "cores").len(), 64);
}

fn each_chip_of_a_mesh_has_the_same(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (mut tracer, said) = started(release, &cluster, &dir, "1x2");
    assert_eq!(said["chips"], json!([0, 1]));
    let pid = u32::try_from(unsigned(&said, "pid")).expect("a pid is a u32");
    let statistics = release
        .has_statistics()
        .then(|| [0, 1].map(|chip| shm::of_process(&cluster.statistics(chip), pid)));
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let mesh = device(process, "mesh", unsigned(&said, "mesh"));
    for chip in [0, 1] {
        let chip = device(process, "chip", chip);
        for figure in ["live_bytes", "peak_bytes", "peak_at_ns", "cores"] {
            assert_eq!(chip[figure], mesh[figure], "{figure}");
        }
    }
    for statistics in statistics.into_iter().flatten() {
        let laid_out = unsigned(mesh, "laid_out_circular_buffer_bytes");
        assert_eq!(statistics.circular_buffers, laid_out);
    }
    // 0.66.0 makes a matmul of two programs, each for one chip, laid out by threads of its own.
    let programs = list(memory(process), "programs");
    for operation in OPERATIONS {
        let reported = list(&said["reported"], operation);
        let is_as_reported = |program: &&Value| own_circular_buffers(program) == *reported;
        assert!(
            programs.iter().any(|program| is_as_reported(&program)),
            "{operation}"
        );
    }
}
