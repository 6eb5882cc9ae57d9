//! Tracing does no harm: the target's code is restored when the tracer ends, the code of other processes is never
//! changed, and nothing stops the target.

use std::os::unix::fs::FileExt as _;

use tt_memtrace_tests::{
    Cpp, Generation, Process, Tracer, Variant, WorkDir, for_each_generation, unsigned,
};

for_each_generation!(
    the_code_is_restored,
    other_processes_code_is_not_touched,
    a_busy_process_of_many_threads_is_joined_and_left,
    two_tracers_at_once_see_the_same,
    the_target_has_no_ptrace_tracer,
);

/// The code of `libtt_metal.so` as it lies in the process's memory.
fn code(pid: u32) -> Vec<u8> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
    let mut code = Vec::new();
    for line in maps.lines() {
        if !line.ends_with("/libtt_metal.so") || line.split(' ').nth(1) != Some("r-xp") {
            continue;
        }
        let (start, end) = line
            .split_once(' ')
            .and_then(|(range, _)| range.split_once('-'))
            .expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(start), address(end));
        let mut block = vec![0; usize::try_from(end - start).expect("it fits")];
        memory.read_exact_at(&mut block, start).expect("code");
        code.extend(block);
    }
    assert!(!code.is_empty(), "no libtt_metal.so in process {pid}");
    code
}

fn attach(dir: &WorkDir, target: &mut Cpp) -> Process {
    Tracer::attach_to(dir, target.process.pid()).start_and_see(|| {
        target.obey("burst 1");
    })
}

fn interrupt(mut tracer: Process) {
    tracer.signal(rustix::process::Signal::INT);
    tracer.wait().expect_code(0);
}

fn the_code_is_restored(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    let before = code(pid);
    let tracer = attach(&dir, &mut target);
    assert!(code(pid) != before, "attached probes change the code");
    interrupt(tracer);
    assert!(code(pid) == before, "the code is not as it was");
    target.expect_unharmed();
}

fn other_processes_code_is_not_touched(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let mut other = Cpp::alone(&dir, generation, 1);
    let pid = other.process.pid();
    let before = code(pid);
    let tracer = attach(&dir, &mut target);
    assert!(
        code(pid) == before,
        "another process of the same library was probed"
    );
    other.obey("burst 100");
    other.obey("alloc DRAM 4096 4096");
    interrupt(tracer);
    let summary = dir.summary();
    assert_eq!(summary.only_process().owning(), []);
    assert_eq!(summary.only_process().pid, target.process.pid());
}

fn a_busy_process_of_many_threads_is_joined_and_left(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    target.obey("start 8");
    let tracer = Tracer::attach_to(&dir, pid)
        .arguments(["--ring-size", "64MiB"])
        .start_and_see(|| {});
    target.obey("stop");
    let kept = target.obey("alloc DRAM 4096 4096");
    interrupt(tracer);
    target.expect_unharmed();

    let summary = dir.summary();
    let process = summary.process(pid);
    if summary.events.lost == 0 {
        assert_eq!(process.owning().len(), 1);
    }
    process.owning_at(unsigned(&kept, "address"));
}

fn two_tracers_at_once_see_the_same(generation: Generation) {
    let (dir, second_dir) = (WorkDir::new(), WorkDir::new());
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    let first = attach(&dir, &mut target);
    let second = attach(&second_dir, &mut target);
    let kept = target.obey("alloc DRAM 4096 4096");
    interrupt(first);
    let after = target.obey("alloc L1 2048 2048");
    interrupt(second);
    let (first, second) = (dir.summary(), second_dir.summary());
    let addresses = |summary: &tt_memtrace_tests::Summary| -> Vec<u64> {
        let owning = summary.process(pid).owning();
        owning.iter().map(|buffer| buffer.address).collect()
    };
    let kept = unsigned(&kept, "address");
    assert_eq!(addresses(&first), [kept]);
    assert_eq!(addresses(&second), [kept, unsigned(&after, "address")]);
}

/// `ptrace` stays free for debuggers: the target never has a tracer in that sense.
fn the_target_has_no_ptrace_tracer(generation: Generation) {
    let dir = WorkDir::new();
    let traced_by = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        line.expect("a field").trim().to_owned()
    };
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid();
    let tracer = Tracer::attach_to(&dir, pid).start_and_see(|| {
        assert_eq!(traced_by(pid), "0");
        target.obey("burst 1");
    });
    assert_eq!(traced_by(pid), "0");
    interrupt(tracer);

    // Likewise a command that `run` started: a debugger may attach to it.
    let run_dir = WorkDir::new();
    let command = generation.target(&run_dir, Variant::Plain);
    let mut child = Cpp::from(Tracer::run(&run_dir).traced(&command).start());
    child.obey("mesh 1");
    let child_pid = child.pid();
    assert_eq!(traced_by(child_pid), "0");
    child.finish().expect_code(0);
}
