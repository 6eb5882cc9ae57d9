//! Who allocated what, held against TT-Metal's own list of buffers, as the workload saw it at each step.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, Finished, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir, for_each_release,
    list, text, unsigned, wait_for,
};

for_each_release!(
    leaks_are_what_tt_metal_lists_by_line,
    leaks_are_as_old_as_python_says,
    peaks_are_what_tt_metal_listed_then,
    temporary_is_what_was_freed_so_soon,
    out_of_memory_is_told_at_once,
    a_leak_fails_the_run_unless_the_command_did,
    cached_programs_are_no_leak,
);

/// Buffers and bytes, by the line of the workload that they were made on.
type Lines = BTreeMap<u64, (u64, u64)>;

/// What the workload says of lines.
#[track_caller]
fn said_lines(lines: &Value) -> Lines {
    let lines = lines.as_object().expect("an object").iter();
    lines
        .map(|(line, held)| {
            let figure = |at: usize| held[at].as_u64().expect("a number");
            (line.parse().expect("a line"), (figure(0), figure(1)))
        })
        .collect()
}

/// The line of the workload's top level that a stack was born on.
#[track_caller]
fn line(process: ProcessSummary<'_>, stack: &Value) -> u64 {
    let stacks = list(process.0, "stacks").iter();
    let mut stacks = stacks.filter(|known| known["id"] == *stack);
    let frames = list(stacks.next().expect("a stack"), "frames");
    let line = frames
        .iter()
        .rfind(|frame| frame["kind"] == "python" && text(frame, "file").ends_with("/reports.py"));
    unsigned(line.expect("a line of the workload"), "line")
}

/// The groups by line.
#[track_caller]
fn lines<'a>(process: ProcessSummary<'_>, groups: impl IntoIterator<Item = &'a Value>) -> Lines {
    let mut lines = Lines::new();
    for group in groups {
        let mut stacks = list(process.0, "stacks").iter();
        let stack = stacks.find(|stack| stack["id"] == group["stack"]);
        assert_eq!(group["origin"], "tensor", "{group}: {stack:#?}");
        let (buffers, bytes) = lines.entry(line(process, &group["stack"])).or_default();
        *buffers += unsigned(group, "buffers");
        *bytes += unsigned(group, "bytes");
    }
    lines
}

#[track_caller]
fn expect_largest_first(groups: &[Value]) {
    let bytes = groups.iter().map(|group| unsigned(group, "bytes"));
    assert!(bytes.clone().is_sorted_by(|a, b| a >= b), "{groups:#?}");
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

    /// Of `reports.py`, to its death.
    fn killed(release: Release, options: &[&str]) -> (Value, Summary) {
        let run = Self::new(release, &["reports.py", "kill"], options);
        run.done.expect_code(128 + 9);
        let said = run.done.text();
        let last = said.lines().last().expect("a line");
        let summary = run.dir.summary();
        summary.expect_complete().only_process().expect_balanced();
        (serde_json::from_str(last).expect("JSON"), summary)
    }
}

fn leaks_are_what_tt_metal_lists_by_line(release: Release) {
    let (said, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    let leaks = list(process.0, "leaks");
    expect_largest_first(leaks);
    for name in ["DRAM", "L1"] {
        let here = leaks.iter().filter(|leak| leak["buffer_type"] == name);
        let expected = said_lines(&said["live"][name]);
        assert_eq!(lines(process, here.clone()), expected);
        // In one group all that was made by one stack: also what a loop made.
        assert_eq!(here.count(), expected.len());
    }
    assert!(
        said_lines(&said["live"]["DRAM"])
            .values()
            .any(|(buffers, _)| *buffers == 4)
    );
}

/// By Python's clock, which is the trace's: the difference of two ages is that of two births.
fn leaks_are_as_old_as_python_says(release: Release) {
    let (said, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    let now = unsigned(&said, "now");
    let mut oldest: Vec<(u64, u64, u64)> = Vec::new();
    for leak in list(process.0, "leaks") {
        let line = line(process, &leak["stack"]);
        let mut births: Vec<&Value> = list(&said, "births")
            .iter()
            .filter(|birth| unsigned(birth, "line") == line)
            .collect();
        births.sort_by_key(|birth| unsigned(birth, "number"));
        let (first, last) = (births[0], births[births.len() - 1]);
        let ages = [
            unsigned(leak, "oldest_age_ns"),
            unsigned(leak, "youngest_age_ns"),
        ];
        assert_eq!(ages[0] == ages[1], births.len() == 1);
        for (age, birth) in ages.into_iter().zip([first, last]) {
            assert!(age >= now - unsigned(birth, "latest"), "{leak}: {birth}");
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
    let (said, summary) = Run::killed(release, &[]);
    let process = summary.only_process();
    let peaks = list(process.0, "peaks");
    // Of the chip, and of the mesh that it is all of.
    assert_eq!(peaks.len(), 4);
    let mut at = BTreeMap::new();
    for peak in peaks {
        let name = text(peak, "buffer_type");
        let expected = &said["peaks"][name];
        assert_eq!(unsigned(peak, "peak_bytes"), unsigned(expected, "bytes"));
        let groups = list(peak, "groups");
        assert_eq!(lines(process, groups), said_lines(&expected["lines"]));
        expect_largest_first(groups);
        at.insert(name, unsigned(peak, "peak_at_ns"));
    }
    // It was then that it was first reached.
    let time = |name: &str, end: &str| unsigned(&said["peaks"][name], end);
    let later = at["L1"] - at["DRAM"];
    assert!(later >= time("L1", "earliest") - time("DRAM", "latest"));
    assert!(later <= time("L1", "latest") - time("DRAM", "earliest"));
}

fn temporary_is_what_was_freed_so_soon(release: Release) {
    for (options, within) in [
        (&["--temporary", "0"][..], 0),
        (&[], 1),
        (&["--temporary", "3"], 3),
    ] {
        let (said, summary) = Run::killed(release, options);
        let process = summary.only_process();
        assert_eq!(process.0["temporary"]["within"], within);
        let mut expected = Lines::new();
        for freed in list(&said, "freed") {
            if unsigned(freed, "others") <= within {
                let (buffers, bytes) = expected.entry(unsigned(freed, "line")).or_default();
                *buffers += 1;
                *bytes += unsigned(freed, "bytes");
            }
        }
        let freed = list(&said, "freed").len();
        assert_eq!(
            expected.len(),
            [2, 4, 4, freed][usize::try_from(within).expect("small")]
        );
        let groups = list(&process.0["temporary"], "groups");
        assert_eq!(lines(process, groups), expected, "within {within}");
        expect_largest_first(groups);
    }
}

/// A size as the terminal has it, of at least a KiB.
fn human(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = units
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0)
        .expect("a KiB or more");
    let hundredths = (bytes * 100 + (1 << (shift - 1))) >> shift;
    format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
}

/// The bytes that TT-Metal says were asked for.
#[track_caller]
fn asked(said: &Value) -> u64 {
    let words: Vec<&str> = text(said, "said").split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "B").expect("bytes");
    assert_eq!(words[unit + 1], text(said, "buffer_type"));
    words[unit - 1].parse().expect("a number")
}

fn out_of_memory_is_told_at_once(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("reports.py");
    workload.arg("wait");
    let mut tracer = Tracer::run(&dir).traced(&workload).start();
    let mut failures = Vec::new();
    for _ in 0..2 {
        let said: Value = serde_json::from_str(&tracer.line()).expect("JSON");
        let held = said_lines(&said["lines"]);
        let buffers: u64 = held.values().map(|(buffers, _)| buffers).sum();
        let bytes: u64 = held.values().map(|(_, bytes)| bytes).sum();
        let line = format!(
            "out of memory: python (pid {}) asked for {} of {} on mesh 1, where {buffers} buffers held {}",
            said["pid"],
            human(asked(&said)),
            text(&said, "buffer_type"),
            human(bytes),
        );
        // The workload waits: it isn't over that it comes.
        wait_for(&line, || tracer.stderr().contains(&line));
        assert!(tracer.is_running());
        tracer.send("on");
        failures.push((said, held, buffers, bytes));
    }
    tracer.finish().expect_code(128 + 9);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.count("failed_allocations"), 2);
    let told = list(process.0, "failures");
    assert_eq!(told.len(), failures.len());
    for (failure, (said, held, buffers, bytes)) in told.iter().zip(failures) {
        assert_eq!(unsigned(failure, "size"), asked(&said));
        assert_eq!(failure["buffer_type"], said["buffer_type"]);
        assert_eq!(failure["origin"], "tensor");
        assert_eq!(line(process, &failure["stack"]), unsigned(&said, "line"));
        assert_eq!(unsigned(failure, "live_buffers"), buffers);
        assert_eq!(unsigned(failure, "live_bytes"), bytes);
        // The ten largest, and the others in sum.
        let largest = list(failure, "largest");
        assert_eq!(largest.len(), held.len().min(10));
        expect_largest_first(largest);
        let shown = lines(process, largest);
        let (mut other_buffers, mut other_bytes) = (0, 0);
        for (line, tally) in &held {
            if let Some(shown) = shown.get(line) {
                assert_eq!(shown, tally);
            } else {
                other_buffers += tally.0;
                other_bytes += tally.1;
                assert!(shown.values().all(|(_, bytes)| *bytes >= tally.1));
            }
        }
        let rest = json!({"buffers": other_buffers, "bytes": other_bytes});
        assert_eq!(failure["rest"], rest);
    }
}

fn a_leak_fails_the_run_unless_the_command_did(release: Release) {
    for (workload, option, code) in [
        (&["exit", "0"][..], "--fail-on-leak", 8),
        // It holds some 3.6 MiB.
        (&["exit", "0"], "--fail-on-leak=3MiB", 8),
        (&["exit", "0"], "--fail-on-leak=4MiB", 0),
        (&["exit", "5"], "--fail-on-leak", 5),
        (&["freed"], "--fail-on-leak", 0),
        (&["close"], "--fail-on-leak", 0),
    ] {
        let words = [&["reports.py"], workload].concat();
        let run = Run::new(release, &words, &[option]);
        run.done.expect_code(code);
        let says = run.done.stderr.contains("held until the end: python (pid ");
        assert_eq!(says, code == 8 || code == 5, "{}", run.done.stderr);
    }
}

fn cached_programs_are_no_leak(release: Release) {
    // Two programs are cached; without stacks nobody knows what the memory is for.
    let phase = ["system_buffers.py", "1x1", "freed", "binaries"];
    for (stacks, code) in [("full", 0), ("none", 8)] {
        let options = ["--stacks", stacks, "--fail-on-leak"];
        let run = Run::new(release, &[&phase[..], &["exit"]].concat(), &options);
        let first = run.done.text();
        let first: Value =
            serde_json::from_str(first.lines().next().expect("a line")).expect("JSON");
        let code = if first["gathers"] == true { code } else { 0 };
        run.done.expect_code(code);
    }
}
