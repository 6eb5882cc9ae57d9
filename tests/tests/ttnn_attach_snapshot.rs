//! The attach snapshot of a process that uses the real ttnn, read from its memory while it goes on.

use std::collections::BTreeSet;

use serde_json::Value;
use tt_memtrace_tests::{
    Capacity, Cluster, Device, DeviceKind, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir,
    for_each_release, list, parsed, text, unsigned,
};

for_each_release!(
    five_thousand_buffers_and_the_banks_agree_with_ttnn,
    a_mesh_and_its_chips_are_in_the_snapshot if has_meshes,
);

/// A process with many buffers, and its list of them.
fn with_many(
    release: Release,
    cluster: &Cluster,
    dir: &WorkDir,
    arguments: &[&str],
) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("many.py");
    let mut process = Process::spawn(workload.args(arguments));
    let listed = parsed(&process.line());
    (process, listed)
}

/// Attaches for a second. Every buffer must be found from the library's own data, and none by the later search.
fn attach_for_a_second(dir: &WorkDir, pid: u32) {
    let tracer = Tracer::attach_to(dir, pid).arguments(["--duration", "1s"]);
    let done = tracer.start().finish();
    done.expect_code(0);
    assert!(!done.stderr.contains(" more from before"));
}

/// Address, type and the device's id of each buffer that ttnn lists.
fn by_ttnn(listed: &Value) -> BTreeSet<(u64, String, u64)> {
    let live = list(listed, "live");
    live.iter()
        .map(|buffer| {
            (
                unsigned(buffer, "address"),
                text(buffer, "buffer_type").to_owned(),
                unsigned(buffer, "device_id"),
            )
        })
        .collect()
}

/// Likewise of each buffer in the summary.
fn by_us(process: &ProcessSummary) -> BTreeSet<(u64, String, u64)> {
    process
        .owning()
        .into_iter()
        .map(|buffer| (buffer.address, buffer.buffer_type, buffer.device.id))
        .collect()
}

fn five_thousand_buffers_and_the_banks_agree_with_ttnn(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut target, before) = with_many(release, &cluster, &dir, &["5000"]);
    let pid = target.pid();
    assert_eq!(by_ttnn(&before).len(), 5000);

    // While the process is idle.
    attach_for_a_second(&dir, pid);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_us(process), by_ttnn(&before));
    let snapshot = process.expect_whole_snapshot();
    assert!(snapshot.at_one_moment);
    assert_eq!(snapshot.buffers, 5000);
    let mut devices = process.devices.iter();
    let mesh = devices.find(|device| device.kind == DeviceKind::Mesh);
    let mesh = mesh.expect("a mesh");
    for (buffer_type, view) in before["banks"].as_object().expect("banks") {
        let capacity = mesh.memory[buffer_type].capacity;
        if view["banks"] == 0 {
            assert_eq!(capacity, None, "{buffer_type}");
            continue;
        }
        let expected = Capacity {
            banks: unsigned(view, "banks"),
            bytes_per_bank: unsigned(view, "bytes_per_bank"),
            allocated_per_bank: unsigned(view, "allocated_per_bank"),
            free_per_bank: unsigned(view, "free_per_bank"),
            largest_free_per_bank: unsigned(view, "largest_free_per_bank"),
        };
        assert_eq!(capacity, Some(expected), "{buffer_type}");
        // The bank map has the same figures.
        let mut maps = process.maps.iter();
        let map = maps.find(|map| map.buffer_type == *buffer_type);
        assert_eq!(map.is_some(), expected.allocated_per_bank != 0);
        if let Some(map) = map {
            let figures = [
                (map.allocated_per_bank, expected.allocated_per_bank),
                (map.free_per_bank, expected.free_per_bank),
                (map.largest_free_per_bank, expected.largest_free_per_bank),
            ];
            for (figure, expected) in figures {
                assert_eq!(figure, Some(expected), "{buffer_type}: {map:?}");
            }
        }
    }

    // While the process goes on.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.send("go on");
    let after = parsed(&target.line());
    target.wait();
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_ttnn(&after).len(), 2510);
    assert_eq!(by_us(process), by_ttnn(&after));
    assert_eq!(process.unmatched_deallocations, 0);
}

fn a_mesh_and_its_chips_are_in_the_snapshot(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (target, before) = with_many(release, &cluster, &dir, &["40", "1", "2"]);
    let pid = target.pid();
    attach_for_a_second(&dir, pid);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_us(process), by_ttnn(&before));
    let mesh = process.owning()[0].device.id;
    assert_eq!(process.members(mesh), [0, 1]);
    let bytes: u64 = process.owning().iter().map(|buffer| buffer.size).sum();
    for chip in [0, 1] {
        let on = |buffer_type| process.memory(Device::chip(chip), buffer_type).live_bytes;
        assert_eq!(on("DRAM") + on("L1"), bytes, "chip {chip}");
    }
    drop(target);
}
