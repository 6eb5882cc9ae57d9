//! `tt-memtrace check`: whether a trace would work on this machine, and if not, why.

use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Generation, Process, Tracer, Variant, WorkDir, build_id, for_each_generation,
};

for_each_generation!(
    a_good_library_passes,
    a_process_passes,
    the_summary_names_the_library,
);

fn json(dir: &WorkDir, arguments: &[&str]) -> Value {
    let done = Tracer::bare(dir, &["check", "--json"])
        .arguments(arguments)
        .start()
        .finish();
    done.expect_code(0);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.text()))
}

/// The report has each field that a summary needs.
#[track_caller]
fn expect_fields(report: &Value) {
    let shown = report.to_string();
    for field in [
        "address",
        "size",
        "page_size",
        "buffer_type",
        "device",
        "buffer+0x",
    ] {
        assert!(shown.contains(field), "no {field} in {report:#}");
    }
}

fn a_good_library_passes(generation: Generation) {
    let dir = WorkDir::new();
    let library = generation.library(Variant::Plain);
    let path = library.to_str().expect("UTF-8");
    let report = json(&dir, &["--library", path]);
    assert!(
        report.to_string().contains(&build_id(&library)),
        "{report:#}"
    );
    expect_fields(&report);

    let human = Tracer::bare(&dir, &["check", "--library", path])
        .start()
        .finish();
    human.expect_code(0);
    for word in ["page_size", &build_id(&library)] {
        assert!(human.text().contains(word), "{}", human.text());
    }
}

fn a_process_passes(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid().to_string();
    let report = json(&dir, &["--pid", &pid]);
    expect_fields(&report);
    let id = build_id(&generation.library(Variant::Plain));
    assert!(report.to_string().contains(&id), "{report:#}");
    target.expect_unharmed();
}

fn the_summary_names_the_library(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let done = Tracer::run(&dir).traced(&target).start().finish();
    done.expect_code(0);
    let library = generation.library(Variant::Plain);
    let summary = dir.summary();
    let process = summary.only_process();
    assert_eq!(process.comm, "target");
    let program = generation.dir(Variant::Plain).join("target");
    assert_eq!(process.command_line[0], program.to_str().expect("UTF-8"));
    let loaded = process.library();
    assert_eq!(loaded.path, library.to_str().expect("UTF-8"));
    assert_eq!(loaded.build_id, Some(build_id(&library)));
    // Where the field really lies: the target's members are in no release's order.
    let expected = match generation {
        Generation::One => "[buffer+0x18]",
        Generation::Two => "[[buffer+0x18]+0x20]",
    };
    assert_eq!(loaded.fields["size"], expected);
}

/// `check` needs no target to report whether this machine can trace.
#[test]
fn this_machine_passes() {
    if tt_memtrace_tests::need_root() {
        let dir = WorkDir::new();
        let mut check: Process = Tracer::bare(&dir, &["check"]).start();
        let done = check.wait();
        done.expect_code(0);
        assert!(done.text().contains("uprobe"), "{}", done.text());
    }
}
