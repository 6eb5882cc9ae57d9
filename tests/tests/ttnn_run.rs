//! `tt-memtrace run` on the real ttnn: no buffer is missed from the first one on, and the live buffers at the end are
//! those that TT-Metal lists.

use serde_json::{Map, Value};
use tt_memtrace_tests::{
    Attached, Cluster, Device, Exit, Process, ProcessSummary, Release, Summary, Tracer, Ttnn,
    WorkDir, events_named, for_each_release, list, parsed, pid, text, unique_ids, unsigned,
};

for_each_release!(
    live_buffers_at_a_kill_are_those_that_tt_metal_lists,
    a_closed_device_leaves_nothing_live,
    every_kind_of_tensor_has_its_size_and_layout,
    blackhole_is_traced_as_well,
    out_of_memory_passes_through,
    children_have_totals_of_their_own,
);

/// Bytes of a tensor of the workload of the README: 512 x 512 of bfloat16.
const TENSOR: u64 = 512 * 512 * 2;

/// TT-Metal's list as (type, address), and the device that all of it is on.
fn listed(live: &Value) -> (Vec<(String, u64)>, u64) {
    let list = live.as_array().expect("a list");
    let mut buffers: Vec<(String, u64)> = list
        .iter()
        .map(|buffer| {
            let buffer_type = text(buffer, "buffer_type").to_owned();
            (buffer_type, unsigned(buffer, "address"))
        })
        .collect();
    buffers.sort();
    let device = unsigned(&list[0], "device_id");
    assert!(list.iter().all(|b| unsigned(b, "device_id") == device));
    (buffers, device)
}

/// The traced owning buffers are exactly those of TT-Metal's list.
#[track_caller]
fn expect_listed(process: &ProcessSummary, live: &Value) {
    let (expected, device) = listed(live);
    let traced: Vec<(String, u64)> = process
        .owning()
        .into_iter()
        .map(|buffer| {
            assert_eq!(buffer.device, Device::mesh(device));
            (buffer.buffer_type, buffer.address)
        })
        .collect();
    assert_eq!(traced, expected);
}

/// No buffer was missed: the unique ids have no gap from the first one on.
#[track_caller]
fn expect_no_gap(dir: &WorkDir) {
    assert_eq!(unique_ids(&dir.events()).first_gap_since(0), None);
}

/// A finished trace of the workload of the README.
struct Demo {
    dir: WorkDir,
    summary: Summary,
    /// TT-Metal's list of live buffers at the end of the workload, before it closes its device.
    live: Value,
}

impl Demo {
    /// Traces the workload to its end, or to a kill instead of closing its device.
    fn new(release: Release, cluster: fn(&WorkDir) -> Cluster, killed: bool) -> Self {
        let dir = WorkDir::new();
        let cluster = cluster(&dir);
        let mut workload = Ttnn::new(release, &cluster, &dir).demo();
        if killed {
            workload.arg("--kill");
        }
        let done = Tracer::run(&dir).traced(&workload).start().finish();
        done.expect_code(if killed { 128 + 9 } else { 0 });
        let live = serde_json::from_slice(&done.stdout).expect("the workload's list alone");
        let summary = dir.summary();
        expect_no_gap(&dir);
        Self { dir, summary, live }
    }

    #[track_caller]
    fn process(&self) -> &ProcessSummary {
        let process = self.summary.expect_complete().only_process();
        process.expect_balanced()
    }

    /// The live buffers are TT-Metal's, and each is one of the workload's tensors.
    #[track_caller]
    fn expect_tensors(&self) {
        let process = self.process();
        expect_listed(process, &self.live);
        let sizes = process.owning().into_iter().map(|buffer| buffer.size);
        assert!(sizes.into_iter().all(|size| size == TENSOR));
    }
}

fn live_buffers_at_a_kill_are_those_that_tt_metal_lists(release: Release) {
    let demo = Demo::new(release, Cluster::n150, true);
    demo.expect_tensors();
    let process = demo.process();
    // Three tensors are in DRAM and one in L1.
    let mesh = listed(&demo.live).1;
    for (device, buffer_type, tensors) in [
        (Device::mesh(mesh), "DRAM", 3),
        (Device::chip(0), "DRAM", 3),
        (Device::chip(0), "L1", 1),
    ] {
        let usage = process.memory(device, buffer_type);
        assert_eq!(
            usage.live_bytes,
            tensors * TENSOR,
            "{device:?} {buffer_type}"
        );
    }
    assert_eq!(process.members(mesh), [0]);
    assert_eq!(process.attached, Attached::Start);
    assert_eq!(process.exit, Some(Exit::Signal(9)));
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.failed_allocations, 0);
}

fn a_closed_device_leaves_nothing_live(release: Release) {
    let demo = Demo::new(release, Cluster::n150, false);
    let process = demo.process();
    assert_eq!(process.owning(), []);
    let usage = process.memory(Device::chip(0), "DRAM");
    assert_eq!(usage.live_bytes, 0);
    assert!(usage.peak_bytes >= 4 * TENSOR);
    // Closing the device freed at once what TT-Metal listed last.
    assert!(process.bulk_frees > 0);
    let events = demo.dir.events();
    let freed: u64 = events_named(&events, "bulk_free")
        .iter()
        .map(|event| unsigned(event, "freed_buffers"))
        .sum();
    assert_eq!(freed, listed(&demo.live).0.len() as u64);
    assert_eq!(process.exit, Some(Exit::Code(0)));
}

/// Size and page size of an interleaved or sharded tensor, calculated from its shape.
fn bytes_of(tensor: &Value) -> (u64, u64) {
    let shape: Vec<u64> = list(tensor, "padded_shape")
        .iter()
        .map(|side| side.as_u64().expect("a side"))
        .collect();
    let elements: u64 = shape.iter().product();
    if text(tensor, "layout") == "ROW_MAJOR" {
        // A page is a row. The only such tensor is of bfloat16.
        return (elements * 2, shape[shape.len() - 1] * 2);
    }
    // A page is a tile of 32 x 32. In the block formats 16 values share one exponent byte.
    let tile = match text(tensor, "dtype") {
        "BFLOAT16" | "UINT16" => 32 * 32 * 2,
        "FLOAT32" | "UINT32" => 32 * 32 * 4,
        "BFLOAT8_B" => 32 * 32 + 64,
        "BFLOAT4_B" => 32 * 32 / 2 + 64,
        other => panic!("no tensor of the workload is {other}"),
    };
    (elements / (32 * 32) * tile, tile)
}

fn every_kind_of_tensor_has_its_size_and_layout(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = Ttnn::new(release, &cluster, &dir).workload("tensors.py");
    let done = Tracer::run(&dir).traced(&workload).start().finish();
    done.expect_code(128 + 9);

    let answer = parsed(&done.text());
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    expect_listed(process, &answer["live"]);

    let tensors: &Map<String, Value> = answer["tensors"].as_object().expect("tensors by name");
    assert_eq!(tensors.len(), 12);
    for (name, tensor) in tensors {
        let buffer = process.owning_at(unsigned(tensor, "address"));
        let (size, page_size) = bytes_of(tensor);
        assert_eq!(buffer.size, size, "{name}: {buffer:?}");
        assert_eq!(buffer.page_size, page_size, "{name}: {buffer:?}");
        assert_eq!(tensor["buffer_type"], *buffer.buffer_type, "{name}");
        assert_eq!(tensor["memory_layout"], *buffer.layout, "{name}");
        assert!(!buffer.before_attach, "{name}");
    }
    // A semaphore takes a word of 4 bytes on each of its cores.
    let semaphore = &answer["semaphore"];
    if let Some(error) = semaphore["error"].as_str() {
        // With slow dispatch, 0.63.0 mistakes the mesh's id for a chip's, and creates no semaphore.
        assert!(error.contains("not found in cluster"), "{error}");
    } else {
        let buffer = process.owning_at(unsigned(semaphore, "address"));
        assert_eq!(buffer.size, 4 * unsigned(semaphore, "cores"));
        assert_eq!(buffer.buffer_type, "L1");
    }

    // The pages of an interleaved buffer are spread over the banks, so size and page size give what the fullest bank
    // holds, which TT-Metal lists.
    for listed in list(&answer, "live") {
        let buffer = process.owning_at(unsigned(listed, "address"));
        if buffer.layout == "INTERLEAVED" {
            let banks = unsigned(&answer["banks"], text(listed, "buffer_type"));
            let pages = buffer.size / buffer.page_size;
            let fullest = pages.div_ceil(banks) * buffer.page_size;
            assert_eq!(fullest, unsigned(listed, "bytes_per_bank"), "{buffer:?}");
        }
    }
    expect_no_gap(&dir);
}

fn blackhole_is_traced_as_well(release: Release) {
    Demo::new(release, Cluster::p150, true).expect_tensors();
}

/// TT-Metal's allocator throws, and Python catches: a tracer that breaks unwinding would end the process.
fn out_of_memory_passes_through(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("out_of_memory.py");
    let alone = Process::spawn(&mut workload).finish();
    alone.expect_code(0);
    let errors = alone.text().matches("Out of Memory").count() as u64;
    assert_eq!(errors, 3);

    let traced = Tracer::run(&dir).traced(&workload).start().finish();
    traced.expect_code(0);
    assert_eq!(traced.text(), alone.text());

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.failed_allocations, errors);
    let events = dir.events();
    let failed = events_named(&events, "failed");
    assert_eq!(failed.len() as u64, errors);
    let asked = 64 * 16384 * 16384 * 2;
    assert!(failed.iter().all(|event| unsigned(event, "size") == asked));
    // The failed allocations are in no total.
    let peak = process.memory(Device::chip(0), "DRAM").peak_bytes;
    assert_eq!(peak, (512 * 512 + 256 * 512) * 2);

    let last = alone.text();
    let last = parsed(last.lines().last().expect("lines"));
    expect_listed(process, &last["live"]);
    expect_no_gap(&dir);
}

/// A child of `multiprocessing`, a child program, and their parent, which forks while it holds tensors: each has the
/// buffers that it lists, and nothing counts twice.
fn children_have_totals_of_their_own(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = Ttnn::new(release, &cluster, &dir).workload("children.py");
    let done = Tracer::run(&dir).traced(&workload).start().finish();
    done.expect_code(0);
    let text = done.text();
    let answers: Vec<Value> = text.lines().map(parsed).collect();
    let [spawned, program, parent] = &answers[..] else {
        panic!("not three processes: {text}");
    };
    let summary = dir.summary();
    for (process, tensors) in [(spawned, 2), (program, 2), (parent, 3)] {
        let pid = pid(process, "pid");
        let traced = summary.expect_complete().process(pid).expect_balanced();
        expect_listed(traced, &process["live"]);
        assert_eq!(traced.owning().len(), tensors);
        assert_eq!(traced.attached, Attached::Start);
        assert_eq!(traced.library().release.as_deref(), Some(release.version()));
        assert_eq!(traced.unmatched_deallocations, 0);
    }
    let processes = summary.processes.iter();
    let with_memory = processes.filter(|process| !process.owning().is_empty());
    assert_eq!(with_memory.count(), 3);
}
