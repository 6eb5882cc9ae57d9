//! What was there before `attach`: read from the target's memory while it goes on.

use std::collections::BTreeSet;

use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Generation, ProcessSummary, Tracer, WorkDir, events_named, for_each_generation, text,
    unsigned, wait_for,
};

for_each_generation!(
    what_lived_before_is_listed_and_its_free_is_an_ordinary_one,
    what_nothing_of_the_librarys_leads_to_is_found_by_a_search,
    a_closed_device_holds_nothing,
    a_child_from_before_holds_nothing_of_its_parents,
    at_full_speed_the_ledger_equals_the_targets_list,
);

/// How often the target is attached to at full speed, of each generation: `TT_MEMTRACE_ROUNDS`, or so
/// often.
const ROUNDS: usize = 20;

fn rounds() -> usize {
    let asked = std::env::var("TT_MEMTRACE_ROUNDS").ok();
    asked.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Kind and id of the device, type, address, size, unique id.
type Told = (String, u64, String, u64, u64, u64);

fn told(buffer: &Value, kind: &str) -> Told {
    (
        text(buffer, kind).to_owned(),
        unsigned(buffer, "device_id"),
        text(buffer, "buffer_type").to_owned(),
        unsigned(buffer, "address"),
        unsigned(buffer, "size"),
        unsigned(buffer, "unique_id"),
    )
}

/// The C++ target's own list.
fn own_list(target: &mut Cpp) -> BTreeSet<Told> {
    let answer = target.obey("live");
    let live = answer["live"].as_array().expect("a list");
    live.iter().map(|buffer| told(buffer, "kind")).collect()
}

fn listed(process: ProcessSummary<'_>) -> BTreeSet<Told> {
    let live = process.0["live_buffers"].as_array().expect("a list");
    let all: BTreeSet<Told> = live
        .iter()
        .map(|buffer| told(buffer, "device_kind"))
        .collect();
    assert_eq!(all.len(), live.len(), "none is listed twice");
    all
}

fn what_lived_before_is_listed_and_its_free_is_an_ordinary_one(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 2);
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    let freed = target.obey("alloc DRAM 4096 1024");
    target.obey("alloc L1 2048 2048 HEIGHT_SHARDED");
    let on_chip = target.obey("alloc L1_SMALL 64 32 chip 1");
    target.obey("alloc DRAM 0 32");
    target.obey("create-view 0 2048 2048");
    let gone = target.obey("alloc TRACE 1024 1024");
    target.obey(&format!("free {}", gone["id"]));
    target.refuse("oom");
    target.obey("hook on");
    target.obey("alloc DRAM 4096 4096");
    target.obey("hook off");
    let banks = target.obey("banks");
    let before = own_list(&mut target);

    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {});
    target.obey(&format!("free {}", freed["id"]));
    target.obey(&format!("free {}", on_chip["id"]));
    target.obey("alloc DRAM 2048 2048");
    let after = own_list(&mut target);
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(listed(process), after);
    for buffer in process.0["live_buffers"].as_array().expect("a list") {
        let was_there = before.contains(&told(buffer, "device_kind"));
        assert_eq!(buffer["before_attach"], was_there, "{buffer}");
        assert_eq!(buffer["allocated_at_ns"].is_null(), was_there, "{buffer}");
    }
    process.expect_whole_baseline();
    let of_size = before.iter().filter(|buffer| buffer.4 > 0).count();
    assert_eq!(unsigned(&process.0["baseline"], "buffers"), of_size as u64);
    assert_eq!(process.0["baseline"]["at_one_moment"], true);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.count("implied_deallocations"), 0);
    assert_eq!(process.members(0), [0, 1]);
    assert_eq!(process.memory("chip", 1, "L1_SMALL", "freed_bytes"), 64);
    assert_eq!(process.memory("chip", 1, "L1_SMALL", "allocated_bytes"), 0);
    assert_eq!(process.memory("chip", 0, "DRAM", "live_bytes"), 8192 + 2048);

    // Each was found, in the log, before anything happened to it.
    let events = dir.events();
    assert_eq!(events_named(&events, "found").len(), of_size);
    assert_eq!(events[0]["event"], "found");
    assert_eq!(events_named(&events, "deallocate").len(), 2);
    for freed in events_named(&events, "deallocate") {
        assert_eq!(freed["before_attach"], true, "{freed}");
    }

    for own in banks["banks"].as_array().expect("a list") {
        let (kind, id) = (text(own, "kind"), unsigned(own, "device_id"));
        let buffer_type = text(own, "buffer_type");
        let devices = process.0["devices"].as_array().expect("a list");
        let device = devices
            .iter()
            .find(|device| device["kind"] == kind && device["id"] == id)
            .unwrap_or_else(|| panic!("no {kind} {id} in {devices:?}"));
        let capacity = &device["memory"][buffer_type]["capacity"];
        for (ours, theirs) in [
            ("banks", "count"),
            ("bytes_per_bank", "bytes"),
            ("allocated_per_bank", "allocated"),
            ("free_per_bank", "free"),
            ("largest_free_per_bank", "largest_free"),
        ] {
            assert_eq!(capacity[ours], own[theirs], "{kind} {id} {buffer_type}");
        }
    }
}

fn a_closed_device_holds_nothing(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    target.obey("close");
    let tracer = Tracer::attach_to(&dir, pid).start();
    wait_for("the reading", || {
        tracer.stderr().contains("held no buffers from before")
    });
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.process(pid);
    assert_eq!(process.owning(), []);
    process.expect_whole_baseline();
    assert_eq!(process.0["baseline"]["buffers"], 0);
}

/// Both have the buffer in their memory, at the same address; it is the parent's.
fn what_nothing_of_the_librarys_leads_to_is_found_by_a_search(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::with_mesh(&dir, generation, "2 unlisted");
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    let freed = target.obey("alloc L1 4096 1024");

    let mut tracer = Tracer::attach_to(&dir, pid).start();
    // What is made while the search goes on isn't found once more.
    let words = format!("process {pid} held no buffers from before");
    wait_for(&words, || tracer.stderr().contains(&words));
    target.obey("alloc DRAM 2048 2048");
    let searched = || {
        let told = tracer.stderr();
        (2..=3).any(|n| told.contains(&format!("held {n} buffers more from before")))
    };
    wait_for("the search", searched);
    target.obey(&format!("free {}", freed["id"]));
    let after = own_list(&mut target);
    target.finish().expect_code(0);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(listed(process), after);
    process.expect_whole_baseline();
    assert_eq!(unsigned(&process.0["baseline"], "buffers"), 2);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.members(0), [0, 1]);
}

fn a_child_from_before_holds_nothing_of_its_parents(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 2);
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    let before = own_list(&mut target);
    let child = target.obey("branch");
    let child = u32::try_from(unsigned(&child, "child")).expect("a pid is a u32");
    let mut tracer = Tracer::attach(&dir).arguments(["--all"]).start();
    for (pid, held) in [(pid, "1 buffer"), (child, "no buffers")] {
        let words = format!("process {pid} held {held} from before");
        wait_for(&words, || tracer.stderr().contains(&words));
    }
    target.obey("join");
    target.finish().expect_code(0);
    tracer.signal(rustix::process::Signal::INT);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let parent = summary.expect_complete().process(pid);
    assert_eq!(listed(parent), before);
    assert_eq!(parent.memory("chip", 1, "DRAM", "live_bytes"), 8192);
    // It freed its copy, and made a buffer of its own.
    let child = summary.process(child);
    assert_eq!(child.count("unmatched_deallocations"), 0);
    assert_eq!(child.memory("mesh", 0, "DRAM", "live_bytes"), 4096);
    assert_eq!(child.memory("chip", 1, "DRAM", "live_bytes"), 4096);
    assert_eq!(child.memory("chip", 1, "DRAM", "freed_bytes"), 0);
    child.expect_whole_baseline();
}

/// Four threads replace their buffers as fast as they can, while others stay; each round attaches at
/// another moment.
fn at_full_speed_the_ledger_equals_the_targets_list(generation: Generation) {
    for round in 0..rounds() {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 2);
        let pid = target.pid();
        for i in 1..20 {
            target.obey(&format!("alloc DRAM {} 2048", 2048 * i));
        }
        target.obey(&format!("start 4 {}", 10 + round));
        // A moment that has nothing to do with what the threads are at.
        target.obey(&format!("sleep {}", round * 7 % 20));
        let tracer = Tracer::attach_to(&dir, pid)
            .arguments(["--ring-size", "64MiB"])
            .start_and_see(|| {});
        target.obey("stop");
        let live = own_list(&mut target);
        target.finish().expect_code(0);
        tracer.finish().expect_code(0);

        let summary = dir.summary();
        let process = summary.expect_complete().process(pid);
        process.expect_whole_baseline();
        let baseline = &process.0["baseline"];
        assert_eq!(listed(process), live, "round {round}: {baseline}");
        assert_eq!(process.count("implied_deallocations"), 0, "round {round}");
        let baseline = unsigned(&process.0["baseline"], "buffers");
        assert!(baseline >= 19, "round {round}: {baseline}");
    }
}
