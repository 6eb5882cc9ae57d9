//! How a trace ends: every way leaves a complete and valid summary, and `run` ends with its command's exit code.

use std::{fs::OpenOptions, io::Read as _, os::unix::fs::OpenOptionsExt as _};

use rustix::{fs::OFlags, process::Signal};
use serde_json::json;
use tt_memtrace_tests::{
    Cpp, Exit, Generation, Process, Summary, Tracer, Variant, WorkDir, for_each_generation,
    only_event, unsigned, wait_for,
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
    a_terminal_that_takes_nothing,
    events_that_nobody_reads,
);

/// Attaches to an idle target, and returns both when the first event has been written.
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
    assert_eq!(process.exit, Some(Exit::Signal(9)));
    // The buffers that the exit freed.
    assert_eq!(process.owning().len(), 1);
    process.owning_at(unsigned(&buffer, "address"));
    let events = dir.events();
    assert_eq!(only_event(&events, "exit")["exit"], json!({"signal": 9}));
}

fn the_targets_exit_ends_an_attach(generation: Generation) {
    let dir = WorkDir::new();
    let (tracer, mut target) = attached(&dir, generation, &[]);
    let pid = target.process.pid();
    target.process.send("exit 7");
    target.process.wait().expect_code(7);
    // The tracer's exit code does not depend on the target's.
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    assert_eq!(summary.process(pid).exit, Some(Exit::Code(7)));
}

fn an_abort_of_the_target(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    target.obey("alloc DRAM 4096 4096");
    target.process.send("abort");
    target.process.wait().expect_code(128 + 6);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.exit, Some(Exit::Signal(6)));
    assert_eq!(process.owning().len(), 1);
}

fn interrupting_the_tracer(generation: Generation) {
    end_by_signal(generation, Signal::INT);
}

fn terminating_the_tracer(generation: Generation) {
    end_by_signal(generation, Signal::TERM);
}

fn end_by_signal(generation: Generation, signal: Signal) {
    let dir = WorkDir::new();
    let (mut tracer, mut target) = attached(&dir, generation, &[]);
    let pid = target.process.pid();
    let buffer = target.obey("alloc DRAM 4096 4096");
    tracer.signal(signal);
    tracer.wait().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.exit, None);
    assert_eq!(process.owning().len(), 1);
    process.owning_at(unsigned(&buffer, "address"));

    // The target goes on, and no probe is left: no further event is written.
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
    assert_eq!(summary.process(pid).exit, None);
    assert!(summary.duration_ns >= 700_000_000);
    target.expect_unharmed();
    target.finish().expect_code(0);
}

/// The trace ends, the command goes on, and `run` still returns its exit code.
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
    assert_eq!(summary.only_process().exit, None);
}

fn the_exit_code_is_the_commands(generation: Generation) {
    for code in [0, 3, 255] {
        let dir = WorkDir::new();
        let target = generation.target(&dir, Variant::Plain);
        let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
        target.process.send(&format!("exit {code}"));
        target.process.wait().expect_code(code);
        let summary = dir.summary();
        assert_eq!(summary.only_process().exit, Some(Exit::Code(code)));
    }
    let dir = WorkDir::new();
    let mut shell = dir.command("/bin/sh");
    let done = Tracer::run(&dir)
        .traced(shell.args(["-c", "kill -9 $$"]))
        .start()
        .finish();
    done.expect_code(128 + 9);
    let summary = dir.summary();
    assert_eq!(summary.only_process().exit, Some(Exit::Signal(9)));
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
    assert_eq!(summary.process(pid).exit, Some(Exit::Code(0)));
}

fn quiet_is_quiet(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &["--quiet"]);
    target.obey("alloc DRAM 4096 4096");
    let done = target.finish();
    done.expect_code(0);
    assert_eq!(done.stderr, "");
    assert_eq!(dir.summary().only_process().owning().len(), 1);
}

/// Neither a full device nor a pipe whose reader left as standard error ends a trace.
fn a_terminal_that_takes_nothing(generation: Generation) {
    let redirections = ["2>/dev/full", "2> >(exec true)"];
    for redirection in redirections {
        let dir = WorkDir::new();
        let script = format!("exec \"$@\" {redirection}");
        let target = generation.target(&dir, Variant::Plain);
        let tracer = Tracer::run(&dir).traced(&target);
        let mut tracer = tracer.started_by(&["bash", "-c", &script, "bash"]).start();
        tracer.send("mesh 1\nalloc DRAM 4096 4096\nexit 5");
        tracer.finish().expect_code(5);
        let summary = dir.summary();
        assert_eq!(summary.only_process().owning().len(), 1, "{redirection}");
    }
}

/// An event log that nobody reads doesn't slow the tracing: the records are many times what the ring buffer holds,
/// and would be lost if nothing drained it while the log waits for its reader.
fn events_that_nobody_reads(generation: Generation) {
    let dir = WorkDir::new();
    let pipe = dir.path().join("pipe");
    let made = dir.command("mkfifo").arg(&pipe).status();
    assert!(made.expect("coreutils").success());
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&pipe)
        .expect("a pipe of one's own");

    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    let mut tracer = Tracer::bare(&dir, &["attach", "--ring-size", "1MiB", "--summary"])
        .arguments([dir.summary_path()])
        .arguments(["--pid".into(), pid.to_string()])
        .arguments(["--events".into(), pipe.into_os_string()])
        .start();
    let mut first = [0; 1];
    wait_for("the first event", || {
        assert!(tracer.is_running(), "tt-memtrace ended while attaching");
        target.obey("burst 1");
        (&reader).read(&mut first).is_ok_and(|len| len == 1)
    });
    const BURSTS: u64 = 8000;
    for _ in 0..BURSTS {
        target.obey("burst 5");
    }
    // Now the log ends, and the tracer with it.
    drop(reader);
    target.process.send("exit 0");
    target.process.wait().expect_code(0);
    tracer.finish().expect_code(7);
    let events = dir.summary().events;
    assert_eq!(events.lost, 0);
    assert!(events.received > 10 * BURSTS, "{}", events.received);
}
