//! The rules of accounting, on the C++ target: each test makes one thing happen and compares the summary with what
//! the target reports.

use serde_json::Value;
use tt_memtrace_tests::{
    Attached, Cpp, Device, Generation, LiveBuffer, ProcessSummary, Summary, Tracer, Variant,
    WorkDir, events_named, for_each_generation, list, only_event, parsed, unique_ids, unsigned,
};

for_each_generation!(
    a_mesh_buffer_counts_once_on_each_chip,
    a_buffer_of_one_chip_counts_there_alone,
    views_are_listed_and_counted_nowhere,
    a_hooked_allocation_is_no_memory,
    a_failed_allocation_is_counted_and_caught,
    a_buffer_of_no_bytes_is_no_memory,
    every_type_and_layout_is_distinguished,
    deallocated_is_freed_once,
    closing_frees_all_at_once,
    the_totals_agree_with_the_allocator,
    threads_are_followed,
    a_late_library_is_traced_from_its_first_buffer,
    a_stripped_library_is_traced_too,
    an_accessor_that_cannot_be_read_is_no_guess,
    peaks_are_kept_after_the_memory_is_gone,
);

/// A finished trace of the target from its start.
struct Trace {
    dir: WorkDir,
    summary: Summary,
}

impl Trace {
    /// Runs the target under `tt-memtrace run`, opens a mesh of that many chips, gives the commands and lets the
    /// target end. Returns what the commands returned, too.
    fn new<T>(
        generation: Generation,
        variant: Variant,
        chips: u32,
        commands: impl FnOnce(&mut Cpp) -> T,
    ) -> (T, Self) {
        let dir = WorkDir::new();
        let target = generation.target(&dir, variant);
        let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
        target.obey(&format!("mesh {chips}"));
        let returned = commands(&mut target);
        target.finish().expect_code(0);
        let summary = dir.summary();
        (returned, Self { dir, summary })
    }

    /// The target, of which no event was lost and every total adds up.
    #[track_caller]
    fn process(&self) -> &ProcessSummary {
        let process = self.summary.expect_complete().only_process();
        process.expect_balanced()
    }

    fn events(&self) -> Vec<Value> {
        self.dir.events()
    }
}

/// [`Trace::new`] of the plain library.
fn traced<T>(
    generation: Generation,
    chips: u32,
    commands: impl FnOnce(&mut Cpp) -> T,
) -> (T, Trace) {
    Trace::new(generation, Variant::Plain, chips, commands)
}

fn a_mesh_buffer_counts_once_on_each_chip(generation: Generation) {
    let (kept, trace) = traced(generation, 2, |target| {
        let kept = target.obey("alloc DRAM 524288 2048");
        let freed = target.obey("alloc DRAM 8192 2048");
        target.obey(&format!("free {}", freed["id"]));
        kept
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&kept)]);
    let members = list(&kept, "members").iter();
    let members: Vec<LiveBuffer> = members.map(LiveBuffer::on_chip).collect();
    assert_eq!(process.non_owning(), members);
    assert_eq!(process.members(0), [0, 1]);
    for device in [Device::mesh(0), Device::chip(0), Device::chip(1)] {
        let usage = process.memory(device, "DRAM");
        assert_eq!(usage.live_bytes, 524_288, "{device:?}");
        assert_eq!(usage.live_buffers, 1, "{device:?}");
        assert_eq!(usage.allocated_bytes, 524_288 + 8192, "{device:?}");
        assert_eq!(usage.freed_bytes, 8192, "{device:?}");
        assert_eq!(usage.allocations, 2, "{device:?}");
        assert_eq!(usage.deallocations, 1, "{device:?}");
    }
    assert_eq!(process.non_owning.live, 2);
    assert_eq!(process.non_owning.created, 4);
    assert_eq!(process.non_owning.destroyed, 2);

    let buffer = process.owning_at(unsigned(&kept, "address"));
    assert_eq!(buffer.size, unsigned(&kept, "size"));
    assert_eq!(buffer.page_size, unsigned(&kept, "page_size"));
    assert_eq!(kept["buffer_type"], *buffer.buffer_type);
    assert_eq!(kept["layout"], *buffer.layout);
    assert_eq!(kept["device_id"], buffer.device.id);
    if let Some(id) = buffer.unique_id {
        assert_eq!(kept["unique_id"], id);
    }
    assert!(!buffer.before_attach);
}

fn a_buffer_of_one_chip_counts_there_alone(generation: Generation) {
    let (buffer, trace) = traced(generation, 2, |target| {
        target.obey("alloc L1 8192 1024 chip 1")
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_chip(&buffer)]);
    for (device, bytes) in [
        (Device::chip(1), 8192),
        (Device::chip(0), 0),
        (Device::mesh(0), 0),
    ] {
        let usage = process.memory(device, "L1");
        assert_eq!(usage.live_bytes, bytes, "{device:?}");
    }
}

fn views_are_listed_and_counted_nowhere(generation: Generation) {
    let ((buffer, view), trace) = traced(generation, 1, |target| {
        let buffer = target.obey("alloc DRAM 65536 2048");
        let view = target.obey(&format!("create-view {} 4096 8192", buffer["id"]));
        let dropped = target.obey(&format!("create-view {} 0 2048", buffer["id"]));
        target.obey(&format!("drop {}", dropped["id"]));
        (buffer, view)
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    let mut expected = [
        LiveBuffer::on_chip(&buffer["members"][0]),
        LiveBuffer::on_mesh(&view),
    ];
    expected.sort();
    assert_eq!(process.non_owning(), expected);
    assert_eq!(process.memory(Device::chip(0), "DRAM").live_bytes, 65536);
    assert_eq!(process.memory(Device::mesh(0), "DRAM").allocations, 1);
    assert_eq!(process.non_owning.destroyed, 1);
}

fn a_hooked_allocation_is_no_memory(generation: Generation) {
    let (real, trace) = traced(generation, 1, |target| {
        target.obey("hook on");
        let hooked = target.obey("alloc DRAM 4096 4096");
        assert_eq!(hooked["address"], 0);
        target.obey(&format!("free {}", hooked["id"]));
        target.obey("hook off");
        target.obey("alloc DRAM 2048 2048")
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&real)]);
    assert_eq!(process.hooked_allocations, 1);
    assert_eq!(process.failed_allocations, 0);
    assert_eq!(process.unmatched_deallocations, 0);
    let usage = process.memory(Device::mesh(0), "DRAM");
    assert_eq!(usage.allocated_bytes, 2048);
    assert_eq!(usage.deallocations, 0);
    let events = trace.events();
    let event = only_event(&events, "hooked");
    assert_eq!(unsigned(event, "size"), 4096);
    assert_eq!(unsigned(event, "address"), 0);
}

fn a_failed_allocation_is_counted_and_caught(generation: Generation) {
    let error = Cpp::alone(&WorkDir::new(), generation, 1).refuse("oom");
    assert!(error.contains("Out of Memory"), "{error}");

    let (buffer, trace) = traced(generation, 1, |target| {
        assert_eq!(target.refuse("oom"), error);
        let buffer = target.obey("alloc DRAM 4096 4096");
        assert!(target.refuse("oom").contains("Out of Memory"));
        target.expect_unharmed();
        buffer
    });
    let process = trace.process();
    assert_eq!(process.failed_allocations, 2);
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    let usage = process.memory(Device::mesh(0), "DRAM");
    assert_eq!(usage.allocations, 2);
    assert_eq!(usage.peak_bytes, 8192);
    let events = trace.events();
    let failed = events_named(&events, "failed");
    let sizes: Vec<u64> = failed.iter().map(|event| unsigned(event, "size")).collect();
    assert_eq!(sizes, [1 << 40; 2]);
}

fn a_buffer_of_no_bytes_is_no_memory(generation: Generation) {
    let (buffer, trace) = traced(generation, 1, |target| {
        let empty = target.obey("alloc DRAM 0 0");
        target.obey(&format!("free {}", empty["id"]));
        target.obey("alloc DRAM 2048 2048")
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    assert_eq!(process.failed_allocations, 0);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.memory(Device::mesh(0), "DRAM").allocations, 1);
}

fn every_type_and_layout_is_distinguished(generation: Generation) {
    let commands = [
        "alloc DRAM 1024 1024",
        "alloc L1 2048 1024",
        "alloc SYSTEM_MEMORY 3072 1024",
        "alloc L1_SMALL 4096 1024",
        "alloc TRACE 5120 1024",
        "alloc L1 1024 512 SINGLE_BANK",
        "alloc L1 1024 512 HEIGHT_SHARDED",
        "alloc L1 1024 512 WIDTH_SHARDED",
        "alloc L1 1024 512 BLOCK_SHARDED",
        "alloc L1 1024 512 ND_SHARDED",
    ];
    let (expected, trace) = traced(generation, 1, |target| {
        commands.map(|command| target.obey(command))
    });
    let process = trace.process();
    let mut buffers = expected.each_ref().map(LiveBuffer::on_mesh);
    buffers.sort();
    assert_eq!(process.owning(), buffers);
    for buffer in &expected {
        let is_same = |traced: &&tt_memtrace_tests::Buffer| {
            buffer["address"] == traced.address && buffer["buffer_type"] == *traced.buffer_type
        };
        let same = process.live_buffers.iter().find(is_same);
        let same = same.unwrap_or_else(|| panic!("{buffer} is not in the summary"));
        assert_eq!(buffer["layout"], *same.layout);
        assert_eq!(buffer["page_size"], same.page_size);
    }
    for (buffer_type, bytes) in [("L1_SMALL", 4096), ("TRACE", 5120), ("SYSTEM_MEMORY", 3072)] {
        let usage = process.memory(Device::chip(0), buffer_type);
        assert_eq!(usage.live_bytes, bytes, "{buffer_type}");
    }
}

/// `deallocate()` frees, and the destructor that follows doesn't free again.
fn deallocated_is_freed_once(generation: Generation) {
    let (reuser, trace) = traced(generation, 1, |target| {
        let twice = target.obey("alloc DRAM 4096 4096");
        target.obey(&format!("deallocate {}", twice["id"]));
        target.obey(&format!("deallocate {}", twice["id"]));
        let reuser = target.obey("alloc DRAM 4096 4096");
        assert_eq!(reuser["address"], twice["address"]);
        target.obey(&format!("drop {}", twice["id"]));
        reuser
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&reuser)]);
    assert_eq!(process.memory(Device::chip(0), "DRAM").deallocations, 1);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.implied_deallocations, 0);
    assert!(trace.summary.events.exact);
}

fn closing_frees_all_at_once(generation: Generation) {
    let ((), trace) = traced(generation, 2, |target| {
        target.obey("alloc DRAM 4096 4096");
        target.obey("alloc L1 2048 1024");
        target.obey("alloc DRAM 1024 1024 chip 0");
        target.obey("close");
    });
    let process = trace.process();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    let freed = |chip, buffer_type| process.memory(Device::chip(chip), buffer_type).freed_bytes;
    assert_eq!(freed(0, "DRAM"), 4096 + 1024);
    assert_eq!(freed(1, "L1"), 2048);
    assert_eq!(process.unmatched_deallocations, 0);
    // One for the allocator of the mesh and one for each chip's.
    assert_eq!(process.bulk_frees, 3);
    let events = trace.events();
    let freed: Vec<u64> = events_named(&events, "bulk_free")
        .iter()
        .map(|event| unsigned(event, "freed_buffers"))
        .collect();
    assert_eq!(freed, [2, 1, 0]);
    assert_eq!(events_named(&events, "deallocate").len(), 0);
}

/// A long sequence of mixed commands, compared with the allocators' own list.
fn the_totals_agree_with_the_allocator(generation: Generation) {
    let ((last, listed), trace) = traced(generation, 3, |target| {
        let mut held: Vec<u64> = Vec::new();
        // A pseudorandom sequence with a fixed seed: every run is the same.
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
                    let buffer =
                        target.obey(&format!("alloc L1 {} 1024 chip {chip}", pages * 1024));
                    held.push(unsigned(&buffer, "id"));
                }
                _ => {
                    let pages = 1 + next(64);
                    let buffer = target.obey(&format!("alloc DRAM {} 2048", pages * 2048));
                    held.push(unsigned(&buffer, "id"));
                }
            }
        }
        (target.obey("alloc DRAM 2048 2048"), target.obey("live"))
    });
    let process = trace.process();
    let expected = LiveBuffer::listed(&listed);
    assert!(expected.len() > 50, "the sequence leaves many buffers live");
    assert_eq!(process.owning(), expected);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.implied_deallocations, 0);

    let events = trace.events();
    let failed = events_named(&events, "failed").len() as u64;
    assert_eq!(process.failed_allocations, failed);
    let ids = unique_ids(&events);
    assert_eq!(ids.first_gap_since(0), None);
    assert_eq!(ids.last(), last["members"][2]["unique_id"].as_u64());
}

fn threads_are_followed(generation: Generation) {
    let (kept, trace) = traced(generation, 1, |target| {
        target.obey("threads 4 2000");
        target.obey("alloc DRAM 2048 2048")
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&kept)]);
    let usages = ["DRAM", "L1"].map(|name| process.memory(Device::mesh(0), name));
    let allocations: u64 = usages.iter().map(|usage| usage.allocations).sum();
    let deallocations: u64 = usages.iter().map(|usage| usage.deallocations).sum();
    assert_eq!((allocations, deallocations), (8001, 8000));
    let events = trace.events();
    let mut threads: Vec<u64> = events_named(&events, "allocate")
        .iter()
        .map(|event| unsigned(event, "tid"))
        .collect();
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 5);
}

/// The library is loaded long after the process started, as by an import, and is used at once.
fn a_late_library_is_traced_from_its_first_buffer(generation: Generation) {
    let dir = WorkDir::new();
    let late = generation.late(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&late).start());
    // All commands in one write: the target doesn't wait for the tracer between the load and the first buffer.
    let session = generation.session(Variant::Plain);
    target.process.send(&format!(
        "load {}\nmesh 1\nalloc DRAM 4096 4096",
        session.display()
    ));
    let [_, _, answer] = [(); 3].map(|()| target.process.line());
    let buffer = parsed(&answer);
    assert_eq!(buffer["unique_id"], 0);
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    let member = LiveBuffer::on_chip(&buffer["members"][0]);
    assert_eq!(process.non_owning(), [member]);
    assert_eq!(process.attached, Attached::Start);
}

/// `.symtab` is for debuggers: the symbols that a tracer needs are in `.dynsym`.
fn a_stripped_library_is_traced_too(generation: Generation) {
    expect_traced(generation, Variant::Stripped);
}

/// Other evidence may be enough. If it isn't, the error shows the accessor's code.
fn an_accessor_that_cannot_be_read_is_no_guess(generation: Generation) {
    let dir = WorkDir::new();
    let check = Tracer::bare(&dir, &["check", "--library"])
        .arguments([generation.library(Variant::Opaque)])
        .start()
        .finish();
    if check.code() == Some(0) {
        expect_traced(generation, Variant::Opaque);
    } else {
        check.expect_code(6);
        let printed = check.text() + &check.stderr;
        let accessor = generation.changed_accessor();
        assert!(printed.contains(accessor), "{printed}");
        assert!(printed.contains("jmp"), "{printed}");
    }
}

/// The summary has the buffer that the target allocated on this variant of the library.
fn expect_traced(generation: Generation, variant: Variant) {
    let (buffer, trace) = Trace::new(generation, variant, 1, |target| {
        target.obey("alloc DRAM 8192 4096")
    });
    let process = trace.process();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    let traced = process.owning_at(unsigned(&buffer, "address"));
    assert_eq!(traced.page_size, unsigned(&buffer, "page_size"));
}

fn peaks_are_kept_after_the_memory_is_gone(generation: Generation) {
    let ((), trace) = traced(generation, 1, |target| {
        for _ in 0..2 {
            let large = target.obey("alloc DRAM 1048576 2048");
            let small = target.obey("alloc DRAM 2048 2048");
            target.obey(&format!("free {}", large["id"]));
            target.obey(&format!("free {}", small["id"]));
        }
    });
    let usage = trace.process().memory(Device::chip(0), "DRAM");
    assert_eq!(usage.peak_bytes, 1_048_576 + 2048);
    assert_eq!(usage.live_bytes, 0);
    let events = trace.events();
    let second = unsigned(events_named(&events, "allocate")[1], "time_ns");
    assert_eq!(usage.peak_at_ns, second, "when it was first reached");
}
