//! How a trace ends: whichever way, a whole and valid summary is left, and `run` ends as its command.

use rustix::process::Signal;
use serde_json::json;
use tt_memtrace_tests::{
    Cpp, Generation, Process, Summary, Tracer, Variant, WorkDir, events_named, for_each_generation,
    unsigned, wait_for,
};

for_each_generation!(
    kill_9_of_the_target,
    the_targets_exit_ends_an_attach,
    an_abort_of_the_target,
    interrupting_the_tracer,
    terminating_the_tracer,
    a_duration_passes,
    a_command_outlives_the_duration,
    the_exit_code_is_the_commands,
    stdout_is_the_commands_alone,
    a_summary_on_stdout,
    quiet_is_quiet,
);

/// Attaches to a target that lies still, and gives both when the first events have been seen.
fn attached(dir: &WorkDir, generation: Generation, options: &[&str]) -> (Process, Cpp) {
    let mut target = Cpp::alone(dir, generation, 1);
    let tracer = Tracer::attach_to(dir, target.process.pid()).arguments(options);
    let tracer = tracer.start_and_see(|| {
        target.obey("burst 1");
    });
    (tracer, target)
}

fn kill_9_of_the_target(generation: Generation) {
    let dir = WorkDir::new();
    let (tracer, mut target) = attached(&dir, generation, &[]);
    let pid = target.process.pid();
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.process.signal(Signal::KILL);
    tracer.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.0["exit"], json!({"signal": 9}));
    // What the exit freed.
    assert_eq!(process.owning().len(), 1);
    process.owning_at(unsigned(&buffer, "address"));
    let events = dir.events();
    let [exit] = events_named(&events, "exit")[..] else {
        panic!("not one exit: {events:?}");
    };
    assert_eq!(exit["exit"], json!({"signal": 9}));
}

fn the_targets_exit_ends_an_attach(generation: Generation) {
    let dir = WorkDir::new();
    let (tracer, mut target) = attached(&dir, generation, &[]);
    let pid = target.process.pid();
    target.process.send("exit 7");
    target.process.wait().expect_code(7);
    // An attach ends well with its target, however that ended.
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    assert_eq!(summary.process(pid).0["exit"], json!({"code": 7}));
}

fn an_abort_of_the_target(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    target.obey("alloc DRAM 4096 4096");
    target.process.send("abort");
    target.process.wait().expect_code(128 + 6);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.0["exit"], json!({"signal": 6}));
    assert_eq!(process.owning().len(), 1);
}

fn interrupting_the_tracer(generation: Generation) {
    ended_by(generation, Signal::INT);
}

fn terminating_the_tracer(generation: Generation) {
    ended_by(generation, Signal::TERM);
}

fn ended_by(generation: Generation, signal: Signal) {
    let dir = WorkDir::new();
    let (mut tracer, mut target) = attached(&dir, generation, &[]);
    let pid = target.process.pid();
    let buffer = target.obey("alloc DRAM 4096 4096");
    tracer.signal(signal);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.0["exit"], json!(null));
    assert_eq!(process.owning().len(), 1);
    process.owning_at(unsigned(&buffer, "address"));

    // Life goes on, and no probe is left to see it.
    target.expect_unharmed();
    let size = std::fs::metadata(dir.events_path()).expect("events").len();
    target.obey("burst 100");
    assert_eq!(
        std::fs::metadata(dir.events_path()).expect("events").len(),
        size
    );
    target.finish().expect_code(0);
}

fn a_duration_passes(generation: Generation) {
    let dir = WorkDir::new();
    let (mut tracer, mut target) = attached(&dir, generation, &["--duration", "700ms"]);
    let pid = target.process.pid();
    tracer.wait().expect_code(0);
    let summary = dir.summary();
    assert_eq!(summary.process(pid).0["exit"], json!(null));
    assert!(unsigned(&summary.0, "duration_ns") >= 700_000_000);
    target.expect_unharmed();
    target.finish().expect_code(0);
}

/// The trace ends, the command goes on, and its exit code still comes through.
fn a_command_outlives_the_duration(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let tracer = Tracer::run(&dir)
        .arguments(["--duration", "300ms"])
        .traced(&target);
    let mut target = Cpp::from(tracer.start());
    target.obey("mesh 1");
    wait_for("the summary", || dir.summary_path().exists());
    target.expect_unharmed();
    target.process.send("exit 9");
    target.process.wait().expect_code(9);
    let summary = dir.summary();
    assert_eq!(summary.only_process().0["exit"], json!(null));
}

fn the_exit_code_is_the_commands(generation: Generation) {
    for code in [0, 3, 255] {
        let dir = WorkDir::new();
        let target = generation.target(&dir, Variant::Plain);
        let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
        target.process.send(&format!("exit {code}"));
        target.process.wait().expect_code(code);
        let summary = dir.summary();
        assert_eq!(summary.only_process().0["exit"], json!({"code": code}));
    }
    let dir = WorkDir::new();
    let mut shell = dir.command("/bin/sh");
    let done = Tracer::run(&dir)
        .traced(shell.args(["-c", "kill -9 $$"]))
        .start()
        .finish();
    done.expect_code(128 + 9);
    let summary = dir.summary();
    assert_eq!(summary.only_process().0["exit"], json!({"signal": 9}));
}

fn stdout_is_the_commands_alone(generation: Generation) {
    let commands = "mesh 2\nalloc DRAM 4096 4096\nbytes 100000\noom\nlive\nbytes 3\nbad\nexit 5";
    let dir = WorkDir::new();
    let mut alone = Process::spawn(&mut generation.target(&dir, Variant::Plain));
    alone.send(commands);
    let alone = alone.finish();
    let target = generation.target(&dir, Variant::Plain);
    let mut traced = Tracer::run(&dir).traced(&target).start();
    traced.send(commands);
    let traced = traced.finish();
    traced.expect_code(5);
    assert!(alone.stdout.len() > 100_000);
    assert!(traced.stdout == alone.stdout, "{}", traced.text());
    // The table goes to stderr.
    assert!(traced.stderr.contains("DRAM"), "{}", traced.stderr);
}

fn a_summary_on_stdout(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    let tracer = Tracer::bare(&dir, &["attach", "--summary", "-", "--events"])
        .arguments([dir.events_path()])
        .arguments(["--pid", &pid.to_string()]);
    let tracer = tracer.start_and_see(|| {
        target.obey("burst 1");
    });
    target.finish().expect_code(0);
    let done = tracer.finish();
    done.expect_code(0);
    let summary = Summary::parse(&done.text());
    assert_eq!(summary.process(pid).0["exit"], json!({"code": 0}));
}

fn quiet_is_quiet(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let tracer = Tracer::run(&dir).arguments(["--quiet"]).traced(&target);
    let mut target = Cpp::from(tracer.start());
    target.obey("mesh 1");
    target.obey("alloc DRAM 4096 4096");
    let done = target.finish();
    done.expect_code(0);
    assert_eq!(done.stderr, "");
    assert_eq!(dir.summary().only_process().owning().len(), 1);
}
