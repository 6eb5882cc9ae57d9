//! What device memory holds while a device is open, as docs/system-buffers.md describes it: the tensors, kernel binaries
//! as long as their programs are cached, and no buffers of the system. Compared byte for byte, on eight chips.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Device, LiveBuffer, Process, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir,
    events_named, for_each_release, list, parsed, pid, shm, text, unsigned,
};

for_each_release!(
    an_open_mesh_holds_nothing if has_meshes,
    operations_leave_nothing_but_tensors if has_meshes,
    freed_tensors_leave_nothing if has_meshes,
    a_closed_mesh_had_nothing_more if has_meshes,
    kernel_binaries_stay_with_their_programs if has_meshes,
    cleared_programs_leave_nothing if has_meshes,
);

const MIB: u64 = 1 << 20;
const CHIPS: [u64; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// The sizes of the workload's tensors on each chip.
const TENSORS: [u64; 6] = [MIB / 2, MIB / 2, MIB, 4 * MIB, 4 * MIB, 4 * MIB];
/// The tensors' sum, which monitors took for buffers of the system.
const ALL_TENSORS: u64 = 14_680_064;

/// A run of the workload to a phase, where it is killed.
struct Run {
    dir: WorkDir,
    summary: Summary,
    /// Its answers, one for each phase.
    answers: Vec<Value>,
}

impl Run {
    fn to(release: Release, phase: &str, options: &[&str]) -> Self {
        let dir = WorkDir::new();
        let cluster = Cluster::t3000(&dir);
        let mut workload = Ttnn::new(release, &cluster, &dir).workload("system_buffers.py");
        workload.args(["2x4", phase]).args(options);
        let mut tracer = Tracer::run(&dir).traced(&workload).start();
        let answers = answers_until(&mut tracer, phase);

        let pid = pid(&answers[0], "pid");
        // The workload waits for a line, so its figures don't change. TT-Metal has figures of a process from its first
        // buffer on.
        let has_figures = release.has_statistics() && !["open", "closed"].contains(&phase);
        let by_tt_metal = has_figures.then(|| {
            let of_chip = |chip| shm::of_process(&cluster.statistics(chip), pid).dram;
            CHIPS.map(|chip| of_chip(usize::try_from(chip).expect("a small number")))
        });
        let code = if phase == "closed" { 0 } else { 128 + 9 };
        tracer.finish().expect_code(code);

        let run = Self {
            summary: dir.summary(),
            answers,
            dir,
        };
        let process = run.process();
        for (chip, bytes) in CHIPS.into_iter().zip(by_tt_metal.into_iter().flatten()) {
            let traced = process.memory(Device::chip(chip), "DRAM").live_bytes;
            assert_eq!(traced, bytes, "chip {chip}");
        }
        // The live buffers are those of TT-Metal's own list.
        if phase != "closed" {
            assert_eq!(owning(process), listed(run.last()));
        }
        run
    }

    fn process(&self) -> &ProcessSummary {
        self.summary
            .expect_complete()
            .only_process()
            .expect_balanced()
    }

    fn last(&self) -> &Value {
        self.answers.last().expect("an answer for each phase")
    }

    /// Whether the release keeps kernel binaries on a mock device.
    fn has_binaries(&self) -> bool {
        self.answers[0]["gathers"] == true
    }
}

/// The workload's answers up to this phase.
fn answers_until(workload: &mut Process, phase: &str) -> Vec<Value> {
    let mut answers: Vec<Value> = Vec::new();
    while answers.last().is_none_or(|last| last["phase"] != phase) {
        answers.push(parsed(&workload.line()));
    }
    assert_eq!(answers[0]["mesh"], 0);
    assert_eq!(answers[0]["chips"], json!(CHIPS));
    answers
}

/// Types and addresses of the live owning buffers, all of which are the mesh's.
fn owning(process: &ProcessSummary) -> Vec<(String, u64)> {
    let on_mesh = |buffer: LiveBuffer| {
        assert_eq!(buffer.device, Device::mesh(0));
        (buffer.buffer_type, buffer.address)
    };
    process.owning().into_iter().map(on_mesh).collect()
}

/// Likewise from TT-Metal's own list.
fn listed(phase: &Value) -> Vec<(String, u64)> {
    let live = list(phase, "live");
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

/// Sizes of the live owning buffers, all of which are in DRAM.
fn sizes(process: &ProcessSummary) -> Vec<u64> {
    let size = |buffer: LiveBuffer| {
        assert_eq!(buffer.buffer_type, "DRAM");
        buffer.size
    };
    let mut sizes: Vec<u64> = process.owning().into_iter().map(size).collect();
    sizes.sort_unstable();
    sizes
}

#[track_caller]
fn expect_on_each_chip(process: &ProcessSummary, bytes: u64) {
    for chip in CHIPS {
        assert_eq!(process.memory(Device::chip(chip), "DRAM").live_bytes, bytes);
        for other in ["L1", "L1_SMALL", "TRACE"] {
            assert_eq!(process.memory(Device::chip(chip), other).peak_bytes, 0);
        }
    }
}

fn an_open_mesh_holds_nothing(release: Release) {
    let run = Run::to(release, "open", &[]);
    let process = run.process();
    // The process has created no buffer, not even a non-owning one.
    assert!(process.devices.is_empty(), "{:?}", process.devices);
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning.created, 0);
    // The allocators have allocated nothing, in any type of memory.
    let memory = run.last()["memory"].as_object().expect("an object");
    for (buffer_type, bank) in memory {
        assert_eq!(bank[2], 0, "{buffer_type}");
    }
    // TT-Metal reserves the lowest addresses of each 1 GiB: the first 32 bytes, in later releases up to some 1 MiB.
    let reserved = (1 << 30) - memory["DRAM"][1].as_u64().expect("bytes");
    assert!((32..=MIB + 64).contains(&reserved), "{reserved}");
}

fn operations_leave_nothing_but_tensors(release: Release) {
    let run = Run::to(release, "operations", &[]);
    let process = run.process();
    assert_eq!(sizes(process), TENSORS);
    assert_eq!(TENSORS.iter().sum::<u64>(), ALL_TENSORS);
    expect_on_each_chip(process, ALL_TENSORS);
    // Each tensor has a non-owning buffer on each chip. If these were counted, the totals would be twice as large.
    let on_chip = |buffer: &LiveBuffer, chip| LiveBuffer {
        device: Device::chip(chip),
        ..buffer.clone()
    };
    let mut on_chips: Vec<LiveBuffer> = process
        .owning()
        .iter()
        .flat_map(|buffer| CHIPS.map(|chip| on_chip(buffer, chip)))
        .collect();
    on_chips.sort();
    assert_eq!(process.non_owning(), on_chips);
}

fn freed_tensors_leave_nothing(release: Release) {
    let run = Run::to(release, "freed", &[]);
    let process = run.process();
    // The programs are still cached. On a mock device they have no binaries.
    assert_eq!(run.last()["programs"], 2);
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    assert_eq!(process.non_owning.created, 6 * 8);
    expect_on_each_chip(process, 0);
}

fn a_closed_mesh_had_nothing_more(release: Release) {
    let run = Run::to(release, "closed", &[]);
    let process = run.process();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    for chip in CHIPS {
        let usage = process.memory(Device::chip(chip), "DRAM");
        assert_eq!(usage.allocated_bytes, ALL_TENSORS);
        assert_eq!(usage.freed_bytes, ALL_TENSORS);
        assert_eq!(usage.peak_bytes, ALL_TENSORS);
    }
    // Closing frees all buffers at once, and none was left.
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
    // One buffer for each of the two programs, allocated from the top of DRAM, with pages of 2048 bytes.
    let binaries = process.owning();
    let addresses: Vec<u64> = binaries.iter().map(|binary| binary.address).collect();
    assert_eq!(addresses, [(1 << 30) - 4096, (1 << 30) - 2048]);
    for address in addresses {
        assert_eq!(process.owning_at(address).page_size, 2048);
    }
    let bytes = binaries.iter().map(|binary| binary.size).sum();
    assert!(bytes > 0);
    expect_on_each_chip(process, bytes);

    // Each binary has ten buffers, but holds memory only once on each chip: the mesh's own buffer, one on each chip,
    // and one more on the mesh, for the program.
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for buffer in process.owning().into_iter().chain(process.non_owning()) {
        *counts.entry(buffer.address).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10]);
    // While a binary is loaded there is another view on each chip. A monitor that sees every new buffer, but not the
    // end of non-owning ones, is therefore left with ten on a chip and two on the mesh.
    let events = run.dir.events();
    let mut created: BTreeMap<Device, (usize, u64)> = BTreeMap::new();
    for event in events_named(&events, "create") {
        let device = Device::from_json(event, "device_kind");
        let (count, size) = created.entry(device).or_default();
        *count += 1;
        *size += unsigned(event, "size");
    }
    let on_chips = CHIPS.map(|chip| (Device::chip(chip), (10, ALL_TENSORS + 2 * bytes)));
    let on_mesh = (Device::mesh(0), (2, bytes));
    let expected = on_chips.into_iter().chain([on_mesh]).collect();
    assert_eq!(created, expected);
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
    // The buffers are freed one by one, not by a bulk free.
    assert_eq!(events_named(&events, "deallocate").len(), buffers);
}
