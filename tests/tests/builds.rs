//! Users' own builds of TT-Metal: whatever compiler and flags made the library, every field is found
//! where it really lies, or the library is refused with the reason. Which are refused stands here.

use std::path::Path;

use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Finished, Generation, Live, Tracer, UserBuild, WorkDir, for_each_generation, text,
    unsigned,
};

const UNTRACEABLE_LIBRARY: i32 = 6;

/// The build that puts the code of `track_allocate`, where a probe would go, into its callers: the
/// probe would see nothing.
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
    serde_json::from_str(&done.text()).expect("JSON")
}

fn checked(dir: &WorkDir, library: &Path) -> Finished {
    Tracer::bare(dir, &["check", "--json", "--library"])
        .arguments([library])
        .start()
        .finish()
}

/// Each field's name, path and witnesses.
fn fields(report: &Value) -> impl Iterator<Item = (String, String, Vec<String>)> {
    let fields = report["library"]["fields"].as_array().expect("a list");
    fields.iter().map(|field| {
        let witnesses = field["witnesses"].as_array().expect("a list");
        let witnesses = witnesses.iter().filter_map(Value::as_str);
        (
            text(field, "name").to_owned(),
            text(field, "path").to_owned(),
            witnesses.map(str::to_owned).collect(),
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

/// What the trace says lives is what the allocators say.
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

    let live = answer["live"].as_array().expect("a list");
    let mut expected: Vec<Live> = live
        .iter()
        .map(|buffer| {
            (
                text(buffer, "kind").to_owned(),
                unsigned(buffer, "device_id"),
                text(buffer, "buffer_type").to_owned(),
                unsigned(buffer, "address"),
                unsigned(buffer, "size"),
            )
        })
        .collect();
    expected.sort();
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), expected, "{build}");
    assert_eq!(expected.len(), 2);
    // Two chips' shares of the mesh's one buffer, and the view.
    assert_eq!(process.non_owning().len(), 3, "{build}");
    assert_eq!(process.count("failed_allocations"), 1, "{build}");
    let dram = process.owning_at(expected[1].3);
    assert_eq!(text(dram, "layout"), "HEIGHT_SHARDED", "{dram}");
    assert_eq!(unsigned(dram, "page_size"), 2048, "{dram}");
}

/// Where a build has debug information, it is one more witness of each field that a member stands
/// for.
#[test]
fn debug_information_is_a_witness() {
    for compiler in ["g++", "clang++"] {
        let build = UserBuild::new(compiler, &["-O2", "-g"]);
        for generation in [Generation::One, Generation::Two] {
            let report = check(&WorkDir::new(), &build.library(generation));
            for (name, _, witnesses) in fields(&report) {
                let told = witnesses.last().expect("a witness");
                assert!(
                    told.starts_with("debug information ("),
                    "{build}: {name}: {told}"
                );
                assert!(witnesses.len() > 1, "{build}: {name}");
            }
        }
    }
}
