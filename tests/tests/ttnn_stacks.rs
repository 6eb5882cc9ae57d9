//! The stacks that allocations carry, held against what Python itself says, and gdb.

use std::{path::Path, process::Command};

use serde_json::Value;
use tt_memtrace_tests::{
    Cluster, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir, for_each_release, text,
    unsigned, wait_for, workspace,
};

for_each_release!(
    each_allocation_has_the_lines_that_python_says,
    python_stacks_alone_have_the_same_lines,
    without_stacks_there_are_none,
    cpp_stacks_are_those_that_gdb_sees,
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
            // From CPython 3.11 on it is the qualified one, of which Python's `traceback` tells the end.
            let name = text(frame, "function").rsplit('.').next();
            let name = name.unwrap_or_default();
            (
                text(frame, "file").into(),
                unsigned(frame, "line"),
                name.into(),
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

/// Events of which gdb's view is asked.
const SAMPLED: usize = 50;

/// The first instruction behind the probe of allocations, and how far behind: an address of the library.
/// gdb's breakpoint must not be where the probe is.
fn behind_the_probe(release: Release) -> (u64, u64) {
    let dir = WorkDir::new();
    let library = release.library();
    let library = library.to_str().expect("UTF-8");
    let checked = Tracer::bare(&dir, &["check", "--json", "--library", library]);
    let checked = checked.start().finish();
    checked.expect_code(0);
    let said: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let points = said["library"]["probe_points"].as_array().expect("points");
    let point = points.iter().find(|point| point["kind"] == "allocate");
    let point = point.expect("a probe for allocations");
    let hex = text(point, "address").trim_start_matches("0x");
    let address = u64::from_str_radix(hex, 16).expect("an address");
    let address = address + unsigned(point, "into");
    let instruction = text(point, "instruction");
    // The registers that x86-64 added need a prefix.
    let length = match instruction.strip_prefix("push r") {
        Some(register) if register.starts_with(|c: char| c.is_ascii_digit()) => 2,
        Some(_) => 1,
        None => panic!("how long is `{instruction}`?"),
    };
    (address + length, length)
}

/// The base address of a library in a process.
fn base(pid: u32, library: &Path) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let library = library.canonicalize().expect("a library");
    let first = maps
        .lines()
        .find(|line| line.ends_with(library.to_str().expect("UTF-8")));
    let start = first
        .and_then(|line| line.split('-').next())
        .expect("a mapping");
    u64::from_str_radix(start, 16).expect("an address")
}

/// Of a C++ name, what any demangler writes alike.
fn beginning(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
    let name = name.replace("(anonymousnamespace)", "{anonymous}");
    name.split(['<', '(']).next().unwrap_or_default().to_owned()
}

fn is_interpreter(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or_default();
    name.starts_with("python") || name.starts_with("libpython")
}

fn cpp_stacks_are_those_that_gdb_sees(release: Release) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let mut workload = Ttnn::new(release, &cluster, &dir).workload("stacks.py");
    let mut target = Process::spawn(workload.arg("gdb"));
    let pid = target.pid();
    target.line();
    let mut tracer = Tracer::attach_to(&dir, pid).start();
    wait_for("the tracer", || tracer.stderr().contains("from before"));

    let (address, behind) = behind_the_probe(release);
    let address = base(pid, &release.library()) + address;
    let seen = dir.path().join("gdb.jsonl");
    let script = workspace().join("tests/workloads/gdb_stacks.py");
    let told = format!(
        "python AT={address}; WANTED={SAMPLED}; OUT='{}'",
        seen.display()
    );
    let mut gdb = Process::spawn(
        Command::new("gdb")
            .args(["-nx", "-batch", "-p", &pid.to_string(), "-ex", &told, "-x"])
            .arg(script),
    );
    wait_for("gdb", || {
        assert!(gdb.is_running(), "gdb ended while attaching");
        seen.exists()
    });
    target.send("go");
    gdb.finish().expect_code(0);
    target.finish();
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let mut made: Vec<&Value> = process.0["live_buffers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|buffer| buffer["before_attach"] == false)
        .collect();
    made.sort_by_key(|buffer| unsigned(buffer, "allocated_at_ns"));
    let seen = std::fs::read_to_string(seen).expect("what gdb saw");
    let seen: Vec<Value> = seen
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(seen.len(), SAMPLED);
    for (number, (buffer, seen)) in made.iter().zip(&seen).enumerate() {
        let ours: Vec<(&str, u64, Option<&str>)> = frames(process, buffer)
            .iter()
            .filter(|frame| frame["kind"] == "native")
            .map(|frame| {
                let offset = unsigned(frame, "offset");
                (text(frame, "module"), offset, frame["function"].as_str())
            })
            .collect();
        let theirs: Vec<(&str, u64, Option<&str>)> = seen
            .as_array()
            .expect("frames")
            .iter()
            .enumerate()
            .map(|(depth, frame)| {
                let at = frame[1].as_u64().expect("an address");
                let at = if depth == 0 { at - behind } else { at };
                (frame[0].as_str().unwrap_or_default(), at, frame[2].as_str())
            })
            .filter(|(module, _, _)| !is_interpreter(module))
            .collect();
        let places = |frames: &[(&str, u64, Option<&str>)]| {
            let places = frames
                .iter()
                .map(|(module, at, _)| format!("{module}+{at:#x}"));
            places.collect::<Vec<String>>()
        };
        assert_eq!(places(&ours), places(&theirs), "event {number}");
        for ((module, _, own), (_, _, gdbs)) in ours.iter().zip(&theirs) {
            // Of libc, gdb has debug information with other names for the same functions.
            if let (Some(own), Some(gdbs)) = (own, gdbs)
                && module.contains("/ttnn/")
                && ![own, gdbs].iter().any(|name| name.starts_with("_Z"))
            {
                // gdb leaves out what the function returns.
                let (own, gdbs) = (beginning(own), beginning(gdbs));
                assert!(own.ends_with(&gdbs), "event {number}: {own} is {gdbs}");
            }
        }
    }
}
