//! Leaks, peaks, temporary buffers and failed allocations by stack, on the C++ target: cases that ttnn can't be made
//! to produce.

use tt_memtrace_tests::{
    Count, Cpp, Device, Finished, Generation, PlacedGroup, ProcessSummary, Tracer, WorkDir,
    for_each_generation,
};

for_each_generation!(
    a_meshs_buffers_leak_once_and_are_part_of_each_chips_peak,
    buffers_freed_at_once_are_temporary_in_every_thread,
    of_many_failed_allocations_a_limited_number_is_kept,
    a_leak_of_a_process_that_is_killed_or_goes_on,
);

/// Panics unless a function with that name is on the stack. Of the target's own functions, `run_session` and
/// `Session::churn` are: compilers inline the others.
#[track_caller]
fn expect_function(process: &ProcessSummary, stack: Option<u64>, name: &str) {
    let frames = process.stack(stack).frames.iter();
    let functions: Vec<&str> = frames
        .filter_map(|frame| frame.function.as_deref())
        .collect();
    let mut names = functions.iter();
    assert!(
        names.any(|function| function.contains(name)),
        "{functions:#?}"
    );
}

/// What distinguishes groups besides their stacks, and how much they hold: device, type, number and bytes.
type Held<'a> = (Device, &'a str, u64, u64);

fn held(placed: &PlacedGroup) -> Held<'_> {
    let PlacedGroup { buffer_type, .. } = placed;
    let group = &placed.group;
    (placed.device, buffer_type, group.buffers, group.bytes)
}

fn leaks(process: &ProcessSummary) -> Vec<Held<'_>> {
    let leaks = process.leaks.iter();
    leaks.map(|leak| held(&leak.placed)).collect()
}

fn a_meshs_buffers_leak_once_and_are_part_of_each_chips_peak(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 2, &[]);
    target.obey("alloc DRAM 65536 2048");
    target.obey("alloc DRAM 8192 2048");
    target.obey("alloc DRAM 4096 2048 chip 1");
    let freed = target.obey("alloc L1 16384 2048 chip 1");
    target.obey(&format!("free {}", freed["id"]));
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(
        leaks(process),
        [
            (Device::mesh(0), "DRAM", 2, 73_728),
            (Device::chip(1), "DRAM", 1, 4096)
        ]
    );
    for leak in &process.leaks {
        expect_function(process, leak.placed.group.stack, "run_session");
        let oldest = leak.oldest_age_ns.expect("an age");
        assert!(oldest >= leak.youngest_age_ns.expect("an age"));
    }
    let mut peaks: Vec<(Device, &str, u64)> = Vec::new();
    for peak in &process.peaks {
        let bytes: u64 = peak.groups.iter().map(|group| group.bytes).sum();
        assert_eq!(peak.peak_bytes, bytes);
        peaks.push((peak.device, &peak.buffer_type, bytes));
    }
    peaks.sort();
    assert_eq!(
        peaks,
        [
            (Device::chip(0), "DRAM", 73_728),
            (Device::chip(1), "DRAM", 77_824),
            (Device::chip(1), "L1", 16_384),
            (Device::mesh(0), "DRAM", 73_728),
        ]
    );
}

fn buffers_freed_at_once_are_temporary_in_every_thread(generation: Generation) {
    let dir = WorkDir::new();
    // Between the allocation and the free of one thread the three others allocate, as many times as they run
    // meanwhile.
    let mut target = Cpp::traced(&dir, generation, 1, &["--temporary", "1000000"]);
    target.obey("alloc DRAM 2048 2048");
    target.obey("threads 4 800");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let total = |buffer_type: &str| {
        let mut total = (0, 0);
        let groups = process.temporary.groups.iter();
        for placed in groups.filter(|placed| placed.buffer_type == buffer_type) {
            // At full speed some stacks are skipped.
            if placed.group.stack.is_some() {
                expect_function(process, placed.group.stack, "Session::churn");
            }
            total.0 += placed.group.buffers;
            total.1 += placed.group.bytes;
        }
        total
    };
    // Of each eight buffers one is of 8192 bytes in L1; in DRAM are two of 2048, 4096 and 6144 each, and one of 8192.
    assert_eq!(total("L1"), (400, 400 * 8192));
    assert_eq!(
        total("DRAM"),
        (2800, 400 * (2 * (2048 + 4096 + 6144) + 8192))
    );
    assert_eq!(leaks(process), [(Device::mesh(0), "DRAM", 1, 2048)]);
}

fn of_many_failed_allocations_a_limited_number_is_kept(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    target.obey("alloc DRAM 4096 2048");
    for _ in 0..105 {
        target.refuse("oom");
    }
    let done = target.finish();
    done.expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.failed_allocations, 105);
    assert_eq!(process.failures.len(), 100);
    let nothing = Count {
        buffers: 0,
        bytes: 0,
    };
    for failure in &process.failures {
        assert_eq!(failure.size, 1 << 40);
        expect_function(process, failure.stack, "run_session");
        assert_eq!(failure.live_bytes, 4096);
        assert_eq!(failure.largest.len(), 1);
        let largest = &failure.largest[0];
        assert_eq!(largest.bytes, 4096);
        expect_function(process, largest.stack, "run_session");
        assert_eq!(failure.rest, nothing);
    }
    let failures = &process.failures;
    assert!(failures.is_sorted_by_key(|failure| failure.at_ns));
    let table = &done.stderr;
    assert!(table.contains("asked for 1.00 TiB of DRAM"), "{table}");
    assert!(table.contains("1.00 TiB  100 times"), "{table}");
}

/// How a target of `attach` is left.
#[derive(Clone, Copy)]
enum End {
    Killed,
    Exited,
    Running,
}

fn a_leak_of_a_process_that_is_killed_or_goes_on(generation: Generation) {
    // `attach` has no exit code of a command to return. Buffers from before count as well.
    for (end, code) in [
        (End::Killed, 8),
        (End::Exited, 8),
        // What a process that goes on holds is no leak yet.
        (End::Running, 0),
    ] {
        let done = attach_to_leak(generation, end);
        done.expect_code(code);
        if code == 0 {
            assert!(!done.stderr.contains("held until the end"));
        }
    }
}

/// Attaches with `--fail-on-leak` to a target that holds a buffer.
fn attach_to_leak(generation: Generation, end: End) -> Finished {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    target.obey("alloc DRAM 65536 2048");
    let tracer = Tracer::attach_to(&dir, target.pid()).arguments(["--fail-on-leak"]);
    let mut tracer = tracer.start_and_see(|| target.expect_unharmed());
    match end {
        End::Killed => target.process.signal(rustix::process::Signal::KILL),
        End::Exited => target.process.close_stdin(),
        End::Running => tracer.signal(rustix::process::Signal::INT),
    }
    let done = tracer.wait();
    let summary = dir.summary();
    let process = summary.only_process();
    assert_eq!(leaks(process), [(Device::mesh(0), "DRAM", 1, 65_536)]);
    let leak = &process.leaks[0];
    assert!(leak.placed.group.before_attach);
    assert_eq!(leak.oldest_age_ns, None);
    done
}
