//! Many processes at once, each with totals of its own: several targets of one `attach`, all processes of the host,
//! children, processes of the same name, and processes in namespaces or whose library file is gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tt_memtrace_tests::{
    Attached, Cpp, Device, Exit, Generation, LiveBuffer, Process, ProcessSummary, Summary, Tracer,
    Variant, WorkDir, events_named, for_each_generation, need_root, only_event, parsed, unsigned,
    wait_for,
};

for_each_generation!(
    several_are_attached_to,
    attach_all_traces_present_and_later_processes,
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

/// Waits until the tracer reports that it traces that process.
fn wait_until_traced(tracer: &Process, pid: u32) {
    wait_for("the tracer to name the process", || {
        tracer.stderr().contains(&format!("(pid {pid}): "))
    });
}

fn child_of(forked: &Value) -> u32 {
    assert_eq!(forked["status"], 0, "{forked}");
    tt_memtrace_tests::pid(forked, "child")
}

/// The only child of a process.
fn only_child(parent: u32) -> u32 {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(children).expect("children");
    children.trim().parse().expect("one child")
}

/// The path of the library that the summary names for a process.
fn library_path(process: &ProcessSummary) -> &Path {
    Path::new(&process.library().path)
}

/// A copy of the directory with the program and its libraries.
fn copy_programs(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the test's own directory");
    for name in ["target", "late", "libtt_metal.so", "libsession.so"] {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
}

/// Equal programs have their buffers at the same addresses, as objects at the same addresses.
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
    // The trace ends with the last of its targets. The third process was never traced.
    tracer.finish().expect_code(0);
    third.expect_unharmed();

    let summary = dir.summary();
    assert_eq!(summary.expect_complete().processes.len(), 2);
    for ((pid, buffer), code) in pids.iter().zip(&kept).zip([0, 7]).take(2) {
        let process = summary.process(*pid);
        assert_eq!(process.owning(), [LiveBuffer::on_mesh(buffer)]);
        assert_eq!(process.exit, Some(Exit::Code(code)));
    }
}

fn attach_all_traces_present_and_later_processes(generation: Generation) {
    let other = match generation {
        Generation::One => Generation::Two,
        Generation::Two => Generation::One,
    };
    let dir = WorkDir::new();
    let mut before = Cpp::alone(&dir, generation, 1);
    let tracer = attach_to_all(&dir).start();
    wait_until_traced(&tracer, before.process.pid());
    let first = before.obey("alloc DRAM 4096 4096");

    // One process has the same library, the other a library that the tracer has not seen yet.
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
    assert_eq!(
        process(before.process.pid()).owning(),
        [LiveBuffer::on_mesh(&first)]
    );
    assert_eq!(process(before.process.pid()).attached, Attached::Running);
    let after = process(after_pid).expect_balanced();
    assert_eq!(after.owning(), [LiveBuffer::on_mesh(&second)]);
    assert_eq!(after.members(0), [0, 1]);
    assert_eq!(after.attached, Attached::Start);
    assert_eq!(after.exit, Some(Exit::Code(0)));
    assert_eq!(
        process(stranger_pid).owning(),
        [LiveBuffer::on_mesh(&third)]
    );
    let build_id = |pid: u32| process(pid).library().build_id.clone();
    assert_eq!(build_id(after_pid), build_id(before.process.pid()));
    assert_ne!(build_id(after_pid), build_id(stranger_pid));
    before.expect_unharmed();
    stranger.expect_unharmed();
}

fn a_late_library_of_any_process_is_found(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::from(Process::spawn(&mut generation.late(&dir, Variant::Plain)));
    let tracer = attach_to_all(&dir).start();
    wait_for("the tracer's first message", || !tracer.stderr().is_empty());
    target.load(generation, Variant::Plain);
    wait_until_traced(&tracer, target.process.pid());
    target.obey("mesh 1");
    let buffer = target.obey("alloc DRAM 4096 4096");
    interrupt(tracer);
    let summary = dir.summary();
    let process = summary.expect_complete().process(target.process.pid());
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    assert_eq!(process.non_owning().len(), 1);
}

fn a_fork_counts_once_under_run(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 2, &[]);
    let pid = target.pid();
    let (before, child, after) = fork_between(&mut target);
    target.finish().expect_code(0);
    let summary = dir.summary();
    expect_fork(&summary, &dir, pid, child, &[before, after]);
    // The trace has the process from its start, so its totals add up.
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

/// The child freed its copy of the first buffer, which freed no device memory. The buffer that the child allocated
/// is its own.
fn expect_fork(summary: &Summary, dir: &WorkDir, pid: u32, child: u32, buffers: &[Value]) {
    let parent = summary.expect_complete().process(pid);
    let expected: Vec<LiveBuffer> = buffers.iter().map(LiveBuffer::on_mesh).collect();
    assert_eq!(parent.owning(), expected);
    assert_eq!(parent.parent_pid, None);

    let process = summary.process(child).expect_balanced();
    assert_eq!(process.parent_pid, Some(pid));
    assert_eq!(process.exit, Some(Exit::Code(0)));
    assert_eq!(process.memory(Device::mesh(0), "DRAM").allocations, 1);
    assert_eq!(process.memory(Device::mesh(0), "DRAM").live_bytes, 4096);
    // The child inherited the parent's mesh, so its buffer lies on the same chips.
    assert_eq!(process.memory(Device::chip(1), "DRAM").live_bytes, 4096);
    assert_eq!(process.unmatched_deallocations, 0);
    assert_eq!(process.non_owning.unmatched_destroys, 0);
    assert_eq!(process.library, parent.library);

    let mut events = dir.events();
    events.retain(|event| event["pid"] == pid || event["pid"] == child);
    let fork = only_event(&events, "fork");
    assert_eq!(fork["pid"], pid);
    assert_eq!(fork["child"], child);
    let freed = events_named(&events, "deallocate");
    let copy = freed.iter().find(|event| event["pid"] == child);
    assert_eq!(copy.expect("the child frees")["note"], "had_no_memory");
}

/// No program waits for the tracer: each allocates as soon as it can.
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
    std::fs::write(dir.path().join("commands"), commands).expect("the test's own directory");
    let mut tracer = Tracer::run(&dir).traced(&shell).start();
    tracer.send("mesh 1\npid\nalloc DRAM 8192 4096\nexit 5");
    let done = tracer.finish();
    done.expect_code(3);

    let lines = done.text();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[4], "between");
    let summary = dir.summary();
    for (pid, buffer, code) in [(2, 3, 0), (6, 7, 5)] {
        let pid = tt_memtrace_tests::pid(&parsed(lines[pid]), "pid");
        let buffer = parsed(lines[buffer]);
        assert_eq!(buffer["unique_id"], 0);
        let process = summary.expect_complete().process(pid).expect_balanced();
        assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
        assert_eq!(process.non_owning().len(), 1);
        assert_eq!(process.attached, Attached::Start);
        assert_eq!(process.exit, Some(Exit::Code(code)));
    }
    // These two, and the shell. `true` never loads TT-Metal.
    assert_eq!(summary.processes.len(), 3);
}

/// The trace ends with the command. The command's children go on, untraced and unharmed.
fn a_child_outlives_the_command(generation: Generation) {
    let dir = WorkDir::new();
    let mut shell = dir.command("/bin/sh");
    // A shell gives its background processes no stdin, unless it is passed by another descriptor.
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
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    assert_eq!(process.exit, None);
}

fn an_executed_program_starts_anew(generation: Generation) {
    let dir = WorkDir::new();
    let program = generation.dir(Variant::Plain).join("target");
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    target.obey("alloc DRAM 8192 4096");
    let pid = target.pid();
    target.obey(&format!("exec {}", program.display()));
    target.obey("mesh 2");
    assert_eq!(target.pid(), pid);
    // The buffer has the same address, and is an object at the same address, as the one that is gone.
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    assert_eq!(process.memory(Device::mesh(0), "DRAM").deallocations, 1);
    assert_eq!(process.memory(Device::mesh(0), "DRAM").peak_bytes, 8192);
    assert_eq!(process.implied_deallocations, 0);
    let events = dir.events();
    let exec = only_event(&events, "exec");
    assert_eq!(unsigned(exec, "freed_buffers"), 1);
    assert_eq!(unsigned(exec, "freed_bytes"), 8192);
}

fn a_pid_that_is_used_again_is_another_process(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    let child = child_of(&target.obey("fork"));
    assert_eq!(child_of(&target.obey(&format!("fork {child}"))), child);
    target.finish().expect_code(0);

    let summary = dir.summary();
    let processes = summary.processes.iter();
    let children: Vec<&ProcessSummary> = processes.filter(|it| it.pid == child).collect();
    assert_eq!(children.len(), 2);
    for process in &children {
        process.expect_balanced();
        assert_eq!(process.memory(Device::mesh(0), "DRAM").allocations, 1);
        assert_eq!(process.events_after_exit, 0);
    }
    let ended = |index: usize| children[index].exited_at_ns.expect("it has ended");
    assert!(ended(0) < ended(1));
}

/// Mount, pid and network namespaces, as a container has them. The library lies in a file system that only the target
/// sees, and is removed before the tracer attaches.
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
    let pid = only_child(target.process.pid());
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
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    let path = dir.path().join("own/libtt_metal.so");
    assert_eq!(library_path(process), path);
    assert_eq!(process.exit, Some(Exit::Code(0)));

    // The same by `--all`, with a process that starts later and whose library is still there.
    let second_dir = WorkDir::new();
    let tracer = attach_to_all(&second_dir).start();
    wait_for("the tracer's first message", || !tracer.stderr().is_empty());
    let mut target = Cpp::from(Process::spawn(command.current_dir(second_dir.path())));
    target.obey("mesh 1");
    let pid = only_child(target.process.pid());
    wait_until_traced(&tracer, pid);
    let buffer = target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);
    interrupt(tracer);
    assert_eq!(
        second_dir.summary().process(pid).owning(),
        [LiveBuffer::on_mesh(&buffer)]
    );
}

/// An upgrade replaces the file at its path; running processes keep the old one.
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
        assert_eq!(process.owning(), [LiveBuffer::on_mesh(buffer)]);
        assert_eq!(library_path(process), programs.join("libtt_metal.so"));
    }
    old.expect_unharmed();
    new.expect_unharmed();
}

/// The program and the directory of its libraries are links, as in a virtual environment.
fn a_library_behind_symbolic_links(generation: Generation) {
    let dir = WorkDir::new();
    let programs = generation.dir(Variant::Plain);
    let link = dir.path().join("venv");
    std::os::unix::fs::symlink(&programs, &link).expect("the test's own directory");
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
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    assert_eq!(library_path(process), programs.join("libtt_metal.so"));
}

/// Containers of one image have an overlay each over the same file. A probe on the file is in both, and must not be
/// attached twice.
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
        assert_eq!(process.owning(), [LiveBuffer::on_mesh(buffer)]);
        assert_eq!(process.memory(Device::mesh(0), "L1").allocations, 1);
        assert_eq!(process.implied_deallocations, 0);
    }
}

/// The probes of `run` are hit by every process of the library; the trace has only its own processes.
fn other_processes_of_the_library_are_not_the_commands(generation: Generation) {
    let dir = WorkDir::new();
    let mut other = Cpp::alone(&dir, generation, 1);
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    other.obey("burst 100");
    other.obey("alloc DRAM 4096 4096");
    let mut third = Cpp::alone(&dir, generation, 1);
    third.obey("alloc DRAM 4096 4096");
    let buffer = target.obey("alloc DRAM 8192 4096");
    target.finish().expect_code(0);
    let summary = dir.summary();
    let process = summary.expect_complete().only_process().expect_balanced();
    assert_eq!(process.owning(), [LiveBuffer::on_mesh(&buffer)]);
    other.expect_unharmed();
    third.expect_unharmed();
}

fn killing_the_tracer_leaves_the_command_alone(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &[]);
    target.process.signal(Signal::KILL);
    wait_for("the tracer's end", || !target.process.is_running());
    target.expect_unharmed();
    target.process.close_stdin();
}

/// Two copies of the library, of two releases, in one process: a plugin may bring a copy of its own.
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
    // A process is stopped for its first library only, so the tracer finds the second one a moment later.
    wait_for("the second library", || {
        target.process.stderr().matches("tracing target").count() == 2
    });
    target.obey("mesh 1");
    let second = target.obey("alloc L1 4096 4096");
    target.finish().expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    let mut expected = [LiveBuffer::on_mesh(&first), LiveBuffer::on_mesh(&second)];
    expected.sort();
    assert_eq!(process.owning(), expected);
    let libraries = process.libraries.iter();
    let paths: Vec<&Path> = libraries.map(|of| Path::new(&of.path)).collect();
    let expected = [Generation::One, Generation::Two].map(|of| of.library(Variant::Plain));
    assert_eq!(paths, expected);
    assert_eq!(process.library(), &process.libraries[0]);
}

/// The tracer stops each program for a moment at its start, several at a time.
#[test]
fn many_programs_without_the_library_end_as_they_do_untraced() {
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
    assert_eq!(summary.only_process().library, None);
}
