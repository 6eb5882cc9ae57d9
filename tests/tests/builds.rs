//! Users' own builds of TT-Metal: for each compiler and set of flags, every field is found where it really lies, or
//! the library is refused with the reason. This file says which builds are refused.

use std::path::Path;

use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Finished, Generation, LiveBuffer, Tracer, UserBuild, WorkDir, for_each_generation, list,
    parsed, text,
};

const UNTRACEABLE_LIBRARY: i32 = 6;

/// The build that inlines `track_allocate` into its callers: a probe on that function would never be hit.
const INLINED: (&str, &[&str]) = ("clang++", &["-O2", "-flto"]);

const FLAGS: [&[&str]; 9] = [
    &["-O0"],
    &["-O1"],
    &["-O2"],
    &["-O3"],
    &["-O0", "-fcf-protection=full"],
    &["-O2", "-fcf-protection=full"],
    &["-O2", "-flto"],
    &["-O2", "-fno-omit-frame-pointer"],
    &["-O2", "-g"],
];

#[test]
fn gcc() {
    expect_derived("g++");
}

#[test]
fn clang() {
    expect_derived("clang++");
}

fn expect_derived(compiler: &'static str) {
    for flags in FLAGS {
        let build = UserBuild::new(compiler, flags);
        for generation in [Generation::One, Generation::Two] {
            let dir = WorkDir::new();
            if (compiler, flags) == INLINED {
                let done = checked(&dir, &build.library(generation));
                done.expect_code(UNTRACEABLE_LIBRARY);
                let reason = "no place for a probe in GraphTracker::track_allocate";
                assert!(done.text().contains(reason), "{}", done.text());
                continue;
            }
            let report = check(&dir, &build.library(generation));
            let found = fields(&report);
            let expected = build.layout(generation);
            assert_eq!(expected.len(), 13, "{build}");
            let found = found.map(|(name, path, _)| (name, path)).collect();
            assert_eq!(expected, found, "{build}, {generation:?}");
        }
    }
}

/// The report on a library that can be traced.
#[track_caller]
fn check(dir: &WorkDir, library: &Path) -> Value {
    let done = checked(dir, library);
    done.expect_code(0);
    parsed(&done.text())
}

fn checked(dir: &WorkDir, library: &Path) -> Finished {
    Tracer::check(dir, library).start().finish()
}

/// Each field's name, its path and the evidence for it.
fn fields(report: &Value) -> impl Iterator<Item = (String, String, Vec<String>)> {
    let fields = list(&report["library"], "fields");
    fields.iter().map(|field| {
        let evidence = list(field, "witnesses");
        let evidence = evidence.iter().filter_map(Value::as_str);
        (
            text(field, "name").to_owned(),
            text(field, "path").to_owned(),
            evidence.map(str::to_owned).collect(),
        )
    })
}

for_each_generation!(
    unoptimised_by_gcc_is_traced,
    unoptimised_by_clang_is_traced,
    with_landing_pads_for_indirect_branches_is_traced,
    optimised_at_link_time_is_traced,
);

fn unoptimised_by_gcc_is_traced(generation: Generation) {
    expect_traced(&UserBuild::new("g++", &["-O0"]), generation);
}

fn unoptimised_by_clang_is_traced(generation: Generation) {
    expect_traced(&UserBuild::new("clang++", &["-O0"]), generation);
}

fn with_landing_pads_for_indirect_branches_is_traced(generation: Generation) {
    let build = UserBuild::new("g++", &["-O2", "-fcf-protection=full"]);
    expect_traced(&build, generation);
}

fn optimised_at_link_time_is_traced(generation: Generation) {
    expect_traced(&UserBuild::new("g++", &["-O2", "-flto"]), generation);
}

/// The live buffers of the summary are those that the allocators list.
fn expect_traced(build: &UserBuild, generation: Generation) {
    let dir = WorkDir::new();
    let target = build.target(&dir, generation);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 2");
    target.obey("alloc DRAM 524288 2048 HEIGHT_SHARDED");
    target.obey("alloc L1 4096 1024 chip 1");
    let freed = target.obey("alloc L1_SMALL 2048 1024");
    target.obey(&format!("free {}", freed["id"]));
    target.obey("create-view 0 2048 4096");
    target.refuse("oom");
    target.obey("hook on");
    let hooked = target.obey("alloc DRAM 8192 2048");
    target.obey("hook off");
    target.obey(&format!("free {}", hooked["id"]));
    target.obey("threads 2 100");
    let answer = target.obey("live");
    target.finish().expect_code(0);

    let expected = LiveBuffer::listed(&answer);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), expected, "{build}");
    assert_eq!(expected.len(), 2);
    // The mesh's buffer has one non-owning member on each of two chips; the view is the third.
    assert_eq!(process.non_owning().len(), 3, "{build}");
    assert_eq!(process.failed_allocations, 1, "{build}");
    let dram = process.owning_at(expected[1].address);
    assert_eq!(dram.layout, "HEIGHT_SHARDED", "{dram:?}");
    assert_eq!(dram.page_size, 2048, "{dram:?}");
}

/// Where a build has debug information, it is one more piece of evidence for each field that is a member of a class.
#[test]
fn debug_information_is_evidence() {
    for compiler in ["g++", "clang++"] {
        let build = UserBuild::new(compiler, &["-O2", "-g"]);
        for generation in [Generation::One, Generation::Two] {
            let report = check(&WorkDir::new(), &build.library(generation));
            for (name, _, evidence) in fields(&report) {
                let last = evidence.last().expect("evidence");
                assert!(
                    last.starts_with("debug information ("),
                    "{build}: {name}: {last}"
                );
                assert!(evidence.len() > 1, "{build}: {name}");
            }
        }
    }
}
