//! Many processes at once, each with accounts of its own: several that are attached to, all of the
//! host, children, namesakes, and those that live in namespaces or whose library is gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cpp, Generation, Live, Process, ProcessSummary, Summary, Tracer, Variant, WorkDir,
    events_named, for_each_generation, need_root, text, unsigned, wait_for,
};

for_each_generation!(
    several_are_attached_to,
    all_are_those_that_are_and_those_that_come,
    a_late_library_of_any_process_is_found,
    a_fork_counts_once_under_run,
    a_fork_counts_once_under_all,
    a_child_of_the_command_is_traced_from_its_first_buffer,
    a_child_outlives_the_command,
    an_executed_program_starts_anew,
    a_pid_that_is_used_again_is_another_process,
    a_target_in_namespaces_of_its_own_whose_library_is_gone,
    a_library_replaced_at_its_path,
    a_library_behind_symbolic_links,
    one_file_in_two_overlays_is_one_library,
    other_processes_of_the_library_are_not_the_commands,
    killing_the_tracer_leaves_the_command_alone,
);

fn attach_to_all(dir: &WorkDir) -> Tracer<'_> {
    Tracer::attach(dir).arguments(["--all"])
}

fn interrupt(mut tracer: Process) -> String {
    tracer.signal(Signal::INT);
    let done = tracer.wait();
    done.expect_code(0);
    done.stderr
}

/// Waits until the tracer says that it traces that process.
fn wait_until_traced(tracer: &Process, pid: u32) {
    wait_for("the tracer to name the process", || {
        tracer.stderr().contains(&format!("(pid {pid}): "))
    });
}

/// A buffer on a mesh as the target describes it.
fn live(buffer: &Value) -> Live {
    (
        "mesh".to_owned(),
        unsigned(buffer, "device_id"),
        text(buffer, "buffer_type").to_owned(),
        unsigned(buffer, "address"),
        unsigned(buffer, "size"),
    )
}

fn pid_of(process: ProcessSummary<'_>) -> u64 {
    unsigned(process.0, "pid")
}

fn child_of(forked: &Value) -> u32 {
    assert_eq!(forked["status"], 0, "{forked}");
    u32::try_from(unsigned(forked, "child")).expect("a pid is a u32")
}

/// A copy of the directory with the program and its libraries.
fn copy_programs(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("one's own directory");
    for name in ["target", "late", "libtt_metal.so", "libsession.so"] {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
}

/// The same addresses and objects in each, as it must be with equal programs.
fn several_are_attached_to(generation: Generation) {
    let dir = WorkDir::new();
    let mut targets = [(); 3].map(|()| Cpp::alone(&dir, generation, 1));
    let pids = targets.each_ref().map(|target| target.process.pid());
    let tracer = Tracer::attach(&dir)
        .arguments(pids[..2].iter().map(|pid| format!("--pid={pid}")))
        .start_and_see(|| {
            targets[1].obey("burst 1");
        });
    let buffers = [1024, 2048, 4096].map(|size| format!("alloc DRAM {size} 1024"));
    let mut kept = Vec::new();
    for (target, command) in targets.iter_mut().zip(buffers) {
        kept.push(target.obey(&command));
    }
    let [first, second, mut third] = targets;
    first.finish().expect_code(0);
    let mut second = second.process;
    second.send("exit 7");
    second.wait().expect_code(7);
    // The end of the last of them is the trace's. The third was never touched.
    tracer.finish().expect_code(0);
    third.expect_unharmed();

    let summary = dir.summary();
    assert_eq!(summary.expect_complete().processes().count(), 2);
    for ((pid, buffer), code) in pids.iter().zip(&kept).zip([0, 7]).take(2) {
        let process = summary.process(*pid);
        assert_eq!(process.owning(), [live(buffer)]);
        assert_eq!(process.0["exit"], json!({"code": code}));
    }
}

fn all_are_those_that_are_and_those_that_come(generation: Generation) {
    let other = match generation {
        Generation::One => Generation::Two,
        Generation::Two => Generation::One,
    };
    let dir = WorkDir::new();
    let mut before = Cpp::alone(&dir, generation, 1);
    let tracer = attach_to_all(&dir).start();
    wait_until_traced(&tracer, before.process.pid());
    let first = before.obey("alloc DRAM 4096 4096");

    // One of the same library, one of another that nobody has met yet.
    let mut after = Cpp::alone(&dir, generation, 2);
    let second = after.obey("alloc DRAM 8192 4096");
    let mut stranger = Cpp::from(Process::spawn(&mut other.target(&dir, Variant::Plain)));
    let [after_pid, stranger_pid] = [&after, &stranger].map(|target| target.process.pid());
    wait_until_traced(&tracer, stranger_pid);
    stranger.obey("mesh 1");
    let third = stranger.obey("alloc DRAM 2048 1024");
    after.finish().expect_code(0);
    interrupt(tracer);

    let summary = dir.summary();
    let process = |pid| summary.expect_complete().process(pid);
    assert_eq!(process(before.process.pid()).owning(), [live(&first)]);
    assert_eq!(process(before.process.pid()).0["attached"], "running");
    let after = process(after_pid).expect_balanced();
    assert_eq!(after.owning(), [live(&second)]);
    assert_eq!(after.members(0), [0, 1]);
    assert_eq!(after.0["attached"], "start");
    assert_eq!(after.0["exit"], json!({"code": 0}));
    assert_eq!(process(stranger_pid).owning(), [live(&third)]);
    let build_id = |pid: u32| process(pid).0["library"]["build_id"].clone();
    assert_eq!(build_id(after_pid), build_id(before.process.pid()));
    assert_ne!(build_id(after_pid), build_id(stranger_pid));
    before.expect_unharmed();
    stranger.expect_unharmed();
}

fn a_late_library_of_any_process_is_found(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::from(Process::spawn(&mut generation.late(&dir, Variant::Plain)));
    let tracer = attach_to_all(&dir).start();
    wait_for("the tracer to be there", || !tracer.stderr().is_empty());
    target.load(generation, Variant::Plain);
    wait_until_traced(&tracer, target.process.pid());
    target.obey("mesh 1");
    let buffer = target.obey("alloc DRAM 4096 4096");
    interrupt(tracer);
    let summary = dir.summary();
    let process = summary.expect_complete().process(target.process.pid());
    assert_eq!(process.owning(), [live(&buffer)]);
    assert_eq!(process.non_owning().len(), 1);
}

fn a_fork_counts_once_under_run(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 2");
    let pid = target.pid();
    let (before, child, after) = fork_between(&mut target);
    target.finish().expect_code(0);
    let summary = dir.summary();
    expect_fork(&summary, &dir, pid, child, &[before, after]);
    // Its birth was seen, so its books balance, too.
    summary.process(pid).expect_balanced();
}

fn a_fork_counts_once_under_all(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 2);
    let pid = target.process.pid();
    let tracer = attach_to_all(&dir).start();
    wait_until_traced(&tracer, pid);
    let (before, child, after) = fork_between(&mut target);
    target.finish().expect_code(0);
    interrupt(tracer);
    expect_fork(&dir.summary(), &dir, pid, child, &[before, after]);
}

fn fork_between(target: &mut Cpp) -> (Value, u32, Value) {
    let before = target.obey("alloc DRAM 524288 2048");
    let child = child_of(&target.obey("fork"));
    (before, child, target.obey("alloc DRAM 8192 4096"))
}

/// The child freed its copy of the first buffer: that is no free of anybody's memory. What it
/// allocated is its own.
fn expect_fork(summary: &Summary, dir: &WorkDir, pid: u32, child: u32, buffers: &[Value]) {
    let parent = summary.expect_complete().process(pid);
    let expected: Vec<Live> = buffers.iter().map(live).collect();
    assert_eq!(parent.owning(), expected);
    assert_eq!(parent.0["parent_pid"], json!(null));

    let process = summary.process(child).expect_balanced();
    assert_eq!(process.0["parent_pid"], pid);
    assert_eq!(process.0["exit"], json!({"code": 0}));
    assert_eq!(process.memory("mesh", 0, "DRAM", "allocations"), 1);
    assert_eq!(process.memory("mesh", 0, "DRAM", "live_bytes"), 4096);
    // It lies on the parent's chips: the mesh is the same.
    assert_eq!(process.memory("chip", 1, "DRAM", "live_bytes"), 4096);
    assert_eq!(process.count("unmatched_deallocations"), 0);
    assert_eq!(unsigned(&process.0["non_owning"], "unmatched_destroys"), 0);
    assert_eq!(process.0["library"], parent.0["library"]);

    let mut events = dir.events();
    events.retain(|event| event["pid"] == pid || event["pid"] == child);
    let [fork] = events_named(&events, "fork")[..] else {
        panic!("not one fork: {events:?}");
    };
    assert_eq!((&fork["pid"], &fork["child"]), (&json!(pid), &json!(child)));
    let freed = events_named(&events, "deallocate");
    let copy = freed.iter().find(|event| event["pid"] == child);
    assert_eq!(copy.expect("the child frees")["note"], "had_no_memory");
}

/// Nothing waits for the tracer: each program allocates as soon as it can.
fn a_child_of_the_command_is_traced_from_its_first_buffer(generation: Generation) {
    let dir = WorkDir::new();
    let programs = generation.dir(Variant::Plain);
    let mut shell = dir.command("/bin/sh");
    shell.args([
        "-c",
        "\"$0/late\" <commands; /bin/true; echo between; \"$0/target\"; exit 3",
    ]);
    shell.arg(&programs);
    let load = format!("load {}", programs.join("libsession.so").display());
    let commands = format!("{load}\nmesh 1\npid\nalloc DRAM 4096 4096\n");
    std::fs::write(dir.path().join("commands"), commands).expect("one's own directory");
    let mut tracer = Tracer::run(&dir).traced(&shell).start();
    tracer.send("mesh 1\npid\nalloc DRAM 8192 4096\nexit 5");
    let done = tracer.finish();
    done.expect_code(3);

    let lines = done.text();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[4], "between");
    let said = |line: usize| -> Value { serde_json::from_str(lines[line]).expect("JSON") };
    let summary = dir.summary();
    for (pid, buffer, code) in [(2, 3, 0), (6, 7, 5)] {
        let pid = u32::try_from(unsigned(&said(pid), "pid")).expect("a pid");
        let buffer = said(buffer);
        assert_eq!(buffer["unique_id"], 0);
        let process = summary.expect_complete().process(pid).expect_balanced();
        assert_eq!(process.owning(), [live(&buffer)]);
        assert_eq!(process.non_owning().len(), 1);
        assert_eq!(process.0["attached"], "start");
        assert_eq!(process.0["exit"], json!({"code": code}));
    }
    // Those two, and the shell. `true` has nothing to do with device memory.
    assert_eq!(summary.processes().count(), 3);
}

/// The trace ends with the command. What it leaves behind goes on, untraced and unharmed.
fn a_child_outlives_the_command(generation: Generation) {
    let dir = WorkDir::new();
    let mut shell = dir.command("/bin/sh");
    // The background takes no terminal's or pipe's input unless it is given it.
    shell.args(["-c", "exec 3<&0; \"$0\" <&3 & read -r _ <go"]);
    shell.arg(generation.dir(Variant::Plain).join("target"));
    let fifo = dir.path().join("go");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let mut target = Cpp::from(Tracer::run(&dir).traced(&shell).start());
    target.obey("mesh 1");
    let buffer = target.obey("alloc DRAM 4096 4096");
    let pid = target.pid();
    std::fs::write(&fifo, "\n").expect("the shell reads");
    wait_for("the end of the trace", || dir.summary_path().exists());
    target.expect_unharmed();
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.owning(), [live(&buffer)]);
    assert_eq!(process.0["exit"], json!(null));
}

fn an_executed_program_starts_anew(generation: Generation) {
    let dir = WorkDir::new();
    let program = generation.dir(Variant::Plain).join("target");
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    target.obey("alloc DRAM 8192 4096");
    let pid = target.pid();
    target.obey(&format!("exec {}", program.display()));
    target.obey("mesh 2");
    assert_eq!(target.pid(), pid);
    // The very address, and object, of the one that is gone.
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live(&buffer)]);
    assert_eq!(process.memory("mesh", 0, "DRAM", "deallocations"), 1);
    assert_eq!(process.memory("mesh", 0, "DRAM", "peak_bytes"), 8192);
    assert_eq!(process.count("implied_deallocations"), 0);
    let events = dir.events();
    let [exec] = events_named(&events, "exec")[..] else {
        panic!("not one execution: {events:?}");
    };
    assert_eq!(unsigned(exec, "freed_buffers"), 1);
    assert_eq!(unsigned(exec, "freed_bytes"), 8192);
}

fn a_pid_that_is_used_again_is_another_process(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    let child = child_of(&target.obey("fork"));
    assert_eq!(child_of(&target.obey(&format!("fork {child}"))), child);
    target.finish().expect_code(0);

    let summary = dir.summary();
    let same = |process: &ProcessSummary<'_>| pid_of(*process) == u64::from(child);
    let children: Vec<ProcessSummary<'_>> = summary.processes().filter(same).collect();
    assert_eq!(children.len(), 2);
    for process in &children {
        process.expect_balanced();
        assert_eq!(process.memory("mesh", 0, "DRAM", "allocations"), 1);
        assert_eq!(process.count("events_after_exit"), 0);
    }
    let ended = |index: usize| unsigned(children[index].0, "exited_at_ns");
    assert!(ended(0) < ended(1));
}

/// What a container is made of: mount, pid and network namespaces. The library lies in a file system
/// that only the target sees, and is gone when the tracer comes.
fn a_target_in_namespaces_of_its_own_whose_library_is_gone(generation: Generation) {
    let dir = WorkDir::new();
    let mut command = dir.command("unshare");
    command.args([
        "--mount",
        "--pid",
        "--net",
        "--fork",
        "--kill-child",
        "/bin/sh",
        "-c",
    ]);
    command.arg(
        "mkdir own && mount -t tmpfs own own && cd own && cp \"$0\"/target \"$0\"/lib*.so . && \
         exec ./target",
    );
    command.arg(generation.dir(Variant::Plain));
    let mut target = Cpp::from(Process::spawn(&mut command));
    target.obey("mesh 1");
    let inside = target.pid();
    let outside = target.process.pid();
    let children = format!("/proc/{outside}/task/{outside}/children");
    let children = std::fs::read_to_string(children).expect("children");
    let pid: u32 = children.trim().parse().expect("one child");
    assert_ne!(inside, pid, "a pid namespace of its own");
    assert!(!dir.path().join("own/target").exists());
    let own = PathBuf::from(format!("/proc/{pid}/cwd"));
    for library in ["libtt_metal.so", "libsession.so"] {
        std::fs::remove_file(own.join(library)).expect("it is there");
    }

    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {
        target.obey("burst 1");
    });
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().process(pid);
    assert_eq!(process.owning(), [live(&buffer)]);
    let path = PathBuf::from(text(&process.0["library"], "path"));
    assert_eq!(path, dir.path().join("own/libtt_metal.so"));
    assert_eq!(process.0["exit"], json!({"code": 0}));

    // The same by `--all`, of one that comes later, library and all.
    let second_dir = WorkDir::new();
    let tracer = attach_to_all(&second_dir).start();
    wait_for("the tracer to be there", || !tracer.stderr().is_empty());
    let mut target = Cpp::from(Process::spawn(command.current_dir(second_dir.path())));
    target.obey("mesh 1");
    let outside = target.process.pid();
    let children = format!("/proc/{outside}/task/{outside}/children");
    let children = std::fs::read_to_string(children).expect("children");
    let pid: u32 = children.trim().parse().expect("one child");
    wait_until_traced(&tracer, pid);
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);
    interrupt(tracer);
    assert_eq!(second_dir.summary().process(pid).owning(), [live(&buffer)]);
}

/// As an upgrade does it: the old file is gone from its path, those that run keep it.
fn a_library_replaced_at_its_path(generation: Generation) {
    let dir = WorkDir::new();
    let programs = dir.path().join("programs");
    copy_programs(&generation.dir(Variant::Plain), &programs);
    let start = || Cpp::from(Process::spawn(&mut dir.command(programs.join("target"))));
    let mut old = start();
    old.obey("mesh 1");
    // The same code without symbols is another file with another build.
    let new_library = dir.path().join("new");
    std::fs::copy(generation.library(Variant::Stripped), &new_library).expect("a copy");
    std::fs::rename(&new_library, programs.join("libtt_metal.so")).expect("a replacement");
    let mut new = start();
    new.obey("mesh 1");

    let pids = [&old, &new].map(|target| target.process.pid());
    let tracer = Tracer::attach(&dir)
        .arguments(pids.map(|pid| format!("--pid={pid}")))
        .start();
    for pid in pids {
        wait_until_traced(&tracer, pid);
    }
    wait_for("the probes of both", || {
        old.obey("burst 1");
        new.obey("burst 1");
        let events = dir.events_so_far();
        pids.iter()
            .all(|pid| events.iter().any(|event| event["pid"] == *pid))
    });
    let kept = [
        old.obey("alloc DRAM 4096 4096"),
        new.obey("alloc DRAM 8192 4096"),
    ];
    interrupt(tracer);
    let summary = dir.summary();
    for (pid, buffer) in pids.into_iter().zip(&kept) {
        let process = summary.expect_complete().process(pid);
        assert_eq!(process.owning(), [live(buffer)]);
        let path = text(&process.0["library"], "path");
        assert_eq!(Path::new(path), programs.join("libtt_metal.so"));
    }
    old.expect_unharmed();
    new.expect_unharmed();
}

/// As in a virtual environment: the program, and the directory of its libraries, are links.
fn a_library_behind_symbolic_links(generation: Generation) {
    let dir = WorkDir::new();
    let programs = generation.dir(Variant::Plain);
    let link = dir.path().join("venv");
    std::os::unix::fs::symlink(&programs, &link).expect("one's own directory");
    let mut target = Cpp::from(Process::spawn(&mut dir.command(link.join("target"))));
    target.obey("mesh 1");
    let tracer = Tracer::attach(&dir)
        .arguments(["--pid", &target.process.pid().to_string()])
        .start_and_see(|| {
            target.obey("burst 1");
        });
    let buffer = target.obey("alloc DRAM 4096 4096");
    interrupt(tracer);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert_eq!(process.owning(), [live(&buffer)]);
    let path = text(&process.0["library"], "path");
    assert_eq!(Path::new(path), programs.join("libtt_metal.so"));
}

/// Containers of one image have each an overlay over the same file. Its probes are in both: they must
/// not be put on twice.
fn one_file_in_two_overlays_is_one_library(generation: Generation) {
    let dir = WorkDir::new();
    copy_programs(&generation.dir(Variant::Plain), &dir.path().join("image"));
    let mut targets = ["one", "two"].map(|name| {
        let mut command = dir.command("unshare");
        command.args(["--mount", "/bin/sh", "-c"]);
        command.arg(
            "mkdir $0 $0.empty && mount -t overlay $0 -o lowerdir=image:$0.empty $0 && \
             exec $0/target",
        );
        let mut target = Cpp::from(Process::spawn(command.arg(name)));
        target.obey("mesh 1");
        target
    });
    let pids = targets.each_ref().map(|target| target.process.pid());
    let tracer = attach_to_all(&dir).start();
    for pid in pids {
        wait_until_traced(&tracer, pid);
    }
    wait_for("the probes", || {
        targets[0].obey("burst 1");
        !dir.events_so_far().is_empty()
    });
    let mut kept = Vec::new();
    for (target, size) in targets.iter_mut().zip([4096, 8192]) {
        kept.push(target.obey(&format!("alloc L1 {size} 1024")));
    }
    interrupt(tracer);
    let summary = dir.summary();
    for (pid, buffer) in pids.into_iter().zip(&kept) {
        let process = summary.expect_complete().process(pid);
        assert_eq!(process.owning(), [live(buffer)]);
        assert_eq!(process.memory("mesh", 0, "L1", "allocations"), 1);
        assert_eq!(process.count("implied_deallocations"), 0);
    }
}

/// `run` puts probes where all see them, and records those of its own.
fn other_processes_of_the_library_are_not_the_commands(generation: Generation) {
    let dir = WorkDir::new();
    let mut other = Cpp::alone(&dir, generation, 1);
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    other.obey("burst 100");
    other.obey("alloc DRAM 4096 4096");
    let mut third = Cpp::alone(&dir, generation, 1);
    third.obey("alloc DRAM 4096 4096");
    let buffer = target.obey("alloc DRAM 8192 4096");
    target.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [live(&buffer)]);
    other.expect_unharmed();
    third.expect_unharmed();
}

fn killing_the_tracer_leaves_the_command_alone(generation: Generation) {
    let dir = WorkDir::new();
    let target = generation.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
    target.obey("mesh 1");
    target.process.signal(Signal::KILL);
    wait_for("the tracer's end", || !target.process.is_running());
    target.expect_unharmed();
    target.process.close_stdin();
}

/// Two copies of the library, of two releases, in one process: a plugin may bring its own.
#[test]
fn two_libraries_in_one_process() {
    if !need_root() {
        return;
    }
    let dir = WorkDir::new();
    let command = Generation::One.target(&dir, Variant::Plain);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&command).start());
    target.obey("mesh 1");
    let first = target.obey("alloc DRAM 8192 4096");
    target.load(Generation::Two, Variant::Plain);
    // A process that is traced isn't stopped any more, so its second library is found a moment later.
    wait_for("the second library", || {
        target.process.stderr().matches("tracing target").count() == 2
    });
    target.obey("mesh 1");
    let second = target.obey("alloc L1 4096 4096");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let mut expected = [live(&first), live(&second)];
    expected.sort();
    assert_eq!(process.owning(), expected);
    let libraries = process.0["libraries"].as_array().expect("a list");
    let paths: Vec<&str> = libraries.iter().map(|of| text(of, "path")).collect();
    let expected = [Generation::One, Generation::Two].map(|of| of.library(Variant::Plain));
    assert_eq!(paths.len(), 2);
    assert!(
        paths
            .iter()
            .zip(&expected)
            .all(|(path, of)| Path::new(path) == of)
    );
    assert_eq!(process.0["library"], libraries[0]);
}

/// Each is stopped and let go on for a moment, several at a time.
#[test]
fn many_programs_that_load_nothing_end_as_ever() {
    if !need_root() {
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8 9; do /bin/echo $i | /bin/cat & done; wait; \
                  (exit 7) | false; sleep 0.1 && exit 4";
    let dir = WorkDir::new();
    let mut shell = dir.command("/bin/bash");
    shell.args(["-c", script]);
    let done = Tracer::run(&dir).traced(&shell).start().finish();
    done.expect_code(4);
    let text = done.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(done.stderr.contains("nothing to trace"), "{}", done.stderr);
    let summary = dir.summary();
    assert_eq!(summary.only_process().0["library"], json!(null));
}
