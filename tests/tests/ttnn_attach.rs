//! `tt-memtrace attach` to a process that already uses the real ttnn.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use tt_memtrace_tests::{
    Attached, Cluster, Device, Exit, Process, Release, Tracer, Ttnn, WorkDir, for_each_release,
    list, parsed, text, unique_ids, unsigned,
};

for_each_release!(
    the_live_buffers_of_a_traced_loop_are_exact,
    a_traced_loop_that_closes_its_device_leaves_nothing,
    out_of_memory_passes_through,
    a_threads_number_stands_for_its_process,
);

/// Starts the loop and waits for its first round.
fn looping(release: Release, cluster: &Cluster, dir: &WorkDir, end: &str) -> Process {
    let mut workload = Ttnn::new(release, cluster, dir).workload("loop.py");
    let mut process = Process::spawn(workload.arg(end));
    assert_eq!(process.line(), r#"{"ready": true}"#);
    process
}

/// Each tensor that is live at the end was allocated after the tracer attached: the loop replaces all of them once
/// more when it gets the line to stop.
fn the_live_buffers_of_a_traced_loop_are_exact(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut target = looping(release, &cluster, &dir, "kill");
    let pid = target.pid();
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.send("stop");
    let answer = parsed(&target.line());
    assert_eq!(target.wait().status.signal(), Some(9));
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let mut expected: Vec<_> = list(&answer, "live")
        .iter()
        .map(|buffer| {
            (
                text(buffer, "buffer_type"),
                unsigned(buffer, "address"),
                unsigned(buffer, "device_id"),
            )
        })
        .collect();
    expected.sort_unstable();
    let owning = process.owning();
    let mut traced: Vec<_> = owning
        .iter()
        .map(|buffer| {
            let buffer_type = buffer.buffer_type.as_str();
            (buffer_type, buffer.address, buffer.device.id)
        })
        .collect();
    traced.sort_unstable();
    assert_eq!(traced, expected);

    // The tensors a, b, c and a + a, and the one of 256 x 256 in L1.
    let mut sizes: Vec<u64> = owning.iter().map(|buffer| buffer.size).collect();
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
    assert_eq!(process.attached, Attached::Running);
    assert_eq!(process.exit, Some(Exit::Signal(9)));
    for buffer in &process.live_buffers {
        assert!(!buffer.before_attach, "{buffer:?}");
    }

    // From the oldest live buffer on, no event of a new buffer is missing.
    let ids = process.live_buffers.iter().map(|buffer| buffer.unique_id);
    let oldest = ids.min().flatten().expect("five buffers with ids");
    assert_eq!(unique_ids(&dir.events()).first_gap_since(oldest), None);
}

fn a_traced_loop_that_closes_its_device_leaves_nothing(release: Release) {
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
    assert_eq!(process.memory(Device::chip(0), "DRAM").live_bytes, 0);
    assert_eq!(process.memory(Device::chip(0), "L1").live_bytes, 0);
    assert!(process.bulk_frees > 0);
    assert_eq!(process.exit, Some(Exit::Code(0)));
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
    assert_eq!(process.failed_allocations, 3);
    let peak = process.memory(Device::chip(0), "DRAM").peak_bytes;
    assert_eq!(peak, (512 * 512 + 256 * 512) * 2);
}

/// `--pid` with the number of a thread traces the thread's process, once if both numbers are given.
fn a_threads_number_stands_for_its_process(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut target = looping(release, &cluster, &dir, "close");
    let pid = target.pid();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process of one's own");
    let threads = threads.map(|entry| entry.expect("a thread").file_name());
    let threads = threads.map(|name| name.to_string_lossy().into_owned());
    let thread = threads
        .filter(|thread| *thread != pid.to_string())
        .min()
        .expect("TT-Metal starts threads");
    for ids in [vec![thread.clone()], vec![pid.to_string(), thread.clone()]] {
        let options = ids.iter().flat_map(|id| ["--pid", id]);
        let mut tracer = Tracer::attach(&dir).arguments(options).start_and_see(|| {});
        tracer.signal(Signal::INT);
        let done = tracer.finish();
        done.expect_code(0);
        let note = format!("{thread} is a thread of process {pid}");
        assert!(done.stderr.contains(&note), "{ids:?}: {}", done.stderr);
        let summary = dir.summary();
        assert_eq!(summary.only_process().pid, pid, "{ids:?}");
        assert!(!summary.only_process().owning().is_empty(), "{ids:?}");
    }
    target.send("stop");
    target.finish().expect_code(0);
}
