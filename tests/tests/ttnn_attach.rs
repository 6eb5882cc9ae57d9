//! `tt-memtrace attach` to a real ttnn process that is already at work.

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Process, Release, Tracer, Ttnn, WorkDir, for_each_release, text, unique_ids, unsigned,
};

for_each_release!(
    a_loop_is_joined_and_its_end_is_exact,
    a_loop_is_joined_and_its_device_closed,
    out_of_memory_passes_through,
);

/// Starts the loop and waits until it loops.
fn looping(release: Release, cluster: &Cluster, dir: &WorkDir, end: &str) -> Process {
    let mut workload = Ttnn::new(release, cluster, dir).workload("loop.py");
    let mut process = Process::spawn(workload.arg(end));
    assert_eq!(process.line(), r#"{"ready": true}"#);
    process
}

/// Each tensor that is live at the end was made after the tracer came: the loop replaces all of
/// them once more after it is told to stop.
fn a_loop_is_joined_and_its_end_is_exact(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut target = looping(release, &cluster, &dir, "kill");
    let pid = target.pid();
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.send("stop");
    let said: Value = serde_json::from_str(&target.line()).expect("JSON");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&target.wait().status),
        Some(9)
    );
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let mut expected: Vec<_> = said["live"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|buffer| {
            (
                text(buffer, "buffer_type").to_owned(),
                unsigned(buffer, "address"),
                unsigned(buffer, "device_id"),
            )
        })
        .collect();
    expected.sort();
    let owning = process.owning();
    let traced: Vec<_> = owning
        .iter()
        .map(|(_, device, buffer_type, address, _)| (buffer_type.clone(), *address, *device))
        .collect();
    assert_eq!(traced, expected);

    // a, b, c and the sum of a and a; 256 x 256 in L1.
    let mut sizes: Vec<u64> = owning.iter().map(|buffer| buffer.4).collect();
    sizes.sort_unstable();
    let columns = 512 * 2;
    assert_eq!(
        sizes,
        [
            64 * columns,
            256 * 256 * 2,
            512 * columns,
            512 * columns,
            1024 * columns
        ]
    );
    assert_eq!(process.0["attached"], "running");
    assert_eq!(process.0["exit"], serde_json::json!({"signal": 9}));
    for (_, _, _, address, _) in &owning {
        let buffer = process.owning_at(*address);
        assert_eq!(buffer["before_attach"], false, "{buffer}");
    }

    // From the oldest live buffer on, no birth was missed.
    let oldest = owning
        .iter()
        .map(|buffer| unsigned(process.owning_at(buffer.3), "unique_id"))
        .min()
        .expect("five buffers");
    assert_eq!(unique_ids(&dir.events()).first_gap_since(oldest), None);
}

fn a_loop_is_joined_and_its_device_closed(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut target = looping(release, &cluster, &dir, "close");
    let pid = target.pid();
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.send("stop");
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.owning(), []);
    assert_eq!(process.memory("chip", 0, "DRAM", "live_bytes"), 0);
    assert_eq!(process.memory("chip", 0, "L1", "live_bytes"), 0);
    assert!(process.count("bulk_frees") > 0);
    assert_eq!(process.0["exit"], serde_json::json!({"code": 0}));
}

fn out_of_memory_passes_through(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = || {
        let mut command = Ttnn::new(release, &cluster, &dir).workload("out_of_memory.py");
        command.arg("wait");
        command
    };
    let alone = Process::spawn(&mut workload()).finish();
    alone.expect_code(0);

    let mut target = Process::spawn(&mut workload());
    let pid = target.pid();
    assert_eq!(target.line(), r#"{"ready": true}"#);
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| target.send("poke"));
    target.send("go");
    let done = target.finish();
    done.expect_code(0);
    assert_eq!(done.text(), alone.text());
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.count("failed_allocations"), 3);
    let peak = process.memory("chip", 0, "DRAM", "peak_bytes");
    assert_eq!(peak, (512 * 512 + 256 * 512) * 2);
}
