//! The real ttnn on a mesh of two chips: each chip's bytes are what TT-Metal's own statistics say
//! (where the release has them), and the buffers that a mesh makes on its chips are listed and counted nowhere.

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Process, Release, Tracer, Ttnn, WorkDir, events_named, for_each_release, shm, text,
    unsigned,
};

for_each_release!(
    each_chip_has_what_tt_metal_says if has_meshes,
    a_closed_mesh_leaves_nothing_live if has_meshes,
);

/// A 512 x 512 tensor of bfloat16, on each chip.
const SQUARE: u64 = 512 * 512 * 2;

/// Starts the workload under `tt-memtrace run`, and gives what it says when its tensors are there.
fn opened(release: Release, cluster: &Cluster, dir: &WorkDir, end: &str) -> (Process, Value) {
    let mut workload = Ttnn::new(release, cluster, dir).workload("mesh.py");
    let mut tracer = Tracer::run(dir).traced(workload.args(["1x2", end])).start();
    let said: Value = serde_json::from_str(&tracer.line()).expect("JSON");
    assert_eq!(said["mesh"], 0);
    assert_eq!(said["chips"], serde_json::json!([0, 1]));
    (tracer, said)
}

fn each_chip_has_what_tt_metal_says(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (tracer, said) = opened(release, &cluster, &dir, "kill");
    let pid = u32::try_from(unsigned(&said, "pid")).expect("a pid is a u32");
    // The workload waits for a line, so its figures stand still, to its death.
    let by_tt_metal = release
        .has_statistics()
        .then(|| [0, 1].map(|chip| shm::of_process(&cluster.statistics(chip), pid)));
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid).expect_balanced();
    assert_eq!(process.members(0), [0, 1]);
    for chip in [0, 1] {
        let traced = |buffer_type| process.memory("chip", chip, buffer_type, "live_bytes");
        // Two tensors in DRAM, the third is freed; one in L1.
        let expected = (2 * SQUARE, SQUARE);
        assert_eq!((traced("DRAM"), traced("L1")), expected, "chip {chip}");
    }
    for (chip, bytes) in by_tt_metal.into_iter().flatten().enumerate() {
        let expected = (2 * SQUARE, SQUARE);
        assert_eq!((bytes.dram, bytes.l1), expected, "chip {chip}");
    }
    assert_eq!(process.memory("mesh", 0, "DRAM", "live_bytes"), 2 * SQUARE);

    let mut owning = Vec::new();
    let mut non_owning = Vec::new();
    for buffer in said["live"].as_array().expect("a list") {
        let like = |kind: &str, device| {
            let buffer_type = text(buffer, "buffer_type").to_owned();
            (
                kind.to_owned(),
                device,
                buffer_type,
                unsigned(buffer, "address"),
                SQUARE,
            )
        };
        owning.push(like("mesh", unsigned(buffer, "device_id")));
        non_owning.extend([like("chip", 0), like("chip", 1)]);
    }
    owning.sort();
    non_owning.sort();
    assert_eq!(process.owning(), owning);
    assert_eq!(process.non_owning(), non_owning);
    assert_eq!(
        unsigned(&process.0["non_owning"], "live"),
        non_owning.len() as u64
    );
}

fn a_closed_mesh_leaves_nothing_live(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n300(&dir);
    let (mut tracer, said) = opened(release, &cluster, &dir, "close");
    tracer.send("");
    assert_eq!(tracer.line(), r#"{"closed": true}"#);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), []);
    for chip in [0, 1] {
        assert_eq!(process.memory("chip", chip, "DRAM", "live_bytes"), 0);
        assert_eq!(
            process.memory("chip", chip, "DRAM", "peak_bytes"),
            4 * SQUARE
        );
        assert_eq!(process.memory("chip", chip, "L1", "peak_bytes"), SQUARE);
    }
    assert!(process.count("bulk_frees") > 0);
    assert_eq!(process.count("unmatched_deallocations"), 0);

    // Each tensor had a buffer on each chip, owning nothing; the bulk free took the owning ones.
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
            assert!(members > 0, "nothing on chip {chip} of {buffer}");
        }
    }
    let freed: u64 = events_named(&events, "bulk_free")
        .iter()
        .map(|event| unsigned(event, "freed_buffers"))
        .sum();
    assert_eq!(freed, said["live"].as_array().map_or(0, Vec::len) as u64);
}
