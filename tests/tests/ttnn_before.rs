//! What a real ttnn process held before `attach`: read from its memory while it goes on.

use std::collections::BTreeSet;

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir, for_each_release, text,
    unsigned,
};

for_each_release!(
    five_thousand_buffers_and_the_banks_are_as_the_library_says,
    a_mesh_and_its_chips_are_known_at_once if has_meshes,
);

/// A ttnn process that has said what lives.
fn with_many(
    release: Release,
    cluster: &Cluster,
    dir: &WorkDir,
    arguments: &[&str],
) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("many.py");
    let mut process = Process::spawn(workload.args(arguments));
    let said = serde_json::from_str(&process.line()).expect("JSON");
    (process, said)
}

/// Attaches for a second. All that the process holds is found from the library's own data.
fn look(dir: &WorkDir, pid: u32) {
    let tracer = Tracer::attach_to(dir, pid).arguments(["--duration", "1s"]);
    let looked = tracer.start().finish();
    looked.expect_code(0);
    assert!(!looked.stderr.contains(" more from before"));
}

/// Address and type of each, and the device's id.
fn by_ttnn(said: &Value) -> BTreeSet<(u64, String, u64)> {
    let live = said["live"].as_array().expect("a list");
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

fn by_us(process: ProcessSummary<'_>) -> BTreeSet<(u64, String, u64)> {
    process
        .owning()
        .into_iter()
        .map(|(_, device, buffer_type, address, _)| (address, buffer_type, device))
        .collect()
}

fn five_thousand_buffers_and_the_banks_are_as_the_library_says(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let (mut target, before) = with_many(release, &cluster, &dir, &["5000"]);
    let pid = target.pid();
    assert_eq!(by_ttnn(&before).len(), 5000);

    // As it is.
    look(&dir, pid);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_us(process), by_ttnn(&before));
    process.expect_whole_baseline();
    assert_eq!(process.0["baseline"]["at_one_moment"], true);
    assert_eq!(process.0["baseline"]["buffers"], 5000);
    let devices = process.0["devices"].as_array().expect("a list");
    let mesh = devices
        .iter()
        .find(|device| device["kind"] == "mesh")
        .expect("a mesh");
    for (buffer_type, view) in before["banks"].as_object().expect("banks") {
        let capacity = &mesh["memory"][buffer_type]["capacity"];
        if view["banks"] == 0 {
            assert!(capacity.is_null(), "{buffer_type}: {capacity}");
            continue;
        }
        for (name, value) in view.as_object().expect("a view") {
            assert_eq!(&capacity[name], value, "{buffer_type} {name}");
        }
        // By what lies where, the same.
        let mut maps = process.0["maps"].as_array().expect("maps").iter();
        let map = maps.find(|map| map["buffer_type"] == **buffer_type);
        assert_eq!(map.is_some(), view["allocated_per_bank"] != 0);
        for name in [
            "allocated_per_bank",
            "free_per_bank",
            "largest_free_per_bank",
        ] {
            if let Some(map) = map {
                assert_eq!(map[name], view[name], "{buffer_type} {name}");
            }
        }
    }

    // As it goes on.
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.send("go on");
    let after: Value = serde_json::from_str(&target.line()).expect("JSON");
    target.wait();
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_ttnn(&after).len(), 2510);
    assert_eq!(by_us(process), by_ttnn(&after));
    assert_eq!(process.count("unmatched_deallocations"), 0);
}

fn a_mesh_and_its_chips_are_known_at_once(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (target, before) = with_many(release, &cluster, &dir, &["40", "1", "2"]);
    let pid = target.pid();
    look(&dir, pid);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(by_us(process), by_ttnn(&before));
    let mesh = process.owning()[0].1;
    assert_eq!(process.members(mesh), [0, 1]);
    let bytes: u64 = process.owning().iter().map(|buffer| buffer.4).sum();
    for chip in [0, 1] {
        let on = |buffer_type| process.memory("chip", chip, buffer_type, "live_bytes");
        assert_eq!(on("DRAM") + on("L1"), bytes, "chip {chip}");
    }
    drop(target);
}
