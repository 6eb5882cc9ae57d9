//! Bank maps (`maps`): byte for byte what the real ttnn's `get_memory_view` returns of each bank, with tensors of every
//! layout, with holes between them, and when an allocation fails.

use serde_json::Value;
use tt_memtrace_tests::{
    BankMap, Block, Cluster, DeviceKind, Finished, Process, ProcessSummary, Release, Tracer, Ttnn,
    WorkDir, events_named, for_each_release, human_size, parsed, unsigned, wait_for,
};

for_each_release!(
    bank_maps_agree_with_get_memory_view,
    bank_maps_of_a_mesh_are_those_of_each_member if has_meshes,
    bank_maps_after_attaching_agree_with_get_memory_view,
    a_failed_allocation_has_the_bank_map_of_that_moment,
    a_closed_device_has_the_bank_map_from_before,
);

/// The next answer of the workload.
#[track_caller]
fn answer(process: &mut Process) -> Value {
    parsed(&process.line())
}

/// Starts `bank_maps.py` under `tt-memtrace run`, and waits until the first event is written: by then the tracer has
/// read what it can read only from a live process.
fn run(release: Release, cluster: &Cluster, dir: &WorkDir, words: &[&str]) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("bank_maps.py");
    let mut tracer = Tracer::run(dir).traced(workload.args(words)).start();
    let first = answer(&mut tracer);
    wait_for("the first buffers", || {
        !events_named(&dir.events_so_far(), "allocate").is_empty()
    });
    (tracer, first)
}

/// Lets the workload take its second and last step, and returns its last answer and its end.
fn to_its_end(mut process: Process) -> (Value, Finished) {
    process.send("on");
    let last = answer(&mut process);
    (last, process.finish())
}

/// The only bank map of a type of memory.
#[track_caller]
fn map<'a>(process: &'a ProcessSummary, buffer_type: &str) -> &'a BankMap {
    let maps = process.maps.iter();
    let mut maps = maps.filter(|map| map.buffer_type == buffer_type);
    let (Some(map), None) = (maps.next(), maps.next()) else {
        panic!("not exactly one map of {buffer_type}: {:#?}", process.maps);
    };
    map
}

/// Panics unless the maps agree with what TT-Metal reported of each bank.
#[track_caller]
fn expect_view(process: &ProcessSummary, view: &Value) {
    for buffer_type in ["DRAM", "L1"] {
        let map = map(process, buffer_type);
        expect_room(map, &view[buffer_type]);
        expect_buffers(process, map);
    }
    // A type of memory without buffers has no map.
    assert_eq!(view["TRACE"]["allocated"], 0);
    assert_eq!(process.maps.len(), 2, "{:#?}", process.maps);
}

/// Panics unless a map has as much room as TT-Metal reported.
#[track_caller]
fn expect_room(map: &BankMap, view: &Value) {
    let bytes = map.end.zip(map.start).map(|(end, start)| end - start);
    for (name, figure) in [
        ("banks", map.banks),
        ("bytes", bytes),
        ("allocated", map.allocated_per_bank),
        ("free", map.free_per_bank),
        ("largest_free", map.largest_free_per_bank),
    ] {
        assert_eq!(figure, Some(unsigned(view, name)), "{name}: {map:#?}");
    }
    let largest = unsigned(view, "largest_free") as f64 / unsigned(view, "free") as f64;
    assert_eq!(map.fragmentation, Some(1.0 - largest));
    expect_tiled(map);
}

/// Panics unless the blocks of a map fill it without a gap and sum up to its figures.
#[track_caller]
fn expect_tiled(map: &BankMap) {
    let mut at = map.start.expect("a start");
    let (mut allocated, mut free, mut largest) = (0, 0, 0);
    let mut before_is_free = false;
    for block in &map.blocks {
        assert_eq!(block.address, at, "{block:?}");
        let bytes = block.bytes.expect("a size");
        assert!(bytes > 0, "{block:?}");
        at += bytes;
        let is_free = block.buffer.is_none();
        assert!(!(is_free && before_is_free), "two free blocks in a row");
        before_is_free = is_free;
        if is_free {
            free += bytes;
            largest = largest.max(bytes);
        } else {
            allocated += bytes;
        }
    }
    assert_eq!(map.end, Some(at));
    assert_eq!(map.allocated_per_bank, Some(allocated));
    assert_eq!(map.free_per_bank, Some(free));
    assert_eq!(map.largest_free_per_bank, Some(largest));
}

/// A buffer by what a block and the list of live buffers both have.
#[derive(Debug, PartialEq)]
struct Shared<'a> {
    address: u64,
    size: u64,
    bytes_per_bank: Option<u64>,
    unique_id: Option<u64>,
    stack: Option<u64>,
    origin: &'a str,
    before_attach: bool,
}

/// The buffer of a block in use.
fn in_use(block: &Block) -> Option<Shared<'_>> {
    let buffer = block.buffer.as_ref()?;
    Some(Shared {
        address: block.address,
        size: buffer.size,
        bytes_per_bank: block.bytes,
        unique_id: buffer.unique_id,
        stack: buffer.stack,
        origin: &buffer.origin,
        before_attach: buffer.before_attach,
    })
}

/// Panics unless the blocks in use are exactly the live buffers.
#[track_caller]
fn expect_buffers(process: &ProcessSummary, map: &BankMap) {
    if map.freed_at_ns.is_some() {
        return;
    }
    let live: Vec<Shared<'_>> = process
        .live_buffers
        .iter()
        .filter(|buffer| buffer.buffer_type == map.buffer_type)
        .map(|buffer| Shared {
            address: buffer.address,
            size: buffer.size,
            bytes_per_bank: buffer.bytes_per_bank,
            unique_id: buffer.unique_id,
            stack: buffer.stack,
            origin: &buffer.origin,
            before_attach: buffer.before_attach,
        })
        .collect();
    let blocks: Vec<Shared<'_>> = map.blocks.iter().filter_map(in_use).collect();
    assert_eq!(blocks, live);
}

fn bank_maps_agree_with_get_memory_view(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (tracer, first) = run(release, &cluster, &dir, &[]);
    // The workload makes holes.
    for buffer_type in ["DRAM", "L1"] {
        let of = |figure| unsigned(&first["view"][buffer_type], figure);
        assert!(of("largest_free") < of("free"), "{first}");
    }
    let (last, done) = to_its_end(tracer);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.owning().len() as u64, unsigned(&last, "live"));
    expect_view(process, &last["view"]);
    assert_eq!(map(process, "DRAM").freed_at_ns, None);
    let heading = "\n In each bank (";
    assert!(done.stderr.contains(heading), "{}", done.stderr);
}

fn bank_maps_of_a_mesh_are_those_of_each_member(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (tracer, _) = run(release, &cluster, &dir, &["mesh"]);
    let (last, done) = to_its_end(tracer);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    expect_view(process, &last["view"]);
    assert_eq!(map(process, "L1").device.kind, DeviceKind::Mesh);
}

fn bank_maps_after_attaching_agree_with_get_memory_view(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("bank_maps.py");
    let mut target = Process::spawn(&mut workload);
    let first = answer(&mut target);

    // While the process is idle.
    let pid = target.pid();
    let tracer = Tracer::attach_to(&dir, pid).arguments(["--duration", "1s"]);
    tracer.start().finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    process.expect_whole_snapshot();
    expect_view(process, &first["view"]);

    // While the process goes on.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    let (last, _) = to_its_end(target);
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    expect_view(process, &last["view"]);
    let buffers = &process.live_buffers;
    let before = |is| buffers.iter().any(|buffer| buffer.before_attach == is);
    assert!(before(true) && before(false), "{buffers:#?}");
}

fn a_failed_allocation_has_the_bank_map_of_that_moment(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut tracer, _) = run(release, &cluster, &dir, &["full"]);
    tracer.send("on");
    answer(&mut tracer);
    let mut views = Vec::new();
    for buffer_type in ["DRAM", "L1"] {
        tracer.send("on");
        let failed = answer(&mut tracer);
        assert_eq!(failed["asked"], buffer_type);
        let view = failed["view"][buffer_type].clone();
        // The message must come while the workload waits, not at its end.
        let line = format!(
            "; each of {} banks had {} free, the largest block {}\n",
            view["banks"],
            human_size(unsigned(&view, "free")),
            human_size(unsigned(&view, "largest_free")),
        );
        wait_for(&line, || tracer.stderr().contains(&line));
        views.push(view);
    }
    tracer.send("on");
    let last = answer(&mut tracer);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.failures.len(), 2);
    for (failure, view) in process.failures.iter().zip(&views) {
        let (banks, free, largest) = (
            unsigned(view, "banks"),
            unsigned(view, "free"),
            unsigned(view, "largest_free"),
        );
        let figures = [
            failure.banks,
            failure.free_per_bank,
            failure.largest_free_per_bank,
            failure.free_bytes,
            failure.largest_free_bytes,
        ];
        let expected = [banks, free, largest, banks * free, banks * largest];
        assert_eq!(figures, expected.map(Some), "{failure:?}");
        assert!(largest < free, "no holes: {failure:?}");
        expect_room(failure.map.as_ref().expect("a map"), view);
    }
    // The workload has allocated more since then.
    expect_view(process, &last["view"]);
    assert_ne!(last["view"]["DRAM"], views[0]);
}

fn a_closed_device_has_the_bank_map_from_before(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (tracer, _) = run(release, &cluster, &dir, &["close"]);
    let (last, done) = to_its_end(tracer);
    done.expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.owning().len(), 0);
    expect_view(process, &last["view"]);
    let freed = ["DRAM", "L1"].map(|buffer_type| map(process, buffer_type).freed_at_ns);
    assert!(freed[0].is_some() && freed[0] == freed[1], "{freed:?}");
    let heading = "\n In each bank, when its device was closed (";
    assert!(done.stderr.contains(heading), "{}", done.stderr);
    for block in &map(process, "DRAM").blocks {
        if let Some(buffer) = &block.buffer {
            assert_eq!(buffer.origin, "tensor");
            process.stack(buffer.stack);
        }
    }
}
