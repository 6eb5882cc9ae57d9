//! The attach snapshot: what the target held when the tracer attached, read from its memory while it goes on.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use tt_memtrace_tests::{
    Buffer, Capacity, Cpp, Device, Generation, LiveBuffer, ProcessSummary, Tracer, WorkDir,
    events_named, for_each_generation, list, text, unsigned, wait_for,
};

for_each_generation!(
    buffers_from_before_are_listed_and_their_frees_are_counted,
    buffers_that_no_library_data_leads_to_are_found_by_a_search,
    a_closed_device_holds_nothing,
    a_child_forked_before_holds_none_of_its_parents_buffers,
    at_full_speed_the_summary_equals_the_targets_list,
    what_a_killed_process_held_is_listed_or_unknown,
);

/// How often the test at full speed attaches to each generation, unless `TT_MEMTRACE_ROUNDS` says otherwise.
const ROUNDS: usize = 20;

fn rounds() -> usize {
    let asked = std::env::var("TT_MEMTRACE_ROUNDS").ok();
    asked.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"))
}

/// A live buffer and its unique id.
type Listed = (LiveBuffer, u64);

/// The C++ target's own list.
fn own_list(target: &mut Cpp) -> BTreeSet<Listed> {
    let answer = target.obey("live");
    let listed = |buffer: &Value| {
        let kind = Device::from_json(buffer, "kind").kind;
        let live = LiveBuffer::from_answer(kind, buffer);
        (live, unsigned(buffer, "unique_id"))
    };
    list(&answer, "live").iter().map(listed).collect()
}

/// The summary's list, in which no buffer may stand twice.
fn listed(process: &ProcessSummary) -> BTreeSet<Listed> {
    let live = &process.live_buffers;
    let all: BTreeSet<Listed> = live.iter().map(entry).collect();
    assert_eq!(all.len(), live.len(), "a buffer is listed twice");
    all
}

fn entry(buffer: &Buffer) -> Listed {
    (buffer.live(), buffer.unique_id.expect("a unique id"))
}

fn buffers_from_before_are_listed_and_their_frees_are_counted(generation: Generation) {
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
    for buffer in &process.live_buffers {
        let was_there = before.contains(&entry(buffer));
        assert_eq!(buffer.before_attach, was_there, "{buffer:?}");
        assert_eq!(buffer.allocated_at_ns.is_none(), was_there, "{buffer:?}");
    }
    let snapshot = process.expect_whole_snapshot();
    let with_memory = before.iter().filter(|(buffer, _)| buffer.size > 0).count();
    assert_eq!(snapshot.buffers, with_memory as u64);
    assert!(snapshot.at_one_moment);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.implied_deallocations, 0);
    assert_eq!(process.members(0), [0, 1]);
    let small = process.memory(Device::chip(1), "L1_SMALL");
    assert_eq!((small.freed_bytes, small.allocated_bytes), (64, 0));
    assert_eq!(
        process.memory(Device::chip(0), "DRAM").live_bytes,
        8192 + 2048
    );

    // In the event lines each buffer is found before any other event about it.
    let events = dir.events();
    assert_eq!(events_named(&events, "found").len(), with_memory);
    assert_eq!(events[0]["event"], "found");
    assert_eq!(events_named(&events, "deallocate").len(), 2);
    for freed in events_named(&events, "deallocate") {
        assert_eq!(freed["before_attach"], true, "{freed}");
    }

    for own in list(&banks, "banks") {
        let device = Device::from_json(own, "kind");
        let buffer_type = text(own, "buffer_type");
        let expected = Capacity {
            banks: unsigned(own, "count"),
            bytes_per_bank: unsigned(own, "bytes"),
            allocated_per_bank: unsigned(own, "allocated"),
            free_per_bank: unsigned(own, "free"),
            largest_free_per_bank: unsigned(own, "largest_free"),
        };
        let usage = process.memory(device, buffer_type);
        assert_eq!(usage.capacity, Some(expected), "{device:?} {buffer_type}");
    }
}

fn a_closed_device_holds_nothing(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    target.obey("close");
    let tracer = Tracer::attach_to(&dir, pid).start();
    wait_for("the attach snapshot", || {
        tracer.stderr().contains("held no buffers from before")
    });
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.process(pid);
    assert_eq!(process.owning(), []);
    assert_eq!(process.expect_whole_snapshot().buffers, 0);
}

fn buffers_that_no_library_data_leads_to_are_found_by_a_search(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::with_mesh(&dir, generation, "2 unlisted");
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    let freed = target.obey("alloc L1 4096 1024");

    let mut tracer = Tracer::attach_to(&dir, pid).start();
    // A buffer that is allocated during the search must not be found by it once more.
    let words = format!("process {pid} held no buffers from before");
    wait_for(&words, || tracer.stderr().contains(&words));
    target.obey("alloc DRAM 2048 2048");
    let searched = || {
        let printed = tracer.stderr();
        (2..=3).any(|n| printed.contains(&format!("held {n} buffers more from before")))
    };
    wait_for("the search", searched);
    target.obey(&format!("free {}", freed["id"]));
    let after = own_list(&mut target);
    target.finish().expect_code(0);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(listed(process), after);
    assert_eq!(process.expect_whole_snapshot().buffers, 2);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.members(0), [0, 1]);
}

/// Both processes have the buffer in their memory, at the same address. It is the parent's.
fn a_child_forked_before_holds_none_of_its_parents_buffers(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 2);
    let pid = target.pid();
    target.obey("alloc DRAM 8192 2048");
    let before = own_list(&mut target);
    let child = target.obey("branch");
    let child = tt_memtrace_tests::pid(&child, "child");
    let mut tracer = Tracer::attach(&dir).arguments(["--all"]).start();
    for (pid, held) in [(pid, "1 buffer"), (child, "no buffers")] {
        let words = format!("process {pid} held {held} from before");
        wait_for(&words, || tracer.stderr().contains(&words));
    }
    target.obey("join");
    target.finish().expect_code(0);
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let parent = summary.expect_complete().process(pid);
    assert_eq!(listed(parent), before);
    assert_eq!(parent.memory(Device::chip(1), "DRAM").live_bytes, 8192);
    // The child freed its copy, and allocated a buffer of its own.
    let child = summary.process(child);
    assert_eq!(child.unmatched_deallocations, 0);
    assert_eq!(child.memory(Device::mesh(0), "DRAM").live_bytes, 4096);
    assert_eq!(child.memory(Device::chip(1), "DRAM").live_bytes, 4096);
    assert_eq!(child.memory(Device::chip(1), "DRAM").freed_bytes, 0);
    child.expect_whole_snapshot();
}

/// Four threads replace their buffers as fast as they can, while other buffers stay. Each round attaches at another
/// moment.
fn at_full_speed_the_summary_equals_the_targets_list(generation: Generation) {
    for round in 0..rounds() {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 2);
        let pid = target.pid();
        for i in 1..20 {
            target.obey(&format!("alloc DRAM {} 2048", 2048 * i));
        }
        target.obey(&format!("start 4 {}", 10 + round));
        // Attach at a moment that does not depend on what the threads do.
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
        let snapshot = process.expect_whole_snapshot();
        assert_eq!(listed(process), live, "round {round}: {snapshot:?}");
        assert_eq!(process.implied_deallocations, 0, "round {round}");
        assert!(snapshot.buffers >= 19, "round {round}: {snapshot:?}");
    }
}

/// A process that is killed while it is being read: either all that it held is listed, or the summary says that
/// something may be missing. It never holds nothing for certain.
fn what_a_killed_process_held_is_listed_or_unknown(generation: Generation) {
    const HELD: usize = 40;
    for round in 0..8 {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 1);
        let pid = target.pid();
        for _ in 0..HELD {
            target.obey("alloc DRAM 4096 4096");
        }
        let mut tracer = Tracer::attach_to(&dir, pid)
            .started_by(&["bash", "-c", "exec \"$@\" 2>said", "bash"])
            .start();
        // The probes are on, and the reading begins.
        wait_for("the tracer's first line", || {
            let said = std::fs::read_to_string(dir.path().join("said"));
            assert!(tracer.is_running(), "{said:?}");
            said.is_ok_and(|said| said.contains("tracing "))
        });
        target.process.signal(Signal::KILL);
        target.process.wait();
        tracer.finish().expect_code(0);
        let summary = dir.summary();
        let process = summary.process(pid);
        if process.owning().len() != HELD {
            let snapshot = process.attach_snapshot.as_ref().expect("a snapshot");
            assert!(!snapshot.problems.is_empty(), "round {round}: {snapshot:?}");
            assert!(!summary.events.exact, "round {round}");
        }
    }
}
