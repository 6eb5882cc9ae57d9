//! Leaks, peaks, temporary buffers and failed allocations by stack, compared with TT-Metal's own list of buffers, which
//! the workload reads after each step.

use std::collections::BTreeMap;

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Count, Finished, Group, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir,
    for_each_release, human_size, list, parsed, text, unsigned, wait_for,
};

for_each_release!(
    leaks_are_what_tt_metal_lists_by_line,
    ages_of_leaks_agree_with_pythons_clock,
    peaks_are_what_tt_metal_listed_then,
    temporary_buffers_are_those_that_were_freed_so_soon,
    out_of_memory_is_reported_at_once,
    a_leak_fails_the_run_unless_the_command_did,
    cached_programs_are_no_leak,
);

/// Buffers and bytes, by the line of the workload that allocated them.
type Lines = BTreeMap<u64, (u64, u64)>;

/// Buffers and bytes by line, as the workload reports them.
#[track_caller]
fn reported_lines(lines: &Value) -> Lines {
    let lines = lines.as_object().expect("an object").iter();
    lines
        .map(|(line, held)| {
            let figure = |at: usize| held[at].as_u64().expect("a number");
            (line.parse().expect("a line"), (figure(0), figure(1)))
        })
        .collect()
}

/// The line of the workload's top level that the allocation with this stack was made on.
#[track_caller]
fn line(process: &ProcessSummary, stack: Option<u64>) -> u64 {
    process.stack(stack).outermost_line("/reports.py")
}

/// The groups by line.
#[track_caller]
fn lines<'a>(process: &ProcessSummary, groups: impl IntoIterator<Item = &'a Group>) -> Lines {
    let mut lines = Lines::new();
    for group in groups {
        let stack = process.stack(group.stack);
        assert_eq!(group.origin, "tensor", "{group:?}: {stack:#?}");
        let (buffers, bytes) = lines.entry(line(process, group.stack)).or_default();
        *buffers += group.buffers;
        *bytes += group.bytes;
    }
    lines
}

#[track_caller]
fn expect_largest_first<'a>(groups: impl IntoIterator<Item = &'a Group>) {
    let bytes: Vec<u64> = groups.into_iter().map(|group| group.bytes).collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
}

/// An ended run of a workload on one chip.
struct Run {
    dir: WorkDir,
    done: Finished,
}

impl Run {
    fn new(release: Release, workload: &[&str], options: &[&str]) -> Self {
        let dir = WorkDir::new();
        let cluster = Cluster::n150(&dir);
        let mut command = Ttnn::new(release, &cluster, &dir).workload(workload[0]);
        command.args(&workload[1..]);
        let done = Tracer::run(&dir)
            .arguments(options)
            .traced(&command)
            .start()
            .finish();
        Self { dir, done }
    }

    /// A run of `reports.py` until it kills itself, with the workload's report.
    fn killed(release: Release, options: &[&str]) -> (Value, Summary) {
        let run = Self::new(release, &["reports.py", "kill"], options);
        run.done.expect_code(128 + 9);
        let printed = run.done.text();
        let last = printed.lines().last().expect("a line");
        let summary = run.dir.summary();
        summary.expect_complete().only_process().expect_balanced();
        (parsed(last), summary)
    }
}

fn leaks_are_what_tt_metal_lists_by_line(release: Release) {
    let (report, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    expect_largest_first(process.leaks.iter().map(|leak| &leak.placed.group));
    for name in ["DRAM", "L1"] {
        let leaks = process.leaks.iter().map(|leak| &leak.placed);
        let here = leaks
            .filter(|placed| placed.buffer_type == name)
            .map(|placed| &placed.group);
        let expected = reported_lines(&report["live"][name]);
        assert_eq!(lines(process, here.clone()), expected);
        // All buffers of one stack are one group, also those that a loop allocates.
        assert_eq!(here.count(), expected.len());
    }
    assert!(
        reported_lines(&report["live"]["DRAM"])
            .values()
            .any(|(buffers, _)| *buffers == 4)
    );
}

/// Python's clock is the trace's, so the ages of two leaks differ as the times of their allocations do.
fn ages_of_leaks_agree_with_pythons_clock(release: Release) {
    let (report, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    let now = unsigned(&report, "now");
    let mut oldest: Vec<(u64, u64, u64)> = Vec::new();
    for leak in &process.leaks {
        let line = line(process, leak.placed.group.stack);
        let mut allocations: Vec<&Value> = list(&report, "allocations")
            .iter()
            .filter(|allocation| unsigned(allocation, "line") == line)
            .collect();
        allocations.sort_by_key(|allocation| unsigned(allocation, "number"));
        let (first, last) = (allocations[0], allocations[allocations.len() - 1]);
        let ages = [leak.oldest_age_ns, leak.youngest_age_ns].map(|age| age.expect("an age"));
        assert_eq!(ages[0] == ages[1], allocations.len() == 1);
        for (age, allocation) in ages.into_iter().zip([first, last]) {
            let least = now - unsigned(allocation, "latest");
            assert!(age >= least, "{leak:?}: {allocation}");
        }
        let (earliest, latest) = (unsigned(first, "earliest"), unsigned(first, "latest"));
        oldest.push((earliest, latest, ages[0]));
    }
    oldest.sort_unstable();
    assert!(oldest.len() > 10);
    for pair in oldest.windows(2) {
        let [
            (earliest, latest, age),
            (next_earliest, next_latest, next_age),
        ] = *pair
        else {
            unreachable!("windows of two");
        };
        assert!(age > next_age, "{pair:?}");
        let younger = age - next_age;
        assert!(younger >= next_earliest - latest, "{pair:?}");
        assert!(younger <= next_latest - earliest, "{pair:?}");
    }
}

fn peaks_are_what_tt_metal_listed_then(release: Release) {
    let (report, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    // DRAM and L1 of the chip, and of the mesh, which consists of this chip alone.
    assert_eq!(process.peaks.len(), 4);
    let mut at = BTreeMap::new();
    for peak in &process.peaks {
        let name = peak.buffer_type.as_str();
        let expected = &report["peaks"][name];
        assert_eq!(peak.peak_bytes, unsigned(expected, "bytes"));
        let groups = &peak.groups;
        assert_eq!(lines(process, groups), reported_lines(&expected["lines"]));
        expect_largest_first(groups);
        at.insert(name, peak.peak_at_ns);
    }
    // The time of a peak is when it was first reached.
    let time = |name: &str, end: &str| unsigned(&report["peaks"][name], end);
    let later = at["L1"] - at["DRAM"];
    assert!(later >= time("L1", "earliest") - time("DRAM", "latest"));
    assert!(later <= time("L1", "latest") - time("DRAM", "earliest"));
}

fn temporary_buffers_are_those_that_were_freed_so_soon(release: Release) {
    for (options, within) in [
        (&["--temporary", "0"][..], 0),
        (&[], 1),
        (&["--temporary", "3"], 3),
    ] {
        let (report, summary) = Run::killed(release, options);
        let process = summary.only_process();
        assert_eq!(process.temporary.within, within);
        let mut expected = Lines::new();
        for freed in list(&report, "freed") {
            if unsigned(freed, "others") <= within {
                let (buffers, bytes) = expected.entry(unsigned(freed, "line")).or_default();
                *buffers += 1;
                *bytes += unsigned(freed, "bytes");
            }
        }
        let freed = list(&report, "freed").len();
        assert_eq!(
            expected.len(),
            [2, 4, 4, freed][usize::try_from(within).expect("small")]
        );
        let groups = process.temporary.groups.iter();
        let groups = groups.map(|placed| &placed.group);
        assert_eq!(lines(process, groups.clone()), expected, "within {within}");
        expect_largest_first(groups);
    }
}

/// The number of bytes that the failed allocation asked for, from TT-Metal's message.
#[track_caller]
fn asked(report: &Value) -> u64 {
    let words: Vec<&str> = text(report, "message").split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "B").expect("bytes");
    assert_eq!(words[unit + 1], text(report, "buffer_type"));
    words[unit - 1].parse().expect("a number")
}

fn out_of_memory_is_reported_at_once(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("reports.py");
    workload.arg("wait");
    let mut tracer = Tracer::run(&dir).traced(&workload).start();
    let mut failures = Vec::new();
    for _ in 0..2 {
        let report = parsed(&tracer.line());
        let held = reported_lines(&report["lines"]);
        let buffers: u64 = held.values().map(|(buffers, _)| buffers).sum();
        let bytes: u64 = held.values().map(|(_, bytes)| bytes).sum();
        let line = format!(
            "out of memory: python (pid {}) asked for {} of {} on mesh 1, where {buffers} buffers held {}",
            report["pid"],
            human_size(asked(&report)),
            text(&report, "buffer_type"),
            human_size(bytes),
        );
        // The message must come while the workload waits, not at its end.
        wait_for(&line, || tracer.stderr().contains(&line));
        assert!(tracer.is_running());
        tracer.send("on");
        failures.push((report, held, buffers, bytes));
    }
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.failed_allocations, 2);
    assert_eq!(process.failures.len(), failures.len());
    for (failure, (report, held, buffers, bytes)) in process.failures.iter().zip(failures) {
        assert_eq!(failure.size, asked(&report));
        assert_eq!(failure.buffer_type, text(&report, "buffer_type"));
        assert_eq!(failure.origin, "tensor");
        assert_eq!(line(process, failure.stack), unsigned(&report, "line"));
        assert_eq!(failure.live_buffers, buffers);
        assert_eq!(failure.live_bytes, bytes);
        // The ten largest groups are listed, the others only as a sum.
        let largest = &failure.largest;
        assert_eq!(largest.len(), held.len().min(10));
        expect_largest_first(largest);
        let shown = lines(process, largest);
        let mut rest = Count {
            buffers: 0,
            bytes: 0,
        };
        for (line, held) in &held {
            if let Some(shown) = shown.get(line) {
                assert_eq!(shown, held);
            } else {
                rest.buffers += held.0;
                rest.bytes += held.1;
                assert!(shown.values().all(|(_, bytes)| *bytes >= held.1));
            }
        }
        assert_eq!(failure.rest, rest);
    }
}

fn a_leak_fails_the_run_unless_the_command_did(release: Release) {
    for (workload, option, code) in [
        (&["exit", "0"][..], "--fail-on-leak", 8),
        // The workload leaks some 3.6 MiB.
        (&["exit", "0"], "--fail-on-leak=3MiB", 8),
        (&["exit", "0"], "--fail-on-leak=4MiB", 0),
        (&["exit", "5"], "--fail-on-leak", 5),
        (&["freed"], "--fail-on-leak", 0),
        (&["close"], "--fail-on-leak", 0),
    ] {
        let words = [&["reports.py"], workload].concat();
        let run = Run::new(release, &words, &[option]);
        run.done.expect_code(code);
        let is_reported = run.done.stderr.contains("held until the end: python (pid ");
        assert_eq!(is_reported, code == 8 || code == 5, "{}", run.done.stderr);
    }
}

fn cached_programs_are_no_leak(release: Release) {
    // Two programs are cached. Without stacks the tracer can't know that their memory is no leak.
    let phase = ["system_buffers.py", "1x1", "freed", "binaries"];
    for (stacks, code) in [("full", 0), ("none", 8)] {
        let options = ["--stacks", stacks, "--fail-on-leak"];
        let run = Run::new(release, &[&phase[..], &["exit"]].concat(), &options);
        let first = run.done.text();
        let first = parsed(first.lines().next().expect("a line"));
        let code = if first["gathers"] == true { code } else { 0 };
        run.done.expect_code(code);
    }
}
