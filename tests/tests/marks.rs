//! Marks, set by the command and by a signal, under `run`, `attach` and `attach --all`.

use rustix::process::Signal;
use tt_memtrace_tests::{
    Cpp, Finished, Generation, Mark, Process, Tracer, Variant, WorkDir, events_named,
    for_each_generation, text, unsigned, wait_for,
};

for_each_generation!(
    a_mark_separates_the_events_before_it_from_those_after_it,
    a_signal_sets_a_mark_and_ends_neither_tracer_nor_target,
    the_attach_snapshot_belongs_before_the_first_mark,
    attach_all_can_be_marked_before_there_is_a_process,
    one_of_several_tracers_can_be_marked,
    a_process_that_is_no_tracer_is_left_alone,
);

/// `tt-memtrace mark` with these arguments.
fn mark(dir: &WorkDir, arguments: &[&str]) -> Finished {
    Tracer::bare(dir, &["mark"])
        .arguments(arguments)
        .start()
        .finish()
}

/// Sets a mark in this tracer, and returns what the command prints.
#[track_caller]
fn mark_by(dir: &WorkDir, tracer: &Process, name: &[&str]) -> String {
    let pid = tracer.pid().to_string();
    let marked = mark(dir, &[&["--pid", &pid], name].concat());
    marked.expect_code(0);
    marked.text()
}

/// What has changed in a process since a mark: numbers and bytes of new buffers, and of those that are gone.
#[track_caller]
fn since(dir: &WorkDir, pid: u32, mark: u64) -> [Vec<(u64, u64)>; 2] {
    let summary = dir.summary();
    let all = &summary.expect_complete().process(pid).since_marks;
    let since = all.iter().find(|since| since.mark == mark);
    let since = since.unwrap_or_else(|| panic!("nothing since mark {mark}: {all:?}"));
    [&since.new, &since.gone].map(|groups| {
        let groups = groups.iter().map(|placed| &placed.group);
        groups.map(|group| (group.buffers, group.bytes)).collect()
    })
}

/// The test doesn't wait between the target's answers and the marks: once the mark command has returned, the mark is
/// set.
fn a_mark_separates_the_events_before_it_from_those_after_it(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(
        Tracer::run(&dir)
            .arguments(["--stacks", "none"])
            .traced(&target)
            .start(),
    );
    let pid = target.pid();
    target.obey("mesh 1");
    let rounds = 30;
    for round in 1..=rounds {
        let kept = target.obey("alloc DRAM 4096 4096");
        let printed = mark_by(&dir, &target.process, &[&format!("round {round}")]);
        assert!(
            printed.starts_with(&format!(
                "mark {round} “round {round}”: 1 buffer, 4.00 KiB DRAM live\n"
            )),
            "{printed}"
        );
        target.obey(&format!("free {}", kept["id"]));
    }
    let last = target.obey("alloc L1 2048 2048");
    target.finish().expect_code(0);

    let events = dir.events();
    let order: Vec<&str> = events.iter().map(|event| text(event, "event")).collect();
    let order: Vec<&str> = order
        .into_iter()
        .filter(|name| ["allocate", "deallocate", "mark"].contains(name))
        .collect();
    let expected = ["allocate", "mark", "deallocate"].repeat(rounds);
    assert_eq!(order[..expected.len()], expected);
    let marks = events_named(&events, "mark");
    assert_eq!(marks[4]["name"], "round 5");
    assert_eq!(marks[4]["number"], 5);

    let summary = dir.summary();
    assert_eq!(summary.marks.len(), rounds);
    for (mark, event) in summary.marks.iter().zip(marks) {
        let expected = Mark {
            number: unsigned(event, "number"),
            name: Some(text(event, "name").to_owned()),
            at_ns: unsigned(event, "time_ns"),
        };
        assert_eq!(*mark, expected);
    }
    // The last buffer is gone if the target closed its device at the end.
    let left = usize::from(summary.process(pid).owning().len() == 1);
    assert_eq!(unsigned(&last, "size"), 2048);
    for number in 1..=rounds as u64 {
        let [new, gone] = since(&dir, pid, number);
        assert_eq!(new, vec![(1, 2048); left]);
        assert_eq!(gone, [(1, 4096)]);
    }
}

fn a_signal_sets_a_mark_and_ends_neither_tracer_nor_target(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    let mut tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {
        target.obey("burst 1");
    });
    for number in 1..=3 {
        target.obey("alloc DRAM 4096 4096");
        tracer.signal(Signal::USR1);
        let line = format!("mark {number}: {number} buffer");
        wait_for(&line, || tracer.stderr().contains(&line));
    }
    let change = "since mark 2: what is new (+)";
    wait_for(change, || tracer.stderr().contains(change));
    target.expect_unharmed();
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);
    target.finish().expect_code(0);
    let [new, gone] = since(&dir, pid, 1);
    assert_eq!(new.iter().map(|(buffers, _)| buffers).sum::<u64>(), 2);
    assert_eq!(gone, []);
}

/// A mark that comes during the snapshot waits until the snapshot is read.
fn the_attach_snapshot_belongs_before_the_first_mark(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    let before = target.obey("alloc DRAM 8192 8192");
    let mut tracer = Tracer::attach_to(&dir, pid).start();
    wait_for("the tracer's socket", || {
        tracer.stderr().contains("tracing ")
    });
    let printed = mark_by(&dir, &tracer, &[]);
    assert_eq!(printed, "mark 1: 1 buffer, 8.00 KiB DRAM live\n");
    target.obey(&format!("free {}", before["id"]));
    let printed = mark_by(&dir, &tracer, &["freed"]);
    assert!(
        printed.starts_with("mark 2 “freed”: nothing live\n"),
        "{printed}"
    );
    assert!(printed.contains("−8.00 KiB"), "{printed}");
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);
    assert_eq!(since(&dir, pid, 1), [vec![], vec![(1, 8192)]]);
    assert_eq!(since(&dir, pid, 2), [vec![], vec![]]);
}

fn attach_all_can_be_marked_before_there_is_a_process(generation: Generation) {
    let dir = WorkDir::new();
    let mut tracer = Tracer::attach(&dir).arguments(["--all"]).start();
    // Targets of other tests may be running at the same time.
    wait_for("the tracer to trace", || {
        let printed = tracer.stderr();
        printed.contains("waiting for") || printed.contains("and every process")
    });
    let printed = mark_by(&dir, &tracer, &["before"]);
    assert!(printed.starts_with("mark 1 “before”: "), "{printed}");
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    wait_for("the target's library", || {
        tracer.stderr().contains(&format!("(pid {pid})"))
    });
    target.obey("alloc DRAM 4096 4096");
    let printed = mark_by(&dir, &tracer, &[]);
    assert!(
        printed.contains(&format!("(pid {pid}) since mark 1 “before”")),
        "{printed}"
    );
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);
    let summary = dir.summary();
    let since = &summary.process(pid).since_marks;
    let marks: Vec<u64> = since.iter().map(|since| since.mark).collect();
    assert_eq!(marks, [1, 2]);
    assert_eq!(since[0].new.len(), 1);
}

fn one_of_several_tracers_can_be_marked(generation: Generation) {
    let dirs = [WorkDir::new(), WorkDir::new()];
    let mut targets = dirs.each_ref().map(|dir| {
        let target = generation.target(dir, Variant::Plain);
        let mut target = Cpp::from(Tracer::run(dir).traced(&target).start());
        target.pid();
        target
    });
    let done = mark(&dirs[0], &["which"]);
    done.expect_code(3);
    for target in &targets {
        assert!(
            done.stderr.contains(&target.process.pid().to_string()),
            "{}",
            done.stderr
        );
    }
    mark_by(&dirs[0], &targets[1].process, &["this one"]);
    for target in targets.each_mut() {
        target.pid();
    }
    for target in targets {
        target.finish().expect_code(0);
    }
    let [first, second] = dirs.each_ref().map(|dir| dir.summary().marks);
    assert_eq!(first, []);
    let names: Vec<Option<&str>> = second.iter().map(|mark| mark.name.as_deref()).collect();
    assert_eq!(names, [Some("this one")]);
}

/// SIGUSR1 would end a process that has no handler for it, so the command doesn't send it.
fn a_process_that_is_no_tracer_is_left_alone(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid().to_string();
    for name in [&[][..], &["x"]] {
        let done = mark(&dir, &[&["--pid", &pid], name].concat());
        done.expect_code(3);
        assert!(
            done.stderr
                .contains(&format!("process {pid} is no tt-memtrace that traces")),
            "{}",
            done.stderr
        );
    }
    for wrong in ["", "two\nlines", &"x".repeat(201)] {
        mark(&dir, &[wrong]).expect_code(2);
    }
    target.expect_unharmed();
    target.finish().expect_code(0);
}
