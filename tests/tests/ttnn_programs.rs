//! What programs of the real ttnn take of L1, compared with TT-Metal's own figures: its graph capture of circular
//! buffers, the regions that its errors name, and its statistics in `/dev/shm`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Core, CoreRange, Device, DevicePrograms, Process, ProcessSummary, Program,
    ProgramMemory, Release, Tracer, Ttnn, WorkDir, events_named, for_each_release, list, parsed,
    pid, shm, unsigned,
};

for_each_release!(
    each_program_is_laid_out_as_tt_metal_reports if dispatches_fast,
    the_programs_dispatched_last_are_in_use if dispatches_fast,
    circular_buffers_in_tensors_are_counted_there if dispatches_fast,
    a_cleared_cache_takes_nothing if dispatches_fast,
    cached_programs_are_in_the_attach_snapshot if dispatches_fast,
    each_chip_of_a_mesh_has_the_same if dispatches_fast_to_meshes,
);

const OPERATIONS: [&str; 3] = ["matmul", "softmax", "binary_ng"];

/// Starts the workload under `tt-memtrace run`, and returns what it reports of its programs.
fn started(release: Release, cluster: &Cluster, dir: &WorkDir, mesh: &str) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("programs.py");
    let mut tracer = Tracer::run(dir).traced(workload.arg(mesh)).start();
    let report = parsed(&tracer.line());
    (tracer, report)
}

fn ask(process: &mut Process, word: &str) -> Value {
    process.send(word);
    let answer = parsed(&process.line());
    assert_eq!(answer["done"], word);
    answer
}

/// Has the workload kill itself.
fn end(mut tracer: Process) {
    tracer.send("end");
    tracer.finish().expect_code(128 + 9);
}

#[track_caller]
fn memory(process: &ProcessSummary) -> &ProgramMemory {
    process.program_memory.as_ref().expect("program memory")
}

/// The only program of an operation.
#[track_caller]
fn program<'a>(process: &'a ProcessSummary, operation: &str) -> &'a Program {
    let programs = &memory(process).programs;
    let mut of = programs
        .iter()
        .filter(|program| program.operation.as_deref() == Some(operation));
    let (Some(program), None) = (of.next(), of.next()) else {
        panic!("not exactly one program of {operation} in {programs:#?}");
    };
    program
}

#[track_caller]
fn programs_on(process: &ProcessSummary, device: Device) -> &DevicePrograms {
    let devices = &memory(process).devices;
    let found = devices.iter().find(|entry| entry.device == device);
    found.unwrap_or_else(|| panic!("no {device:?} in {devices:#?}"))
}

/// The mesh that the workload has opened.
#[track_caller]
fn programs_on_mesh<'a>(process: &'a ProcessSummary, report: &Value) -> &'a DevicePrograms {
    programs_on(process, Device::mesh(unsigned(report, "mesh")))
}

/// Core ranges in the format of the workload.
fn ranges(cores: &[CoreRange]) -> Value {
    let mut ranges: Vec<Value> = cores
        .iter()
        .map(|CoreRange { start, end }| json!([[start.x, start.y], [end.x, end.y]]))
        .collect();
    ranges.sort_by_key(Value::to_string);
    Value::Array(ranges)
}

/// The circular buffers of a program that lie in its own memory, in the format of the workload.
fn own_circular_buffers(program: &Program) -> Vec<Value> {
    let own = program
        .buffers()
        .iter()
        .filter(|buffer| buffer.kind == "circular_buffer" && buffer.backing == "program");
    own.map(|buffer| {
        let cores = ranges(&buffer.cores);
        json!({"address": buffer.address, "size": buffer.size, "cores": cores})
    })
    .collect()
}

fn each_program_is_laid_out_as_tt_metal_reports(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (tracer, report) = started(release, &cluster, &dir, "1x1");
    let pid = pid(&report, "pid");
    let statistics = release
        .has_statistics()
        .then(|| shm::of_process(&cluster.statistics(0), pid));
    end(tracer);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(memory(process).incomplete, 0);
    assert_eq!(memory(process).unknown_dispatches, 0);
    for operation in OPERATIONS {
        let program = program(process, operation);
        assert!(program.complete);
        // A release implements an operation with circular buffers, or with dataflow buffers, which it doesn't report.
        let reported = list(&report["reported"], operation);
        assert_eq!(own_circular_buffers(program), *reported, "{operation}");
        let buffers = program.buffers();
        let kinds: BTreeSet<&str> = buffers.iter().map(|buffer| buffer.kind.as_str()).collect();
        let expected = if reported.is_empty() {
            "dataflow_buffer"
        } else {
            "circular_buffer"
        };
        assert_eq!(kinds, BTreeSet::from([expected]), "{operation}");

        // The program's own buffers fill its region without a gap: their sizes sum up to what it takes of each core,
        // and TT-Metal's error names the region's end.
        let [region] = &program.regions[..] else {
            panic!("{operation} has not exactly one range of cores: {program:#?}");
        };
        let [bytes] = region.ranges[..] else {
            panic!("{operation} has not exactly one region: {region:#?}");
        };
        let own: u64 = buffers
            .iter()
            .filter(|buffer| buffer.backing == "program")
            .inspect(|buffer| assert_eq!(ranges(&buffer.cores), ranges(&[region.cores])))
            .map(|buffer| buffer.size)
            .sum();
        let length = bytes.end - bytes.begin;
        assert_eq!(own, length, "{operation}: {program:#?}");
        assert_eq!(program.bytes, length * program.cores);
        if let Some(clash) = report["clashes"].get(operation) {
            let named = json!({"program": program.id, "end": bytes.end});
            assert_eq!(*clash, named, "{operation}");
        }
        // Dispatched when it was laid out, from the cache, and once more at the end; not when there was no room.
        assert_eq!(program.dispatches, 3, "{operation}");
    }
    let mesh = programs_on_mesh(process, &report);
    assert_eq!(mesh.laid_out_programs, 3);
    // TT-Metal's statistics count circular buffers alone.
    if let Some(statistics) = statistics {
        assert_eq!(
            statistics.circular_buffers,
            mesh.laid_out_circular_buffer_bytes
        );
    }
}

fn the_programs_dispatched_last_are_in_use(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, report) = started(release, &cluster, &dir, "1x1");
    ask(&mut tracer, "again");
    end(tracer);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    // `add` was dispatched last, and uses all cores that the others use.
    let last = program(process, "binary_ng");
    assert_eq!(last.dispatches, 4);
    let on_each: u64 = list(&report["reported"], "binary_ng")
        .iter()
        .map(|buffer| unsigned(buffer, "size"))
        .sum();
    let mesh = programs_on_mesh(process, &report);
    let cores = &mesh.cores;
    assert_eq!(cores.len(), 64);
    for core in cores {
        assert_eq!(core.program, Some(last.number), "{core:?}");
        assert_eq!(core.live_bytes, on_each, "{core:?}");
    }
    assert_eq!(mesh.live_bytes, on_each * 64);

    // A core's peak is what the largest operation on that core takes there.
    let takes = |core: &Core, operation: &str| {
        let program = program(process, operation);
        let CoreRange { start, end } = program.regions[0].cores;
        let within = (start.x..=end.x).contains(&core.x) && (start.y..=end.y).contains(&core.y);
        if within {
            program.bytes / program.cores
        } else {
            0
        }
    };
    for core in cores {
        let largest = OPERATIONS.map(|operation| takes(core, operation));
        assert_eq!(Some(core.peak_bytes), largest.into_iter().max(), "{core:?}");
    }
    // A program replaces only what lies on its own cores. The workload dispatches each operation twice, then all of
    // them once, and once more.
    let twice = OPERATIONS.into_iter().flat_map(|operation| [operation; 2]);
    let mut in_use: Vec<u64> = vec![0; cores.len()];
    let mut peak = 0;
    for operation in twice.chain(OPERATIONS).chain(OPERATIONS) {
        for (core, bytes) in cores.iter().zip(&mut in_use) {
            match takes(core, operation) {
                0 => {}
                taken => *bytes = taken,
            }
        }
        peak = peak.max(in_use.iter().sum());
    }
    assert_eq!(mesh.peak_bytes, peak);
}

fn circular_buffers_in_tensors_are_counted_there(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, report) = started(release, &cluster, &dir, "1x1");
    let answer = ask(&mut tracer, "sharded");
    end(tracer);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let relu = program(process, "unary");
    assert_eq!(relu.bytes, 0);
    let buffers = relu.buffers();
    assert_eq!(buffers.len(), 2);
    for buffer in buffers {
        assert_eq!(buffer.backing, "buffer", "{buffer:?}");
        // The tensor is spread over 16 cores.
        assert_eq!(buffer.size, 512 * 512 * 2 / 16, "{buffer:?}");
    }
    // A dataflow buffer gets its address only when it is dispatched.
    if buffers[0].kind == "circular_buffer" {
        assert_eq!(buffers[0].address, answer["address"].as_u64());
    }
    // The programs dispatched before are still on the cores.
    let mesh = programs_on_mesh(process, &report);
    assert_eq!(mesh.live_bytes, program(process, "binary_ng").bytes);
}

fn a_cleared_cache_takes_nothing(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, report) = started(release, &cluster, &dir, "1x1");
    ask(&mut tracer, "clear");
    end(tracer);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    // Each event has one line; an event that changes nothing has none.
    let events = dir.events();
    let programs_of = |name: &str| -> BTreeSet<u64> {
        let events = events_named(&events, name);
        events
            .iter()
            .map(|event| unsigned(event, "program"))
            .collect()
    };
    let memory = memory(process);
    let laid_out: BTreeSet<u64> = (1..=memory.laid_out).collect();
    assert_eq!(programs_of("program_laid_out"), laid_out);
    assert_eq!(programs_of("program_ended"), laid_out);
    let dispatches = events_named(&events, "program_dispatched").len() as u64;
    assert_eq!(dispatches, memory.dispatches);
    assert!(memory.programs.is_empty(), "{:#?}", memory.programs);
    assert_eq!(memory.ended, memory.laid_out);
    let mesh = programs_on_mesh(process, &report);
    assert_eq!(mesh.live_bytes, 0);
    assert_eq!(mesh.laid_out_bytes, 0);
    assert!(mesh.peak_bytes > 0, "{mesh:?}");
    for core in &mesh.cores {
        assert_eq!(core.program, None, "{core:?}");
        assert_eq!(core.live_bytes, 0, "{core:?}");
    }
}

fn cached_programs_are_in_the_attach_snapshot(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("programs.py");
    let mut target = Process::spawn(workload.arg("1x1"));
    let report = parsed(&target.line());
    let pid = target.pid();
    // The target dispatches while the tracer reads the snapshot.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {
        ask(&mut target, "again");
    });
    ask(&mut target, "again");
    target.send("end");
    target.wait();
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let memory = memory(process);
    assert_eq!(memory.unknown_dispatches, 0);
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for program in &memory.programs {
        assert!(program.dispatches >= 1, "{program:#?}");
        let device = program.device_id;
        assert_eq!(device, Some(unsigned(&report, "mesh")), "{program:#?}");
        ends.push((program.id, program.regions[0].ranges[0].end));
    }
    ends.sort_unstable();
    let clash = |operation: &str| {
        let clash = &report["clashes"][operation];
        (unsigned(clash, "program"), unsigned(clash, "end"))
    };
    assert_eq!(ends.len(), 3);
    assert_eq!(ends[1..], [clash("softmax"), clash("binary_ng")]);
    assert_eq!(programs_on_mesh(process, &report).cores.len(), 64);
}

fn each_chip_of_a_mesh_has_the_same(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (tracer, report) = started(release, &cluster, &dir, "1x2");
    assert_eq!(report["chips"], json!([0, 1]));
    let pid = pid(&report, "pid");
    let statistics = release
        .has_statistics()
        .then(|| [0, 1].map(|chip| shm::of_process(&cluster.statistics(chip), pid)));
    end(tracer);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let mesh = programs_on_mesh(process, &report);
    for chip in [0, 1] {
        let chip = programs_on(process, Device::chip(chip));
        assert_eq!(chip.live_bytes, mesh.live_bytes);
        assert_eq!(chip.peak_bytes, mesh.peak_bytes);
        assert_eq!(chip.peak_at_ns, mesh.peak_at_ns);
        assert_eq!(chip.cores, mesh.cores);
    }
    for statistics in statistics.into_iter().flatten() {
        assert_eq!(
            statistics.circular_buffers,
            mesh.laid_out_circular_buffer_bytes
        );
    }
    // 0.66.0 makes two programs of a matmul, one for each chip, and lays them out in threads of their own.
    for operation in OPERATIONS {
        let reported = list(&report["reported"], operation);
        let mut programs = memory(process).programs.iter();
        assert!(
            programs.any(|program| own_circular_buffers(program) == *reported),
            "{operation}"
        );
    }
}
