//! The rules of accounting, on the C++ target: each test makes one thing happen and says what a
//! summary must make of it.

use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Generation, Live, Tracer, Variant, WorkDir, events_named, for_each_generation, text,
    unique_ids, unsigned,
};

for_each_generation!(
    a_mesh_buffer_counts_once_on_each_chip,
    a_buffer_of_one_chip_counts_there_alone,
    views_are_listed_and_counted_nowhere,
    a_hooked_allocation_is_no_memory,
    a_failed_allocation_is_counted_and_caught,
    a_buffer_of_no_bytes_is_no_memory,
    every_type_and_layout_is_told_apart,
    deallocated_is_freed_once,
    closing_frees_all_at_once,
    the_books_agree_with_the_allocator,
    threads_are_followed,
    a_late_library_is_traced_from_its_first_buffer,
    a_stripped_library_is_traced_too,
    an_accessor_that_cannot_be_read_is_no_guess,
    peaks_are_kept_after_the_memory_is_gone,
);

/// Starts the target under `tt-memtrace run`, with a mesh of that many chips open.
fn run(dir: &WorkDir, generation: Generation, chips: u32) -> Cpp {
    let target = generation.target(dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(dir).traced(&target).start());
    target.obey(&format!("mesh {chips}"));
    target
}

/// A buffer as the target describes it, on a device of that kind.
fn live(kind: &str, buffer: &Value) -> Live {
    (
        kind.to_owned(),
        unsigned(buffer, "device_id"),
        text(buffer, "buffer_type").to_owned(),
        unsigned(buffer, "address"),
        unsigned(buffer, "size"),
    )
}

fn a_mesh_buffer_counts_once_on_each_chip(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 2);
    let kept = target.obey("alloc DRAM 524288 2048");
    let freed = target.obey("alloc DRAM 8192 2048");
    target.obey(&format!("free {}", freed["id"]));
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &kept)]);
    let members = kept["members"].as_array().expect("a list");
    let expected: Vec<Live> = members.iter().map(|member| live("chip", member)).collect();
    assert_eq!(process.non_owning(), expected);
    assert_eq!(process.members(0), [0, 1]);
    for (kind, id) in [("mesh", 0), ("chip", 0), ("chip", 1)] {
        let figure = |name| process.memory(kind, id, "DRAM", name);
        assert_eq!(figure("live_bytes"), 524_288, "{kind} {id}");
        assert_eq!(figure("live_buffers"), 1, "{kind} {id}");
        assert_eq!(figure("allocated_bytes"), 524_288 + 8192, "{kind} {id}");
        assert_eq!(figure("freed_bytes"), 8192, "{kind} {id}");
        assert_eq!(figure("allocations"), 2, "{kind} {id}");
        assert_eq!(figure("deallocations"), 1, "{kind} {id}");
    }
    let non_owning = &process.0["non_owning"];
    assert_eq!(unsigned(non_owning, "live"), 2);
    assert_eq!(unsigned(non_owning, "created"), 4);
    assert_eq!(unsigned(non_owning, "destroyed"), 2);

    let buffer = process.owning_at(unsigned(&kept, "address"));
    for field in ["size", "page_size", "buffer_type", "layout", "device_id"] {
        assert_eq!(buffer[field], kept[field], "{field}");
    }
    if !buffer["unique_id"].is_null() {
        assert_eq!(buffer["unique_id"], kept["unique_id"]);
    }
    assert_eq!(buffer["before_attach"], false);
}

fn a_buffer_of_one_chip_counts_there_alone(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 2);
    let buffer = target.obey("alloc L1 8192 1024 chip 1");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("chip", &buffer)]);
    assert_eq!(process.memory("chip", 1, "L1", "live_bytes"), 8192);
    assert_eq!(process.memory("chip", 0, "L1", "live_bytes"), 0);
    assert_eq!(process.memory("mesh", 0, "L1", "live_bytes"), 0);
}

fn views_are_listed_and_counted_nowhere(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    let buffer = target.obey("alloc DRAM 65536 2048");
    let view = target.obey(&format!("create-view {} 4096 8192", buffer["id"]));
    let dropped = target.obey(&format!("create-view {} 0 2048", buffer["id"]));
    target.obey(&format!("drop {}", dropped["id"]));
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &buffer)]);
    let mut expected = vec![live("chip", &buffer["members"][0]), live("mesh", &view)];
    expected.sort();
    assert_eq!(process.non_owning(), expected);
    assert_eq!(process.memory("chip", 0, "DRAM", "live_bytes"), 65536);
    assert_eq!(process.memory("mesh", 0, "DRAM", "allocations"), 1);
    assert_eq!(unsigned(&process.0["non_owning"], "destroyed"), 1);
}

fn a_hooked_allocation_is_no_memory(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    target.obey("hook on");
    let hooked = target.obey("alloc DRAM 4096 4096");
    assert_eq!(hooked["address"], 0);
    target.obey(&format!("free {}", hooked["id"]));
    target.obey("hook off");
    let real = target.obey("alloc DRAM 2048 2048");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &real)]);
    assert_eq!(process.count("hooked_allocations"), 1);
    assert_eq!(process.count("failed_allocations"), 0);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.memory("mesh", 0, "DRAM", "allocated_bytes"), 2048);
    assert_eq!(process.memory("mesh", 0, "DRAM", "deallocations"), 0);
    let events = dir.events();
    let [event] = events_named(&events, "hooked")[..] else {
        panic!("not one hooked allocation: {events:?}");
    };
    assert_eq!(unsigned(event, "size"), 4096);
    assert_eq!(unsigned(event, "address"), 0);
}

fn a_failed_allocation_is_counted_and_caught(generation: Generation) {
    let dir = WorkDir::new();
    let error = Cpp::alone(&dir, generation, 1).refuse("oom");
    assert!(error.contains("Out of Memory"), "{error}");

    let mut target = run(&dir, generation, 1);
    assert_eq!(target.refuse("oom"), error);
    let buffer = target.obey("alloc DRAM 4096 4096");
    assert!(target.refuse("oom").contains("Out of Memory"));
    target.expect_unharmed();
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.count("failed_allocations"), 2);
    assert_eq!(process.owning(), [live("mesh", &buffer)]);
    assert_eq!(process.memory("mesh", 0, "DRAM", "allocations"), 2);
    assert_eq!(process.memory("mesh", 0, "DRAM", "peak_bytes"), 8192);
    let events = dir.events();
    let failed = events_named(&events, "failed");
    assert_eq!(failed.len(), 2);
    assert!(
        failed
            .iter()
            .all(|event| unsigned(event, "size") == 1 << 40)
    );
}

fn a_buffer_of_no_bytes_is_no_memory(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    let empty = target.obey("alloc DRAM 0 0");
    target.obey(&format!("free {}", empty["id"]));
    let buffer = target.obey("alloc DRAM 2048 2048");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &buffer)]);
    assert_eq!(process.count("failed_allocations"), 0);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.memory("mesh", 0, "DRAM", "allocations"), 1);
}

fn every_type_and_layout_is_told_apart(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    let mut expected: Vec<Value> = Vec::new();
    for (index, buffer_type) in ["DRAM", "L1", "SYSTEM_MEMORY", "L1_SMALL", "TRACE"]
        .iter()
        .enumerate()
    {
        let size = 1024 * (index + 1);
        expected.push(target.obey(&format!("alloc {buffer_type} {size} 1024")));
    }
    for layout in [
        "SINGLE_BANK",
        "HEIGHT_SHARDED",
        "WIDTH_SHARDED",
        "BLOCK_SHARDED",
        "ND_SHARDED",
    ] {
        expected.push(target.obey(&format!("alloc L1 1024 512 {layout}")));
    }
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    let mut buffers: Vec<Live> = expected.iter().map(|buffer| live("mesh", buffer)).collect();
    buffers.sort();
    assert_eq!(process.owning(), buffers);
    let traced = process.0["live_buffers"].as_array().expect("a list");
    for buffer in &expected {
        let same = traced.iter().find(|traced| {
            ["address", "buffer_type"]
                .iter()
                .all(|field| traced[field] == buffer[field])
        });
        let same = same.unwrap_or_else(|| panic!("{buffer} is not in {traced:?}"));
        assert_eq!(same["layout"], buffer["layout"]);
        assert_eq!(same["page_size"], buffer["page_size"]);
    }
    assert_eq!(process.memory("chip", 0, "L1_SMALL", "live_bytes"), 4096);
    assert_eq!(process.memory("chip", 0, "TRACE", "live_bytes"), 5120);
    assert_eq!(
        process.memory("chip", 0, "SYSTEM_MEMORY", "live_bytes"),
        3072
    );
}

/// `deallocate()` frees, and the destructor that follows doesn't free again.
fn deallocated_is_freed_once(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    let twice = target.obey("alloc DRAM 4096 4096");
    target.obey(&format!("deallocate {}", twice["id"]));
    target.obey(&format!("deallocate {}", twice["id"]));
    let reuser = target.obey("alloc DRAM 4096 4096");
    assert_eq!(reuser["address"], twice["address"]);
    target.obey(&format!("drop {}", twice["id"]));
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &reuser)]);
    assert_eq!(process.memory("chip", 0, "DRAM", "deallocations"), 1);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.count("implied_deallocations"), 0);
    assert_eq!(summary.0["events"]["exact"], true);
}

fn closing_frees_all_at_once(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 2);
    target.obey("alloc DRAM 4096 4096");
    target.obey("alloc L1 2048 1024");
    target.obey("alloc DRAM 1024 1024 chip 0");
    target.obey("close");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    assert_eq!(
        process.memory("chip", 0, "DRAM", "freed_bytes"),
        4096 + 1024
    );
    assert_eq!(process.memory("chip", 1, "L1", "freed_bytes"), 2048);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    // The allocator of the mesh and of each chip.
    assert_eq!(process.count("bulk_frees"), 3);
    let events = dir.events();
    let freed: Vec<u64> = events_named(&events, "bulk_free")
        .iter()
        .map(|event| unsigned(event, "freed_buffers"))
        .collect();
    assert_eq!(freed, [2, 1, 0]);
    assert_eq!(events_named(&events, "deallocate").len(), 0);
}

/// A long and mixed life; the witness is the allocators' own list.
fn the_books_agree_with_the_allocator(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 3);
    let mut held: Vec<u64> = Vec::new();
    // A fixed, arbitrary sequence: no two runs differ.
    let mut state = 12345_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..400 {
        match next(5) {
            0 if !held.is_empty() => {
                let index = usize::try_from(next(held.len() as u64)).expect("an index");
                let verb = ["free", "drop"][usize::try_from(next(2)).expect("0 or 1")];
                let id = held.swap_remove(index);
                target.obey(&format!("{verb} {id}"));
            }
            1 => {
                target.refuse("oom");
            }
            2 => {
                let (chip, pages) = (next(3), 1 + next(4));
                let buffer = target.obey(&format!("alloc L1 {} 1024 chip {chip}", pages * 1024));
                held.push(unsigned(&buffer, "id"));
            }
            _ => {
                let pages = 1 + next(64);
                let buffer = target.obey(&format!("alloc DRAM {} 2048", pages * 2048));
                held.push(unsigned(&buffer, "id"));
            }
        }
    }
    let last = target.obey("alloc DRAM 2048 2048");
    let listed = target.obey("live");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    let mut expected: Vec<Live> = listed["live"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|buffer| live(text(buffer, "kind"), buffer))
        .collect();
    expected.sort();
    assert!(expected.len() > 50, "the sequence leaves much alive");
    assert_eq!(process.owning(), expected);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(process.count("implied_deallocations"), 0);

    let events = dir.events();
    let failed = events_named(&events, "failed").len() as u64;
    assert_eq!(process.count("failed_allocations"), failed);
    let ids = unique_ids(&events);
    assert_eq!(ids.first_gap_since(0), None);
    assert_eq!(ids.last(), last["members"][2]["unique_id"].as_u64());
}

fn threads_are_followed(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    target.obey("threads 4 2000");
    let kept = target.obey("alloc DRAM 2048 2048");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &kept)]);
    let sum =
        |name| process.memory("mesh", 0, "DRAM", name) + process.memory("mesh", 0, "L1", name);
    assert_eq!(sum("allocations"), 8001);
    assert_eq!(sum("deallocations"), 8000);
    let events = dir.events();
    let mut threads: Vec<u64> = events_named(&events, "allocate")
        .iter()
        .map(|event| unsigned(event, "tid"))
        .collect();
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 5);
}

/// The library comes with an import, long after the process started, and allocates at once.
fn a_late_library_is_traced_from_its_first_buffer(generation: Generation) {
    let dir = WorkDir::new();
    let late = generation.late(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&late).start());
    // All in one write: nothing waits for the tracer between the load and the first buffer.
    let session = generation.session(Variant::Plain);
    target.process.send(&format!(
        "load {}\nmesh 1\nalloc DRAM 4096 4096",
        session.display()
    ));
    let answers = [
        target.process.line(),
        target.process.line(),
        target.process.line(),
    ];
    let buffer: Value = serde_json::from_str(&answers[2]).expect("JSON");
    assert_eq!(buffer["unique_id"], 0);
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &buffer)]);
    assert_eq!(process.non_owning(), [live("chip", &buffer["members"][0])]);
    assert_eq!(process.0["attached"], "start");
}

/// `.symtab` is for debuggers: what a tracer needs is in `.dynsym`.
fn a_stripped_library_is_traced_too(generation: Generation) {
    traced(generation, Variant::Stripped);
}

/// Other witnesses may be enough, or not; then the error shows the accessor's code.
fn an_accessor_that_cannot_be_read_is_no_guess(generation: Generation) {
    let dir = WorkDir::new();
    let check = Tracer::bare(&dir, &["check", "--library"])
        .arguments([generation.library(Variant::Opaque)])
        .start()
        .finish();
    if check.code() == Some(0) {
        traced(generation, Variant::Opaque);
    } else {
        check.expect_code(6);
        let said = check.text() + &check.stderr;
        assert!(said.contains(generation.bent_accessor()), "{said}");
        assert!(said.contains("jmp"), "{said}");
    }
}

fn traced(generation: Generation, variant: Variant) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, variant);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    let buffer = target.obey("alloc DRAM 8192 4096");
    target.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live("mesh", &buffer)]);
    let traced = process.owning_at(unsigned(&buffer, "address"));
    assert_eq!(traced["page_size"], buffer["page_size"]);
}

fn peaks_are_kept_after_the_memory_is_gone(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = run(&dir, generation, 1);
    for _ in 0..2 {
        let large = target.obey("alloc DRAM 1048576 2048");
        let small = target.obey("alloc DRAM 2048 2048");
        target.obey(&format!("free {}", large["id"]));
        target.obey(&format!("free {}", small["id"]));
    }
    target.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    let figure = |name| process.memory("chip", 0, "DRAM", name);
    assert_eq!(figure("peak_bytes"), 1_048_576 + 2048);
    assert_eq!(figure("live_bytes"), 0);
    let events = dir.events();
    let second = unsigned(events_named(&events, "allocate")[1], "time_ns");
    assert_eq!(figure("peak_at_ns"), second, "when it was first reached");
}
