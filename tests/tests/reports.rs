//! Who allocated what, on the C++ target: what ttnn can't be made to do.

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cpp, Generation, ProcessSummary, Tracer, Variant, WorkDir, for_each_generation, text, unsigned,
};

for_each_generation!(
    a_meshs_buffers_leak_once_and_are_part_of_each_chips_peak,
    what_is_freed_at_once_is_temporary_in_every_thread,
    a_program_that_fails_again_and_again_is_kept_within_bounds,
    a_leak_of_a_process_that_is_killed_or_goes_on,
);

#[track_caller]
fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{name}` in {value}"))
}

/// Starts the target under `tt-memtrace run`, with a mesh of that many chips open.
fn run(dir: &WorkDir, generation: Generation, chips: u32, options: &[&str]) -> Cpp {
    let target = generation.target(dir, Variant::Plain);
    let tracer = Tracer::run(dir).arguments(options).traced(&target);
    let mut target = Cpp::from(tracer.start());
    target.obey(&format!("mesh {chips}"));
    target
}

/// The functions of a stack, innermost first. Of the program's own there is but `run_session`: the compiler
/// inlines the others, unless they run in threads.
#[track_caller]
fn functions<'a>(process: ProcessSummary<'a>, stack: &Value) -> Vec<&'a str> {
    let stacks = list(process.0, "stacks").iter();
    let mut stacks = stacks.filter(|known| known["id"] == *stack);
    let frames = list(stacks.next().expect("a stack"), "frames").iter();
    frames
        .filter_map(|frame| frame["function"].as_str())
        .collect()
}

#[track_caller]
fn expect_function(process: ProcessSummary<'_>, stack: &Value, name: &str) {
    let functions = functions(process, stack);
    let mut names = functions.iter();
    assert!(
        names.any(|function| function.contains(name)),
        "{functions:#?}"
    );
}

/// What tells groups apart but for their stacks, and how much is in them.
type Held<'a> = (&'a str, u64, &'a str, u64, u64);

fn held(group: &Value) -> Held<'_> {
    (
        text(group, "device_kind"),
        unsigned(group, "device_id"),
        text(group, "buffer_type"),
        unsigned(group, "buffers"),
        unsigned(group, "bytes"),
    )
}

fn a_meshs_buffers_leak_once_and_are_part_of_each_chips_peak(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 2, &[]);
    target.obey("alloc DRAM 65536 2048");
    target.obey("alloc DRAM 8192 2048");
    target.obey("alloc DRAM 4096 2048 chip 1");
    let freed = target.obey("alloc L1 16384 2048 chip 1");
    target.obey(&format!("free {}", freed["id"]));
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let leaks = list(process.0, "leaks");
    assert_eq!(
        leaks.iter().map(held).collect::<Vec<_>>(),
        [("mesh", 0, "DRAM", 2, 73_728), ("chip", 1, "DRAM", 1, 4096)]
    );
    for leak in leaks {
        expect_function(process, &leak["stack"], "run_session");
        assert!(unsigned(leak, "oldest_age_ns") >= unsigned(leak, "youngest_age_ns"));
    }
    let peaks = list(process.0, "peaks").iter();
    let peaks: Vec<(&str, u64, &str, u64, usize)> = peaks
        .map(|peak| {
            let groups = list(peak, "groups");
            let bytes: u64 = groups.iter().map(|group| unsigned(group, "bytes")).sum();
            assert_eq!(unsigned(peak, "peak_bytes"), bytes);
            let device = (text(peak, "device_kind"), unsigned(peak, "device_id"));
            let buffer_type = text(peak, "buffer_type");
            (device.0, device.1, buffer_type, bytes, groups.len())
        })
        .collect();
    for expected in [
        ("mesh", 0, "DRAM", 73_728),
        ("chip", 0, "DRAM", 73_728),
        ("chip", 1, "DRAM", 77_824),
        ("chip", 1, "L1", 16_384),
    ] {
        let mut alike = peaks
            .iter()
            .filter(|peak| (peak.0, peak.1, peak.2, peak.3) == expected);
        assert!(alike.next().is_some(), "{expected:?} in {peaks:?}");
    }
    assert_eq!(peaks.len(), 4, "{peaks:?}");
}

fn what_is_freed_at_once_is_temporary_in_every_thread(generation: Generation) {
    let dir = WorkDir::new();
    // Threads allocate between each other's allocation and free: 4 threads, up to 3 others at a time, and
    // whatever a thread does while another one rests.
    let mut target = run(&dir, generation, 1, &["--temporary", "1000000"]);
    target.obey("alloc DRAM 2048 2048");
    target.obey("threads 4 800");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let groups = list(&process.0["temporary"], "groups");
    let total = |buffer_type: &str| {
        let here = groups
            .iter()
            .filter(|group| group["buffer_type"] == buffer_type);
        here.fold((0, 0), |(buffers, bytes), group| {
            // At full speed some stacks are skipped.
            if !group["stack"].is_null() {
                expect_function(process, &group["stack"], "Session::churn");
            }
            (
                buffers + unsigned(group, "buffers"),
                bytes + unsigned(group, "bytes"),
            )
        })
    };
    // Of each eight: one of 8192 bytes in L1; in DRAM two each of 2048, 4096 and 6144, and one of 8192.
    assert_eq!(total("L1"), (400, 400 * 8192));
    assert_eq!(
        total("DRAM"),
        (2800, 400 * (2 * (2048 + 4096 + 6144) + 8192))
    );
    let leaks = list(process.0, "leaks");
    assert_eq!(
        leaks.iter().map(held).collect::<Vec<_>>(),
        [("mesh", 0, "DRAM", 1, 2048)]
    );
}

fn a_program_that_fails_again_and_again_is_kept_within_bounds(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1, &[]);
    target.obey("alloc DRAM 4096 2048");
    for _ in 0..105 {
        target.refuse("oom");
    }
    let done = target.finish();
    done.expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.count("failed_allocations"), 105);
    let failures = list(process.0, "failures");
    assert_eq!(failures.len(), 100);
    for failure in failures {
        assert_eq!(unsigned(failure, "size"), 1 << 40);
        expect_function(process, &failure["stack"], "run_session");
        assert_eq!(unsigned(failure, "live_bytes"), 4096);
        let largest = list(failure, "largest");
        assert_eq!(largest.len(), 1);
        assert_eq!(unsigned(&largest[0], "bytes"), 4096);
        expect_function(process, &largest[0]["stack"], "run_session");
        assert_eq!(failure["rest"], json!({"buffers": 0, "bytes": 0}));
    }
    assert!(failures.is_sorted_by_key(|failure| unsigned(failure, "at_ns")));
    let table = &done.stderr;
    assert!(table.contains("asked for 1.00 TiB of DRAM"), "{table}");
    assert!(table.contains("1.00 TiB  100 times"), "{table}");
}

fn a_leak_of_a_process_that_is_killed_or_goes_on(generation: Generation) {
    // Under `attach` there is no other code; what was there before counts as well.
    let attach = |end: &str| {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 1);
        target.obey("alloc DRAM 65536 2048");
        let tracer = Tracer::attach_to(&dir, target.pid()).arguments(["--fail-on-leak"]);
        let mut tracer = tracer.start_and_see(|| target.expect_unharmed());
        match end {
            "killed" => target.process.signal(rustix::process::Signal::KILL),
            "over" => target.process.close_stdin(),
            _ => tracer.signal(rustix::process::Signal::INT),
        }
        let done = tracer.wait();
        let summary = dir.summary();
        let leaks = list(summary.only_process().0, "leaks").clone();
        assert_eq!(
            leaks.iter().map(held).collect::<Vec<_>>(),
            [("mesh", 0, "DRAM", 1, 65_536)]
        );
        assert_eq!(leaks[0]["before_attach"], true);
        assert!(leaks[0]["oldest_age_ns"].is_null());
        done
    };
    attach("killed").expect_code(8);
    attach("over").expect_code(8);
    // It wasn't over: what it holds is no leak yet.
    let done = attach("running");
    done.expect_code(0);
    assert!(!done.stderr.contains("held until the end"));
}
