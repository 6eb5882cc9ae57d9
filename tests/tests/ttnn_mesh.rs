//! The real ttnn on a mesh of two chips: each chip has the bytes of TT-Metal's own statistics (where the release has
//! them), and the buffers that a mesh creates on its chips are listed but not counted.

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Device, LiveBuffer, Process, Release, Tracer, Ttnn, WorkDir, events_named,
    for_each_release, list, parsed, pid, shm, text, unsigned,
};

for_each_release!(
    each_chip_has_the_bytes_that_tt_metal_reports if has_meshes,
    a_closed_mesh_leaves_nothing_live if has_meshes,
);

/// A 512 x 512 tensor of bfloat16, on each chip.
const SQUARE: u64 = 512 * 512 * 2;

/// Starts the workload under `tt-memtrace run`, and returns what it prints once its tensors are allocated.
fn opened(release: Release, cluster: &Cluster, dir: &WorkDir, end: &str) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("mesh.py");
    let mut tracer = Tracer::run(dir).traced(workload.args(["1x2", end])).start();
    let report = parsed(&tracer.line());
    assert_eq!(report["mesh"], 0);
    assert_eq!(report["chips"], serde_json::json!([0, 1]));
    (tracer, report)
}

fn each_chip_has_the_bytes_that_tt_metal_reports(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (tracer, report) = opened(release, &cluster, &dir, "kill");
    let pid = pid(&report, "pid");
    // The workload waits for a line, so its figures don't change until it is killed.
    let by_tt_metal = release
        .has_statistics()
        .then(|| [0, 1].map(|chip| shm::of_process(&cluster.statistics(chip), pid)));
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid).expect_balanced();
    assert_eq!(process.members(0), [0, 1]);
    for chip in [0, 1] {
        let traced = |buffer_type| process.memory(Device::chip(chip), buffer_type).live_bytes;
        // Two tensors in DRAM, of which a third was freed, and one in L1.
        let expected = (2 * SQUARE, SQUARE);
        assert_eq!((traced("DRAM"), traced("L1")), expected, "chip {chip}");
    }
    for (chip, bytes) in by_tt_metal.into_iter().flatten().enumerate() {
        let expected = (2 * SQUARE, SQUARE);
        assert_eq!((bytes.dram, bytes.l1), expected, "chip {chip}");
    }
    assert_eq!(
        process.memory(Device::mesh(0), "DRAM").live_bytes,
        2 * SQUARE
    );

    let mut owning = Vec::new();
    let mut non_owning = Vec::new();
    for buffer in list(&report, "live") {
        let on = |device| LiveBuffer {
            device,
            buffer_type: text(buffer, "buffer_type").to_owned(),
            address: unsigned(buffer, "address"),
            size: SQUARE,
        };
        owning.push(on(Device::mesh(unsigned(buffer, "device_id"))));
        non_owning.extend([on(Device::chip(0)), on(Device::chip(1))]);
    }
    owning.sort();
    non_owning.sort();
    assert_eq!(process.owning(), owning);
    assert_eq!(process.non_owning(), non_owning);
    assert_eq!(process.non_owning.live, non_owning.len() as u64);
}

fn a_closed_mesh_leaves_nothing_live(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (mut tracer, report) = opened(release, &cluster, &dir, "close");
    tracer.send("");
    assert_eq!(tracer.line(), r#"{"closed": true}"#);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), []);
    for chip in [0, 1] {
        assert_eq!(process.memory(Device::chip(chip), "DRAM").live_bytes, 0);
        assert_eq!(
            process.memory(Device::chip(chip), "DRAM").peak_bytes,
            4 * SQUARE
        );
        assert_eq!(process.memory(Device::chip(chip), "L1").peak_bytes, SQUARE);
    }
    assert!(process.bulk_frees > 0);
    assert_eq!(process.unmatched_deallocations, 0);

    // Each tensor had a non-owning buffer on each chip. The bulk free freed the owning ones.
    let events = dir.events();
    for buffer in events_named(&events, "allocate") {
        for chip in [0, 1] {
            let is_member = |event: &&&Value| {
                event["device_kind"] == "chip"
                    && event["device_id"] == chip
                    && event["address"] == buffer["address"]
                    && event["size"] == buffer["size"]
                    && event["owns_data"] == false
            };
            let created = events_named(&events, "create");
            let members = created.iter().filter(is_member).count();
            assert!(members > 0, "no member of {buffer} on chip {chip}");
        }
    }
    let freed: u64 = events_named(&events, "bulk_free")
        .iter()
        .map(|event| unsigned(event, "freed_buffers"))
        .sum();
    assert_eq!(freed, list(&report, "live").len() as u64);
}
