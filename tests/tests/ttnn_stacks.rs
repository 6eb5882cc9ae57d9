//! The stacks that allocations carry, held against what Python itself says, and gdb.

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, ProcessSummary, Release, Tracer, Ttnn, WorkDir, for_each_release, text, unsigned,
};

for_each_release!(
    each_allocation_has_the_lines_that_python_says,
    python_stacks_alone_have_the_same_lines,
    without_stacks_there_are_none,
);

/// Allocations and operations of `stacks.py`.
const NOTED: usize = 34 + 5;

/// File, line and function of a Python frame.
type Line = (String, u64, String);

/// The frames of a buffer's stack.
#[track_caller]
fn frames<'a>(process: ProcessSummary<'a>, buffer: &Value) -> &'a Vec<Value> {
    let stacks = process.0["stacks"].as_array().expect("stacks");
    let stack = stacks.iter().find(|stack| stack["id"] == buffer["stack"]);
    let stack = stack.unwrap_or_else(|| panic!("no stack of {buffer}"));
    assert!(stack["broken"].is_null(), "{stack:#}");
    stack["frames"].as_array().expect("frames")
}

/// The Python frames that aren't ttnn's own, innermost first.
fn python(frames: &[Value]) -> Vec<Line> {
    let python = frames.iter().filter(|frame| frame["kind"] == "python");
    python
        .map(|frame| {
            let line = unsigned(frame, "line");
            (
                text(frame, "file").into(),
                line,
                text(frame, "function").into(),
            )
        })
        .filter(|(file, _, _): &Line| !file.contains("/site-packages/ttnn/"))
        .collect()
}

/// What the workload says of each of its buffers: address, and Python's own frames but for the helper
/// that allocates, which has returned by then.
fn told(said: &Value) -> Vec<(u64, Vec<Line>)> {
    let told = said["told"].as_array().expect("a list");
    assert_eq!(told.len(), NOTED);
    told.iter()
        .map(|one| {
            let frames = one["frames"].as_array().expect("frames");
            let frames = frames.iter().map(|frame| {
                let part = |at: usize| frame[at].as_str().expect("text").to_owned();
                (part(0), frame[1].as_u64().expect("a line"), part(2))
            });
            (unsigned(one, "address"), frames.collect())
        })
        .collect()
}

/// Runs the workload, and gives each of its buffers' frames to `each`, with what Python said.
fn with_each(release: Release, stacks: &str, each: impl Fn(&[Value], &[Line], usize)) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = Ttnn::new(release, &cluster, &dir).workload("stacks.py");
    let tracer = Tracer::run(&dir).arguments(["--stacks", stacks]);
    let done = tracer.traced(&workload).start().finish();
    done.expect_code(128 + 9);
    let said = serde_json::from_slice(&done.stdout).expect("JSON");
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    for (number, (address, expected)) in told(&said).iter().enumerate() {
        let frames = frames(process, process.owning_at(*address));
        each(frames, expected, number);
    }
}

/// `empty()` of the workload has returned when Python is asked.
fn expect_lines(frames: &[Value], expected: &[Line], number: usize) {
    let mut lines = python(frames);
    if lines
        .first()
        .is_some_and(|(_, _, function)| function == "empty")
    {
        lines.remove(0);
    }
    assert_eq!(lines, expected, "allocation {number}");
}

fn each_allocation_has_the_lines_that_python_says(release: Release) {
    with_each(release, "full", |frames, expected, number| {
        expect_lines(frames, expected, number);
        // The C++ stands above, from where the library has its probe on to the call from Python.
        let native = frames.iter().take_while(|frame| frame["kind"] == "native");
        let functions: Vec<&str> = native
            .filter_map(|frame| frame["function"].as_str())
            .collect();
        assert!(
            functions
                .iter()
                .any(|name| name.contains("MeshBuffer::create")),
            "{functions:#?}"
        );
        assert!(functions.len() > 5, "{functions:#?}");
    });
}

fn python_stacks_alone_have_the_same_lines(release: Release) {
    with_each(release, "python", |frames, expected, number| {
        expect_lines(frames, expected, number);
        assert!(frames.iter().all(|frame| frame["kind"] == "python"));
    });
}

fn without_stacks_there_are_none(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = Ttnn::new(release, &cluster, &dir).workload("stacks.py");
    let tracer = Tracer::run(&dir).arguments(["--stacks", "none"]);
    tracer
        .traced(&workload)
        .start()
        .finish()
        .expect_code(128 + 9);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.0["stacks"], serde_json::json!([]));
    for buffer in process.0["live_buffers"].as_array().expect("a list") {
        assert!(buffer["stack"].is_null(), "{buffer}");
    }
}
