//! The stacks of allocations, compared with Python's own tracebacks and with gdb's.

use std::{path::Path, process::Command};

use serde_json::Value;
use tt_memtrace_tests::{
    Buffer, Cluster, Frame, FrameKind, Process, ProcessSummary, Release, Tracer, Ttnn, WorkDir,
    for_each_release, list, parsed, text, unsigned, wait_for, workspace,
};

for_each_release!(
    each_allocation_has_the_lines_of_pythons_traceback,
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
fn frames<'a>(process: &'a ProcessSummary, buffer: &Buffer) -> &'a [Frame] {
    let stack = process.stack(buffer.stack);
    assert_eq!(stack.broken, None, "{stack:#?}");
    &stack.frames
}

/// The Python frames that aren't ttnn's own, innermost first.
fn python(frames: &[Frame]) -> Vec<Line> {
    frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python)
        .map(|frame| {
            // From CPython 3.11 on the name is qualified; Python's `traceback` has only its last part.
            let name = frame.function.as_deref().expect("a function");
            let name = name.rsplit('.').next().unwrap_or_default();
            let file = frame.file.clone().expect("a file");
            (file, frame.line.expect("a line"), name.to_owned())
        })
        .filter(|(file, _, _)| !file.contains("/site-packages/ttnn/"))
        .collect()
}

/// What the workload reports of each of its buffers: the address, and Python's own frames without the helper that
/// allocates, which has returned by then.
fn reported(answer: &Value) -> Vec<(u64, Vec<Line>)> {
    let buffers = list(answer, "buffers");
    assert_eq!(buffers.len(), NOTED);
    buffers
        .iter()
        .map(|buffer| {
            let frames = list(buffer, "frames").iter().map(|frame| {
                let part = |at: usize| frame[at].as_str().expect("text").to_owned();
                (part(0), frame[1].as_u64().expect("a line"), part(2))
            });
            (unsigned(buffer, "address"), frames.collect())
        })
        .collect()
}

/// Runs the workload, and calls `check` with each buffer's frames, Python's own frames, and the buffer's number.
fn with_each(release: Release, stacks: &str, check: impl Fn(&[Frame], &[Line], usize)) {
    let dir = WorkDir::new();
    let cluster = Cluster::n150(&dir);
    let workload = Ttnn::new(release, &cluster, &dir).workload("stacks.py");
    let tracer = Tracer::run(&dir).arguments(["--stacks", stacks]);
    let done = tracer.traced(&workload).start().finish();
    done.expect_code(128 + 9);
    let answer = parsed(&done.text());
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    for (number, (address, expected)) in reported(&answer).iter().enumerate() {
        let frames = frames(process, process.owning_at(*address));
        check(frames, expected, number);
    }
}

/// The frames have these lines. `empty()` of the workload has returned when the workload takes the traceback.
fn expect_lines(frames: &[Frame], expected: &[Line], number: usize) {
    let mut lines = python(frames);
    if lines
        .first()
        .is_some_and(|(_, _, function)| function == "empty")
    {
        lines.remove(0);
    }
    assert_eq!(lines, expected, "allocation {number}");
}

fn each_allocation_has_the_lines_of_pythons_traceback(release: Release) {
    with_each(release, "full", |frames, expected, number| {
        expect_lines(frames, expected, number);
        // The C++ frames, from the probed function to the call from Python, come before the Python frames.
        let native = frames.iter();
        let native = native.take_while(|frame| frame.kind == FrameKind::Native);
        let functions: Vec<&str> = native
            .filter_map(|frame| frame.function.as_deref())
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
        assert!(frames.iter().all(|frame| frame.kind == FrameKind::Python));
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
    assert!(process.stacks.is_empty(), "{:?}", process.stacks);
    for buffer in &process.live_buffers {
        assert_eq!(buffer.stack, None, "{buffer:?}");
    }
}

/// How many events are compared with gdb.
const SAMPLED: usize = 50;

/// The address in the library of the first instruction behind the probe of allocations, and its distance from the
/// probe. gdb's breakpoint must not be where the probe is.
fn behind_the_probe(release: Release) -> (u64, u64) {
    let dir = WorkDir::new();
    let checked = Tracer::check(&dir, &release.library()).start().finish();
    checked.expect_code(0);
    let report = parsed(&checked.text());
    let points = list(&report["library"], "probe_points");
    let point = points.iter().find(|point| point["kind"] == "allocate");
    let point = point.expect("a probe for allocations");
    let hex = text(point, "address").trim_start_matches("0x");
    let address = u64::from_str_radix(hex, 16).expect("an address");
    let address = address + unsigned(point, "into");
    let instruction = text(point, "instruction");
    // The registers that x86-64 added (r8 to r15) need a prefix byte.
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

/// The part of a C++ name that every demangler writes in the same way.
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
    let parameters = format!(
        "python AT={address}; WANTED={SAMPLED}; OUT='{}'",
        seen.display()
    );
    let mut gdb = Process::spawn(
        Command::new("gdb")
            .args([
                "-nx",
                "-batch",
                "-p",
                &pid.to_string(),
                "-ex",
                &parameters,
                "-x",
            ])
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
    let buffers = process.live_buffers.iter();
    let mut allocated: Vec<&Buffer> = buffers.filter(|buffer| !buffer.before_attach).collect();
    allocated.sort_by_key(|buffer| buffer.allocated_at_ns.expect("a time"));
    let seen = std::fs::read_to_string(seen).expect("what gdb saw");
    let seen: Vec<Value> = seen.lines().map(parsed).collect();
    assert_eq!(seen.len(), SAMPLED);
    for (number, (buffer, seen)) in allocated.iter().zip(&seen).enumerate() {
        let ours: Vec<(&str, u64, Option<&str>)> = frames(process, buffer)
            .iter()
            .filter(|frame| frame.kind == FrameKind::Native)
            .map(|frame| {
                let module = frame.module.as_deref().expect("a module");
                let offset = frame.offset.expect("an offset");
                (module, offset, frame.function.as_deref())
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
        let addresses = |frames: &[(&str, u64, Option<&str>)]| {
            let addresses = frames
                .iter()
                .map(|(module, at, _)| format!("{module}+{at:#x}"));
            addresses.collect::<Vec<String>>()
        };
        assert_eq!(addresses(&ours), addresses(&theirs), "event {number}");
        for ((module, _, own), (_, _, gdbs)) in ours.iter().zip(&theirs) {
            // gdb reads debug information of libc, which has other names for the same functions.
            if let (Some(own), Some(gdbs)) = (own, gdbs)
                && module.contains("/ttnn/")
                && ![own, gdbs].iter().any(|name| name.starts_with("_Z"))
            {
                // gdb leaves out the return type.
                let (own, gdbs) = (beginning(own), beginning(gdbs));
                assert!(own.ends_with(&gdbs), "event {number}: {own} is {gdbs}");
            }
        }
    }
}
