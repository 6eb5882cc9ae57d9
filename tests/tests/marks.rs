//! Marks, by a signal and by the command: whoever is traced, and however.

use rustix::process::Signal;
use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cpp, Finished, Generation, Process, Tracer, Variant, WorkDir, events_named,
    for_each_generation, text, unsigned, wait_for,
};

for_each_generation!(
    a_mark_stands_between_what_was_before_and_what_comes_after,
    a_signal_marks_and_neither_tracer_nor_target_dies_of_it,
    what_was_there_before_attaching_was_there_at_the_first_mark,
    all_can_be_marked_before_there_is_anybody,
    of_several_tracers_one_is_chosen,
    who_is_no_tracer_is_left_alone,
);

/// `tt-memtrace mark` with these arguments.
fn mark(dir: &WorkDir, arguments: &[&str]) -> Finished {
    Tracer::bare(dir, &["mark"])
        .arguments(arguments)
        .start()
        .finish()
}

/// Marks a moment of this tracer's, and gives what that says.
#[track_caller]
fn mark_by(dir: &WorkDir, tracer: &Process, name: &[&str]) -> String {
    let pid = tracer.pid().to_string();
    let marked = mark(dir, &[&["--pid", &pid], name].concat());
    marked.expect_code(0);
    marked.text()
}

/// What has changed in the only process since a mark: sizes of what is new and of what is gone.
#[track_caller]
fn since(dir: &WorkDir, pid: u32, mark: u64) -> [Vec<(u64, u64)>; 2] {
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    let all = process.0["since_marks"].as_array().expect("a list");
    let since = all.iter().find(|since| since["mark"] == mark);
    let since = since.unwrap_or_else(|| panic!("nothing since mark {mark}: {all:?}"));
    ["new", "gone"].map(|which| {
        let groups = since[which].as_array().expect("a list").iter();
        groups
            .map(|group| (unsigned(group, "buffers"), unsigned(group, "bytes")))
            .collect()
    })
}

/// Nothing but the program's own pace stands between its deeds and the marks: whoever has been answered
/// need wait for nothing.
fn a_mark_stands_between_what_was_before_and_what_comes_after(generation: Generation) {
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
        let said = mark_by(&dir, &target.process, &[&format!("round {round}")]);
        assert!(
            said.starts_with(&format!(
                "mark {round} “round {round}”: 1 buffer, 4.00 KiB DRAM live\n"
            )),
            "{said}"
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
    let told = summary.0["marks"].as_array().expect("a list");
    assert_eq!(told.len(), rounds);
    for (told, event) in told.iter().zip(marks) {
        let event = json!({
            "number": event["number"], "name": event["name"], "at_ns": event["time_ns"],
        });
        assert_eq!(*told, event);
    }
    // The last buffer goes with the device, if that is closed at the end.
    let left = usize::from(summary.process(pid).owning().len() == 1);
    assert_eq!(unsigned(&last, "size"), 2048);
    for number in 1..=rounds as u64 {
        let [new, gone] = since(&dir, pid, number);
        assert_eq!(new, vec![(1, 2048); left]);
        assert_eq!(gone, [(1, 4096)]);
    }
}

fn a_signal_marks_and_neither_tracer_nor_target_dies_of_it(generation: Generation) {
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

/// However soon the mark comes: it waits until the reading is over.
fn what_was_there_before_attaching_was_there_at_the_first_mark(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    let before = target.obey("alloc DRAM 8192 8192");
    let mut tracer = Tracer::attach_to(&dir, pid).start();
    wait_for("the tracer's socket", || {
        tracer.stderr().contains("tracing ")
    });
    let said = mark_by(&dir, &tracer, &[]);
    assert_eq!(said, "mark 1: 1 buffer, 8.00 KiB DRAM live\n");
    target.obey(&format!("free {}", before["id"]));
    let said = mark_by(&dir, &tracer, &["freed"]);
    assert!(said.starts_with("mark 2 “freed”: nothing live\n"), "{said}");
    assert!(said.contains("−8.00 KiB"), "{said}");
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);
    assert_eq!(since(&dir, pid, 1), [vec![], vec![(1, 8192)]]);
    assert_eq!(since(&dir, pid, 2), [vec![], vec![]]);
}

fn all_can_be_marked_before_there_is_anybody(generation: Generation) {
    let dir = WorkDir::new();
    let mut tracer = Tracer::attach(&dir).arguments(["--all"]).start();
    // Of other tests there may be targets at any time.
    wait_for("the tracer to trace", || {
        let said = tracer.stderr();
        said.contains("waiting for") || said.contains("and every process")
    });
    let said = mark_by(&dir, &tracer, &["before"]);
    assert!(said.starts_with("mark 1 “before”: "), "{said}");
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.pid();
    wait_for("the target's library", || {
        tracer.stderr().contains(&format!("(pid {pid})"))
    });
    target.obey("alloc DRAM 4096 4096");
    let said = mark_by(&dir, &tracer, &[]);
    assert!(
        said.contains(&format!("(pid {pid}) since mark 1 “before”")),
        "{said}"
    );
    tracer.signal(Signal::INT);
    tracer.wait().expect_code(0);
    let summary = dir.summary();
    let process = &summary.process(pid).0;
    let marks: Vec<&Value> = process["since_marks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|since| &since["mark"])
        .collect();
    assert_eq!(marks, [1, 2]);
    let new = process["since_marks"][0]["new"].as_array().expect("a list");
    assert_eq!(new.len(), 1);
}

fn of_several_tracers_one_is_chosen(generation: Generation) {
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
    let marks = dirs.each_ref().map(|dir| dir.summary().0["marks"].clone());
    assert_eq!(marks[0], json!([]));
    assert_eq!(marks[1][0]["name"], "this one");
    assert_eq!(marks[1].as_array().map(Vec::len), Some(1));
}

/// SIGUSR1 would end a process that doesn't expect it: the command never sends one.
fn who_is_no_tracer_is_left_alone(generation: Generation) {
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
