//! Changes since a mark and since an earlier trace (`--baseline`), compared with TT-Metal's own lists of buffers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Count, Finished, FrameKind, ProcessSummary, Release, Tracer, Ttnn, WorkDir,
    events_named, for_each_release, parsed,
};

for_each_release!(
    changes_since_each_mark_are_those_of_tt_metals_lists,
    allocations_name_stacks_that_the_summary_has,
    changes_since_a_baseline_are_those_of_tt_metals_lists,
    a_file_that_is_no_baseline_is_refused_before_anything_runs,
    with_a_baseline_a_leak_is_what_exceeds_it,
);

/// Buffers and bytes by type of memory and line of the workload.
type Lines = BTreeMap<(String, u64), (i64, i64)>;

/// TT-Metal's list, which the workload prints.
#[track_caller]
fn listed(answer: &Value) -> Lines {
    let types = answer["live"].as_object().expect("an object").iter();
    types
        .flat_map(|(memory, lines)| {
            let lines = lines.as_object().expect("an object").iter();
            lines.map(|(line, held)| {
                let figure = |at: usize| held[at].as_i64().expect("a number");
                let line = line.parse().expect("a line");
                ((memory.clone(), line), (figure(0), figure(1)))
            })
        })
        .collect()
}

/// The difference between two lists: positive for what there is more of, negative for what there is less of.
fn difference(then: &Lines, now: &Lines) -> Lines {
    let keys: BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let of = |lines: &Lines, key| lines.get(key).copied().unwrap_or_default();
    keys.into_iter()
        .map(|key| {
            let (then, now) = (of(then, key), of(now, key));
            (key.clone(), (now.0 - then.0, now.1 - then.1))
        })
        .filter(|(_, difference)| *difference != (0, 0))
        .collect()
}

/// The line of the workload's top level that the allocation with this stack was made on.
#[track_caller]
fn line(process: &ProcessSummary, stack: Option<u64>) -> u64 {
    let mut frames = process.stack(stack).frames.iter();
    let frame = frames.rfind(|frame| frame.kind == FrameKind::Python);
    let frame = frame.expect("a Python frame");
    frame.line.expect("a line")
}

/// The same for the stack that an event names.
#[track_caller]
fn line_of_event(process: &ProcessSummary, event: &Value) -> u64 {
    line(process, event["stack"].as_u64())
}

/// A small number with a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("a small number")
}

/// A workload on one chip, under `tt-memtrace run` with these options.
struct Run {
    dir: WorkDir,
    cluster: Cluster,
    release: Release,
}

impl Run {
    fn new(release: Release) -> Self {
        let dir = WorkDir::new();
        let cluster = Cluster::n150(&dir);
        Self {
            dir,
            cluster,
            release,
        }
    }

    fn finish(&self, workload: &[&str], options: &[&str]) -> Finished {
        let mut command = Ttnn::new(self.release, &self.cluster, &self.dir).workload(workload[0]);
        command.args(&workload[1..]);
        let tracer = Tracer::run(&self.dir).arguments(options).traced(&command);
        tracer.start().finish()
    }

    /// Keeps the summary as the baseline of a later trace.
    fn keep(&self) -> String {
        let kept = self.dir.path().join("base.json");
        std::fs::rename(self.dir.summary_path(), &kept).expect("a summary");
        kept.display().to_string()
    }
}

fn changes_since_each_mark_are_those_of_tt_metals_lists(release: Release) {
    let run = Run::new(release);
    let workload = Ttnn::new(release, &run.cluster, &run.dir).workload("marks.py");
    let mut tracer = Tracer::run(&run.dir).traced(&workload).start();
    let pid = tracer.pid().to_string();
    let mut steps = Vec::new();
    let mut answers = Vec::new();
    for number in 1..=4 {
        steps.push(listed(&parsed(&tracer.line())));
        let name = format!("step {number}");
        let marked = Tracer::bare(&run.dir, &["mark", "--pid", &pid, &name]);
        let marked = marked.start().finish();
        marked.expect_code(0);
        answers.push(marked.text());
        tracer.send("on");
    }
    tracer.finish().expect_code(128 + 9);

    let summary = run.dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    let last = &steps[3];
    assert_eq!(process.since_marks.len(), 4);
    for (since, then) in process.since_marks.iter().zip(&steps) {
        let mut traced = Lines::new();
        for (groups, sign) in [(&since.new, 1), (&since.gone, -1)] {
            for placed in groups {
                let group = &placed.group;
                assert_eq!(group.origin, "tensor");
                let key = (placed.buffer_type.clone(), line(process, group.stack));
                let (buffers, bytes) = traced.entry(key).or_default();
                *buffers += sign * signed(group.buffers);
                *bytes += sign * signed(group.bytes);
            }
        }
        assert_eq!(traced, difference(then, last));
        for memory in &since.memory {
            let total = |lines: &Lines| {
                let lines = lines.iter();
                let lines = lines.filter(|((name, _), _)| memory.buffer_type == *name);
                lines.fold((0, 0), |sum, (_, held)| (sum.0 + held.0, sum.1 + held.1))
            };
            let figures = |count: Count| (signed(count.buffers), signed(count.bytes));
            assert_eq!(figures(memory.then), total(then), "{memory:?}");
            assert_eq!(figures(memory.now), total(last), "{memory:?}");
        }
    }
    // Each mark but the first reports at once what has changed since the one before it, by line.
    assert_eq!(answers[0].lines().count(), 1, "{}", answers[0]);
    for (number, answer) in (1..).zip(&answers).skip(1) {
        let changes = difference(&steps[number - 2], &steps[number - 1]);
        let rows: Vec<&str> = answer
            .lines()
            .filter(|line| line.contains("marks.py"))
            .collect();
        assert_eq!(rows.len(), changes.len(), "{answer}");
        for ((memory, line), (buffers, _)) in &changes {
            let sign = if *buffers > 0 { '+' } else { '−' };
            let row = rows.iter().find(|row| {
                row.contains(&format!("from marks.py:{line} in"))
                    && row.contains(&format!(" {memory},"))
            });
            let row = row.unwrap_or_else(|| panic!("no line {line}: {answer}"));
            let count = format!(" {sign}{} buffer", buffers.abs());
            assert!(row.contains(&count), "{count}: {row}");
        }
    }
}

fn allocations_name_stacks_that_the_summary_has(release: Release) {
    let run = Run::new(release);
    run.finish(&["baseline.py", "peak", "exit"], &[])
        .expect_code(0);
    let events = run.dir.events();
    let summary = run.dir.summary();
    let process = summary.expect_complete().only_process();
    let allocated = events_named(&events, "allocate");
    let lines: Vec<u64> = allocated
        .iter()
        .map(|event| line_of_event(process, event))
        .collect();
    // That includes a buffer that was freed again, whose stack no other part of the summary names.
    assert_eq!(lines.len(), 6);
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 4);
    for created in events_named(&events, "create") {
        line_of_event(process, created);
    }
    for freed in events_named(&events, "deallocate") {
        assert_eq!(freed.get("stack"), None);
    }

    let without = Run::new(release);
    let done = without.finish(&["baseline.py", "exit"], &["--stacks", "none"]);
    done.expect_code(0);
    for event in events_named(&without.dir.events(), "allocate") {
        assert_eq!(event.get("stack"), Some(&Value::Null));
    }
}

fn changes_since_a_baseline_are_those_of_tt_metals_lists(release: Release) {
    let run = Run::new(release);
    let then = run.finish(&["baseline.py"], &[]);
    let then = listed(&parsed(then.text().trim()));
    let base = run.keep();
    // The same program, as a test that runs again after a change of the code.
    for words in [&[][..], &["more", "less"], &["more", "peak"]] {
        let done = run.finish(&[&["baseline.py"], words].concat(), &["--baseline", &base]);
        let now = listed(&parsed(done.text().trim()));
        let summary = run.dir.summary();
        let process = summary.expect_complete().only_process();
        let change = summary.change.as_ref().expect("a change");
        let [change] = &change.processes[..] else {
            panic!("not exactly one process: {change:?}");
        };
        assert!(change.by_stack);
        assert_eq!(change.pid, Some(process.pid));

        let mut traced = Lines::new();
        for group in &change.live {
            let label = &group.frame_label;
            let (_, caller) = label.split_once("from baseline.py:").expect("a caller");
            let number = caller.split(' ').next().expect("a line");
            let number: u64 = number.parse().expect("a number");
            if group.stack.is_some() {
                assert_eq!(line(process, group.stack), number);
            }
            let difference = (group.difference.buffers, group.difference.bytes);
            traced.insert((group.buffer_type.clone(), number), difference);
        }
        assert_eq!(traced, difference(&then, &now), "{words:?}");
        let sections = [
            "Live: more (+) and less (−)",
            "At the peaks: more (+) and less (−)",
        ];
        let shown = sections.map(|title| done.stderr.contains(title));
        assert_eq!(shown, [!words.is_empty(); 2], "{}", done.stderr);
        let in_l1 = change.peaks.iter().any(|group| group.buffer_type == "L1");
        assert_eq!(in_l1, words.contains(&"peak"));
    }
}

fn a_file_that_is_no_baseline_is_refused_before_anything_runs(release: Release) {
    let run = Run::new(release);
    let file = run.dir.path().join("base.json");
    let base = file.display().to_string();
    for (content, message) in [
        (None, "cannot read"),
        (Some("not JSON"), "is no JSON"),
        (
            Some("{\"schema_version\": 1}"),
            "is no summary of tt-memtrace",
        ),
        (
            Some("{\"schema_version\": 7}"),
            "is a summary of version 7, and only 1 is known",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&file, content).expect("the test's own directory");
        }
        let done = run.finish(&["baseline.py"], &["--baseline", &base]);
        done.expect_code(2);
        assert!(done.stderr.contains(message), "{}", done.stderr);
        assert_eq!(done.text(), "");
        run.dir.expect_no_summary();
    }
}

fn with_a_baseline_a_leak_is_what_exceeds_it(release: Release) {
    let run = Run::new(release);
    // The baseline: a run with leaks.
    let done = run.finish(&["baseline.py", "exit"], &["--fail-on-leak"]);
    done.expect_code(8);
    let base = run.keep();
    for (words, option, code) in [
        (&["exit"][..], "--fail-on-leak", 0),
        (&["exit", "less"], "--fail-on-leak", 0),
        (&["exit", "more"], "--fail-on-leak", 8),
        // `more` leaks 1.125 MiB more.
        (&["exit", "more"], "--fail-on-leak=2MiB", 0),
    ] {
        let workload = [&["baseline.py"], words].concat();
        let done = run.finish(&workload, &["--baseline", &base, option]);
        done.expect_code(code);
        let message = format!("1.12 MiB, beyond {base}");
        assert_eq!(done.stderr.contains(&message), code == 8, "{}", done.stderr);
    }
}
