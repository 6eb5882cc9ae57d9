//! What has changed since a mark and against an earlier trace, held against TT-Metal's own lists of
//! buffers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Finished, ProcessSummary, Release, Tracer, Ttnn, WorkDir, events_named,
    for_each_release, list, text, unsigned,
};

for_each_release!(
    since_each_mark_is_what_tt_metal_lists_more_and_less,
    births_name_stacks_that_the_summary_has,
    against_a_baseline_is_what_tt_metal_lists_more_and_less,
    a_baseline_that_is_none_is_refused_before_anything_runs,
    with_a_baseline_a_leak_is_what_exceeds_it,
);

/// Buffers and bytes by type of memory and line of the workload.
type Lines = BTreeMap<(String, u64), (i64, i64)>;

#[track_caller]
fn said(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"))
}

/// What the workload says of TT-Metal's list.
#[track_caller]
fn listed(said: &Value) -> Lines {
    let types = said["live"].as_object().expect("an object").iter();
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

/// What there is more of, and with the sign turned what there is less of.
fn difference(then: &Lines, now: &Lines) -> Lines {
    let keys: BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let of = |lines: &Lines, key| lines.get(key).copied().unwrap_or_default();
    keys.into_iter()
        .map(|key| {
            let (then, now) = (of(then, key), of(now, key));
            (key.clone(), (now.0 - then.0, now.1 - then.1))
        })
        .filter(|(_, apart)| *apart != (0, 0))
        .collect()
}

/// The line of the workload's top level that a stack was born on.
#[track_caller]
fn line(process: ProcessSummary<'_>, stack: &Value) -> u64 {
    let mut stacks = list(process.0, "stacks").iter();
    let stack = stacks.find(|known| known["id"] == *stack);
    let mut frames = list(stack.expect("a stack"), "frames").iter();
    let frame = frames.rfind(|frame| frame["kind"] == "python");
    unsigned(frame.expect("a line of the workload"), "line")
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

    /// Keeps the summary for a later trace.
    fn keep(&self) -> String {
        let kept = self.dir.path().join("base.json");
        std::fs::rename(self.dir.summary_path(), &kept).expect("a summary");
        kept.display().to_string()
    }
}

fn since_each_mark_is_what_tt_metal_lists_more_and_less(release: Release) {
    let run = Run::new(release);
    let workload = Ttnn::new(release, &run.cluster, &run.dir).workload("marks.py");
    let mut tracer = Tracer::run(&run.dir).traced(&workload).start();
    let pid = tracer.pid().to_string();
    let mut steps = Vec::new();
    let mut answers = Vec::new();
    for number in 1..=4 {
        let step = said(&tracer.line());
        steps.push(listed(&step));
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
    assert_eq!(list(process.0, "since_marks").len(), 4);
    for (since, then) in list(process.0, "since_marks").iter().zip(&steps) {
        let mut told = Lines::new();
        for (which, sign) in [("new", 1), ("gone", -1)] {
            for group in list(since, which) {
                assert_eq!(group["origin"], "tensor");
                let memory = text(group, "buffer_type").to_owned();
                let at = told
                    .entry((memory, line(process, &group["stack"])))
                    .or_default();
                at.0 += sign * i64::try_from(unsigned(group, "buffers")).expect("few");
                at.1 += sign * i64::try_from(unsigned(group, "bytes")).expect("few");
            }
        }
        assert_eq!(told, difference(then, last));
        for memory in list(since, "memory") {
            let of = |lines: &Lines| {
                let lines = lines.iter();
                let lines = lines.filter(|((name, _), _)| memory["buffer_type"] == **name);
                lines.fold((0, 0), |sum, (_, held)| (sum.0 + held.0, sum.1 + held.1))
            };
            for (which, lines) in [("then", then), ("now", last)] {
                let (buffers, bytes) = of(lines);
                assert_eq!(memory[which]["buffers"], buffers, "{which}: {memory}");
                assert_eq!(memory[which]["bytes"], bytes, "{which}: {memory}");
            }
        }
    }
    // Each mark tells at once what has changed since the one before, by line.
    assert_eq!(answers[0].lines().count(), 1, "{}", answers[0]);
    for (number, answer) in (1..).zip(&answers).skip(1) {
        let apart = difference(&steps[number - 2], &steps[number - 1]);
        let rows: Vec<&str> = answer
            .lines()
            .filter(|line| line.contains("marks.py"))
            .collect();
        assert_eq!(rows.len(), apart.len(), "{answer}");
        for ((memory, line), (buffers, _)) in &apart {
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

fn births_name_stacks_that_the_summary_has(release: Release) {
    let run = Run::new(release);
    run.finish(&["baseline.py", "peak", "exit"], &[])
        .expect_code(0);
    let events = run.dir.events();
    let summary = run.dir.summary();
    let process = summary.expect_complete().only_process();
    let allocated = events_named(&events, "allocate");
    let lines: Vec<u64> = allocated
        .iter()
        .map(|event| line(process, &event["stack"]))
        .collect();
    // Also of what was gone again: no report of the summary's names that stack.
    assert_eq!(lines.len(), 6);
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 4);
    for created in events_named(&events, "create") {
        line(process, &created["stack"]);
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

fn against_a_baseline_is_what_tt_metal_lists_more_and_less(release: Release) {
    let run = Run::new(release);
    let then = run.finish(&["baseline.py"], &[]);
    let then = listed(&said(then.text().trim()));
    let base = run.keep();
    // The same command line, as in a test that is run again after a change.
    for words in [&[][..], &["more", "less"], &["more", "peak"]] {
        let done = run.finish(&[&["baseline.py"], words].concat(), &["--baseline", &base]);
        let now = listed(&said(done.text().trim()));
        let summary = run.dir.summary();
        let process = summary.expect_complete().only_process();
        let changes = list(&summary.0["change"], "processes");
        let [change] = changes else {
            panic!("one process: {changes:?}");
        };
        assert_eq!(change["by_stack"], true);
        assert_eq!(change["pid"], process.0["pid"]);

        let mut told = Lines::new();
        for group in list(change, "live") {
            let place = text(group, "place");
            let (_, at) = place.split_once("from baseline.py:").expect("a caller");
            let line_told = at
                .split(' ')
                .next()
                .expect("a line")
                .parse()
                .expect("a number");
            if !group["stack"].is_null() {
                assert_eq!(line(process, &group["stack"]), line_told);
            }
            let figure = |name: &str| group["difference"][name].as_i64().expect("a number");
            let key = (text(group, "buffer_type").to_owned(), line_told);
            told.insert(key, (figure("buffers"), figure("bytes")));
        }
        assert_eq!(told, difference(&then, &now), "{words:?}");
        let sections = [
            "Live: more (+) and less (−)",
            "At the peaks: more (+) and less (−)",
        ];
        let shown = sections.map(|title| done.stderr.contains(title));
        assert_eq!(shown, [!words.is_empty(); 2], "{}", done.stderr);
        let of_peak = list(change, "peaks")
            .iter()
            .any(|group| group["buffer_type"] == "L1");
        assert_eq!(of_peak, words.contains(&"peak"));
    }
}

fn a_baseline_that_is_none_is_refused_before_anything_runs(release: Release) {
    let run = Run::new(release);
    let file = run.dir.path().join("base.json");
    let base = file.display().to_string();
    for (content, says) in [
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
            std::fs::write(&file, content).expect("one's own directory");
        }
        let done = run.finish(&["baseline.py"], &["--baseline", &base]);
        done.expect_code(2);
        assert!(done.stderr.contains(says), "{}", done.stderr);
        assert_eq!(done.text(), "");
        run.dir.expect_no_summary();
    }
}

fn with_a_baseline_a_leak_is_what_exceeds_it(release: Release) {
    let run = Run::new(release);
    // It leaks, and that is known.
    let done = run.finish(&["baseline.py", "exit"], &["--fail-on-leak"]);
    done.expect_code(8);
    let base = run.keep();
    for (words, option, code) in [
        (&["exit"][..], "--fail-on-leak", 0),
        (&["exit", "less"], "--fail-on-leak", 0),
        (&["exit", "more"], "--fail-on-leak", 8),
        // One more of 1.125 MiB.
        (&["exit", "more"], "--fail-on-leak=2MiB", 0),
    ] {
        let workload = [&["baseline.py"], words].concat();
        let done = run.finish(&workload, &["--baseline", &base, option]);
        done.expect_code(code);
        let says = format!("1.12 MiB, beyond {base}");
        assert_eq!(done.stderr.contains(&says), code == 8, "{}", done.stderr);
    }
}
