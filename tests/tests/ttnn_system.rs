//! What lies in device memory when a device is open, as docs/system-buffers.md says: the tensors,
//! kernel binaries for as long as their programs are cached, and nothing of the system's. On eight
//! chips, byte for byte.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Live, Process, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir, events_named,
    for_each_release, shm, text, unsigned,
};

for_each_release!(
    an_open_mesh_holds_nothing if has_meshes,
    the_tensors_are_all_that_is_there if has_meshes,
    freed_tensors_leave_nothing if has_meshes,
    a_closed_mesh_had_nothing_more if has_meshes,
    kernel_binaries_stay_with_their_programs if has_meshes,
    cleared_programs_leave_nothing if has_meshes,
);

const MIB: u64 = 1 << 20;
const CHIPS: [u64; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// The workload's tensors, as large on each chip: three of 4 MiB, two of 512 KiB, one of 1 MiB.
const TENSORS: [u64; 6] = [MIB / 2, MIB / 2, MIB, 4 * MIB, 4 * MIB, 4 * MIB];
/// What monitors took for the system's: the tensors.
const ALL_TENSORS: u64 = 14_680_064;

/// A run of the workload to that phase, where it was killed.
struct Run {
    dir: WorkDir,
    summary: Summary,
    /// What it said at each phase.
    said: Vec<Value>,
}

impl Run {
    fn to(release: Release, phase: &str, options: &[&str]) -> Self {
        let dir = WorkDir::new();
        let cluster = Cluster::t3000(&dir);
        let mut workload = Ttnn::new(release, &cluster, &dir).workload("system_buffers.py");
        workload.args(["2x4", phase]).args(options);
        let mut tracer = Tracer::run(&dir).traced(&workload).start();
        let said = said_until(&mut tracer, phase);

        let pid = u32::try_from(unsigned(&said[0], "pid")).expect("a pid is a u32");
        // The workload waits for a line, so its figures stand still. A process has some from its
        // first buffer on.
        let has_figures = release.has_statistics() && !["open", "closed"].contains(&phase);
        let by_tt_metal = has_figures.then(|| {
            let of_chip = |chip| shm::of_process(&cluster.statistics(chip), pid).dram;
            CHIPS.map(|chip| of_chip(usize::try_from(chip).expect("a small number")))
        });
        let code = if phase == "closed" { 0 } else { 128 + 9 };
        tracer.finish().expect_code(code);

        let run = Self {
            summary: dir.summary(),
            said,
            dir,
        };
        let process = run.process();
        for (chip, bytes) in CHIPS.into_iter().zip(by_tt_metal.into_iter().flatten()) {
            let traced = process.memory("chip", chip, "DRAM", "live_bytes");
            assert_eq!(traced, bytes, "chip {chip}");
        }
        // TT-Metal's own list is the same.
        if phase != "closed" {
            assert_eq!(owning(process), listed(run.last()));
        }
        run
    }

    fn process(&self) -> ProcessSummary<'_> {
        self.summary
            .expect_complete()
            .only_process()
            .expect_balanced()
    }

    fn last(&self) -> &Value {
        self.said.last().expect("it says something at each phase")
    }

    /// Whether the release could be had to keep kernel binaries on a mock device.
    fn has_binaries(&self) -> bool {
        self.said[0]["gathers"] == true
    }
}

/// What the workload says at each phase up to this one.
fn said_until(workload: &mut Process, phase: &str) -> Vec<Value> {
    let mut said: Vec<Value> = Vec::new();
    while said.last().is_none_or(|last| last["phase"] != phase) {
        said.push(serde_json::from_str(&workload.line()).expect("JSON"));
    }
    assert_eq!(said[0]["mesh"], 0);
    assert_eq!(said[0]["chips"], json!(CHIPS));
    said
}

/// Types and addresses of the live owning buffers; all are the mesh's.
fn owning(process: ProcessSummary<'_>) -> Vec<(String, u64)> {
    let mesh = |(kind, id, buffer_type, address, _): Live| {
        assert_eq!((kind.as_str(), id), ("mesh", 0));
        (buffer_type, address)
    };
    process.owning().into_iter().map(mesh).collect()
}

/// Likewise by TT-Metal's own word.
fn listed(phase: &Value) -> Vec<(String, u64)> {
    let live = phase["live"].as_array().expect("a list");
    let mut listed: Vec<(String, u64)> = live
        .iter()
        .map(|buffer| {
            assert_eq!(buffer["device_id"], 0);
            let buffer_type = text(buffer, "buffer_type").to_owned();
            (buffer_type, unsigned(buffer, "address"))
        })
        .collect();
    listed.sort();
    listed
}

/// Sizes of the live owning buffers, all of them in DRAM.
fn sizes(process: ProcessSummary<'_>) -> Vec<u64> {
    let size = |(_, _, buffer_type, _, size): Live| {
        assert_eq!(buffer_type, "DRAM");
        size
    };
    let mut sizes: Vec<u64> = process.owning().into_iter().map(size).collect();
    sizes.sort_unstable();
    sizes
}

#[track_caller]
fn expect_on_each_chip(process: ProcessSummary<'_>, bytes: u64) {
    for chip in CHIPS {
        assert_eq!(process.memory("chip", chip, "DRAM", "live_bytes"), bytes);
        for other in ["L1", "L1_SMALL", "TRACE"] {
            assert_eq!(process.memory("chip", chip, other, "peak_bytes"), 0);
        }
    }
}

fn an_open_mesh_holds_nothing(release: Release) {
    let run = Run::to(release, "open", &[]);
    let process = run.process();
    // Not even a buffer that owns nothing was made.
    assert_eq!(process.0["devices"], json!([]));
    assert_eq!(process.owning(), []);
    assert_eq!(process.0["non_owning"]["created"], 0);
    // The allocators gave nothing, of no type.
    let memory = run.last()["memory"].as_object().expect("an object");
    for (buffer_type, bank) in memory {
        assert_eq!(bank[2], 0, "{buffer_type}");
    }
    // What TT-Metal keeps for itself lies below the banks: of 1 GiB it is the first 32 bytes, and
    // in later releases up to some 1 MiB.
    let reserved = (1 << 30) - memory["DRAM"][1].as_u64().expect("bytes");
    assert!((32..=MIB + 64).contains(&reserved), "{reserved}");
}

fn the_tensors_are_all_that_is_there(release: Release) {
    let run = Run::to(release, "operations", &[]);
    let process = run.process();
    assert_eq!(sizes(process), TENSORS);
    assert_eq!(TENSORS.iter().sum::<u64>(), ALL_TENSORS);
    expect_on_each_chip(process, ALL_TENSORS);
    // Each has one buffer on each chip, owning nothing: counted too, it would be twice as much.
    let mut on_chips: Vec<Live> = process
        .owning()
        .into_iter()
        .flat_map(|(_, _, buffer_type, address, size)| {
            CHIPS.map(|chip| ("chip".to_owned(), chip, buffer_type.clone(), address, size))
        })
        .collect();
    on_chips.sort();
    assert_eq!(process.non_owning(), on_chips);
}

fn freed_tensors_leave_nothing(release: Release) {
    let run = Run::to(release, "freed", &[]);
    let process = run.process();
    // The programs are still cached; a mock device has no binaries of them.
    assert_eq!(run.last()["programs"], 2);
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    assert_eq!(process.0["non_owning"]["created"], 6 * 8);
    expect_on_each_chip(process, 0);
}

fn a_closed_mesh_had_nothing_more(release: Release) {
    let run = Run::to(release, "closed", &[]);
    let process = run.process();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    for chip in CHIPS {
        let figure = |name| process.memory("chip", chip, "DRAM", name);
        assert_eq!(figure("allocated_bytes"), ALL_TENSORS);
        assert_eq!(figure("freed_bytes"), ALL_TENSORS);
        assert_eq!(figure("peak_bytes"), ALL_TENSORS);
    }
    // Closing frees all at once; there was nothing left.
    let events = run.dir.events();
    let bulk_frees = events_named(&events, "bulk_free");
    assert!(!bulk_frees.is_empty());
    assert!(bulk_frees.iter().all(|event| event["freed_buffers"] == 0));
}

fn kernel_binaries_stay_with_their_programs(release: Release) {
    let run = Run::to(release, "freed", &["binaries"]);
    let process = run.process();
    assert_eq!(run.last()["programs"], 2);
    if !run.has_binaries() {
        assert!(![Release::V0_77_0, Release::V0_81_1].contains(&release));
        assert_eq!(process.owning(), []);
        return;
    }
    // One for each of the two programs, from the top of DRAM, with pages of 2048.
    let binaries = process.owning();
    let addresses: Vec<u64> = binaries.iter().map(|binary| binary.3).collect();
    assert_eq!(addresses, [(1 << 30) - 4096, (1 << 30) - 2048]);
    for address in addresses {
        assert_eq!(unsigned(process.owning_at(address), "page_size"), 2048);
    }
    let bytes = binaries.iter().map(|binary| binary.4).sum();
    assert!(bytes > 0);
    expect_on_each_chip(process, bytes);

    // Each stands there ten times, and holds memory once on each chip: the mesh's own, one on each
    // chip and one more of the mesh, for the program.
    let mut standing: BTreeMap<u64, usize> = BTreeMap::new();
    for buffer in process.owning().into_iter().chain(process.non_owning()) {
        *standing.entry(buffer.3).or_default() += 1;
    }
    assert_eq!(standing.into_values().collect::<Vec<_>>(), [10, 10]);
    // While one is loaded there is another view on each chip. So a monitor that sees buffers born and
    // not those end that own nothing is left with ten on a chip and two on the mesh.
    let events = run.dir.events();
    let mut made: BTreeMap<(&str, u64), (usize, u64)> = BTreeMap::new();
    for event in events_named(&events, "create") {
        let device = (text(event, "device_kind"), unsigned(event, "device_id"));
        let (count, size) = made.entry(device).or_default();
        *count += 1;
        *size += unsigned(event, "size");
    }
    let on_chips = CHIPS.map(|chip| (("chip", chip), (10, ALL_TENSORS + 2 * bytes)));
    let on_mesh = (("mesh", 0), (2, bytes));
    let expected = on_chips.into_iter().chain([on_mesh]).collect();
    assert_eq!(made, expected);
}

fn cleared_programs_leave_nothing(release: Release) {
    let run = Run::to(release, "cleared", &["binaries"]);
    let process = run.process();
    assert_eq!(run.last()["programs"], 0);
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    expect_on_each_chip(process, 0);
    let events = run.dir.events();
    let buffers = if run.has_binaries() { 8 } else { 6 };
    assert_eq!(events_named(&events, "allocate").len(), buffers);
    // One by one, not by a bulk free.
    assert_eq!(events_named(&events, "deallocate").len(), buffers);
}
