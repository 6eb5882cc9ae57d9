//! Bad input: an error message that says what to do, a documented exit code, no half-written file, and no harm to the
//! target.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tt_memtrace_tests::{
    Cpp, Exit, Finished, Generation, Process, Tracer, Variant, WorkDir, for_each_generation,
    need_root, wait_for,
};

/// The documented exit codes.
mod code {
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const NO_TARGET: i32 = 3;
    pub(crate) const NO_LIBRARY: i32 = 4;
    pub(crate) const NOT_PERMITTED: i32 = 5;
    pub(crate) const UNTRACEABLE_LIBRARY: i32 = 6;
    pub(crate) const UNWRITABLE: i32 = 7;
    pub(crate) const NOT_EXECUTABLE: i32 = 126;
    pub(crate) const NO_SUCH_COMMAND: i32 = 127;
}

for_each_generation!(
    a_name_that_several_have,
    a_name_that_no_process_has,
    a_process_without_tt_metal,
    waiting_for_tt_metal,
    too_little_privilege,
    a_kernel_without_uprobes,
    a_library_without_symbols,
    a_library_without_symbols_under_run,
    a_field_with_two_places,
    a_field_that_no_code_shows,
    a_field_that_only_a_running_program_shows_wrong,
    a_wrong_field_ends_the_trace_and_not_the_command,
    an_unwritable_summary,
    a_target_that_dies_while_being_attached,
);

/// The tracer failed with that code and these words, and wrote no summary.
#[track_caller]
fn expect_failure(dir: &WorkDir, done: &Finished, code: i32, words: &[&str]) {
    done.expect_code(code);
    for word in words {
        let found = done.stderr.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "no `{word}` in: {}", done.stderr);
    }
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert_eq!(done.text(), "");
    dir.expect_no_summary();
}

#[test]
fn usage() {
    for arguments in [
        &["attach"][..],
        &["attach", "--pid", "zero"],
        &["attach", "--pid", "1", "--all"],
        &["run"],
        &["run", "--ring-size", "many", "--", "true"],
        &["check", "--no-such-option"],
        &["no-such-command"],
    ] {
        let dir = WorkDir::new();
        let done = Tracer::bare(&dir, arguments).start().finish();
        expect_failure(&dir, &done, code::USAGE, &["--help"]);
    }
}

#[test]
fn no_such_process() {
    if !need_root() {
        return;
    }
    let dir = WorkDir::new();
    // A process that has just ended: the kernel doesn't give its pid to another one for a while.
    let mut ended = Process::spawn(&mut dir.command("true"));
    let pid = ended.pid();
    ended.wait();
    let done = Tracer::attach_to(&dir, pid).start().finish();
    expect_failure(&dir, &done, code::NO_TARGET, &[&pid.to_string()]);
}

/// The target under a name that no other process has.
fn named(dir: &WorkDir, generation: Generation, name: &str) -> Cpp {
    let program = dir.path().join(name);
    if !program.exists() {
        let target = generation.dir(Variant::Plain).join("target");
        std::fs::copy(target, &program).expect("the test's own directory");
    }
    let mut command = dir.command(program);
    command.env("LD_LIBRARY_PATH", generation.dir(Variant::Plain));
    let mut target = Cpp::from(Process::spawn(&mut command));
    target.obey("mesh 1");
    target
}

/// A name of at most 15 characters: the kernel keeps no more.
fn unused_name(tag: &str) -> String {
    format!("tt{tag}{}", std::process::id())
}

fn a_name_that_several_have(generation: Generation) {
    let dir = WorkDir::new();
    let name = unused_name(if generation == Generation::One {
        "a"
    } else {
        "b"
    });
    let mut targets = [
        named(&dir, generation, &name),
        named(&dir, generation, &name),
    ];
    let done = Tracer::attach(&dir)
        .arguments(["--name", &name])
        .start()
        .finish();
    let pids = targets
        .each_ref()
        .map(|target| target.process.pid().to_string());
    // The message names the pids, for --pid.
    expect_failure(&dir, &done, code::NO_TARGET, &[&pids[0], &pids[1], "--pid"]);
    for target in &mut targets {
        target.expect_unharmed();
    }

    // Once one of them has ended, the name is unique.
    let [mut target, gone] = targets;
    gone.finish().expect_code(0);
    let tracer = Tracer::attach(&dir).arguments(["--name", &name]);
    let tracer = tracer.start_and_see(|| {
        target.obey("burst 1");
    });
    let pid = target.process.pid();
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);
    dir.summary().process(pid);
}

fn a_name_that_no_process_has(_: Generation) {
    let dir = WorkDir::new();
    let name = unused_name("x");
    let done = Tracer::attach(&dir)
        .arguments(["--name", &name])
        .start()
        .finish();
    expect_failure(&dir, &done, code::NO_TARGET, &[&name]);
}

fn a_process_without_tt_metal(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::from(Process::spawn(&mut generation.late(&dir, Variant::Plain)));
    let pid = target.pid();
    let done = Tracer::attach_to(&dir, pid).start().finish();
    let words = [&pid.to_string(), "libtt_metal.so", "--wait"];
    expect_failure(&dir, &done, code::NO_LIBRARY, &words);
    target.load(generation, Variant::Plain);
    target.obey("mesh 1");
    target.expect_unharmed();
}

fn waiting_for_tt_metal(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::from(Process::spawn(&mut generation.late(&dir, Variant::Plain)));
    let pid = target.pid();
    let mut loaded = false;
    let tracer = Tracer::attach_to(&dir, pid).arguments(["--wait"]);
    let tracer = tracer.start_and_see(|| {
        if !loaded {
            target.load(generation, Variant::Plain);
            target.obey("mesh 1");
            loaded = true;
        }
        target.obey("burst 1");
    });
    target.obey("alloc DRAM 4096 4096");
    target.finish().expect_code(0);
    tracer.finish().expect_code(0);
    assert_eq!(dir.summary().process(pid).owning().len(), 1);
}

/// Starts a program as the user `nobody`, without any capability.
const NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
];

/// A copy of the tracer in a directory that every user may read: others can't read root's home.
fn for_nobody<'a>(dir: &'a WorkDir, tracer: Tracer<'a>) -> Tracer<'a> {
    let program = dir.path().join("tt-memtrace");
    if !program.exists() {
        let built = tracer.command();
        std::fs::copy(built.get_program(), &program).expect("the test's own directory");
    }
    tracer.program(program).started_by(&NOBODY)
}

fn too_little_privilege(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let attach = for_nobody(&dir, Tracer::attach_to(&dir, target.process.pid()));
    let done = attach.start().finish();
    expect_failure(&dir, &done, code::NOT_PERMITTED, &["CAP_"]);
    target.expect_unharmed();

    // `run` doesn't even start the command.
    let marker = dir.path().join("ran");
    let mut touch = dir.command("touch");
    let run = for_nobody(&dir, Tracer::run(&dir).traced(touch.arg(&marker)));
    let done = run.start().finish();
    expect_failure(&dir, &done, code::NOT_PERMITTED, &["CAP_"]);
    assert!(!marker.exists(), "the command ran");
}

/// Hiding the directory makes this kernel look like one without uprobes.
fn a_kernel_without_uprobes(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let hide = "mount -t tmpfs none /sys/bus/event_source/devices && exec \"$0\" \"$@\"";
    let hidden = ["unshare", "--mount", "sh", "-c", hide];
    let attach = Tracer::attach_to(&dir, target.process.pid()).started_by(&hidden);
    let done = attach.start().finish();
    expect_failure(&dir, &done, code::NOT_PERMITTED, &["uprobes"]);
    target.expect_unharmed();
}

fn a_library_without_symbols(generation: Generation) {
    let dir = WorkDir::new();
    expect_untraceable(&dir, &generation.library(Variant::Hidden), &["symbol"]);

    let mut target = Cpp::from(Process::spawn(&mut generation.late(&dir, Variant::Hidden)));
    target.load(generation, Variant::Hidden);
    target.obey("mesh 1");
    let done = Tracer::attach_to(&dir, target.process.pid())
        .start()
        .finish();
    let words = ["symbol", "libtt_metal.so"];
    expect_failure(&dir, &done, code::UNTRACEABLE_LIBRARY, &words);
    target.expect_unharmed();
}

/// The command runs untraced to its own end.
fn a_library_without_symbols_under_run(generation: Generation) {
    let dir = WorkDir::new();
    let late = generation.late(&dir, Variant::Hidden);
    let mut target = Cpp::from(Tracer::run(&dir).traced(&late).start());
    target.load(generation, Variant::Hidden);
    target.obey("mesh 1");
    target.obey("alloc DRAM 4096 4096");
    target.expect_unharmed();
    let done = target.finish();
    assert!(done.stderr.contains("symbol"), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

fn a_field_with_two_places(generation: Generation) {
    expect_refused_field(generation, Variant::Disagree, generation.changed_accessor());
}

fn a_field_that_no_code_shows(generation: Generation) {
    expect_refused_field(generation, Variant::Unseen, "Device::id");
}

/// `check` accepts the library, but the first buffer's fields are implausible: the trace ends with the field and its
/// value instead of a wrong summary, and the target goes on.
fn a_field_that_only_a_running_program_shows_wrong(generation: Generation) {
    let dir = WorkDir::new();
    let library = generation.library(Variant::Crossed);
    let checked = Tracer::bare(&dir, &["check", "--library"])
        .arguments([library])
        .start()
        .finish();
    checked.expect_code(0);

    let mut target = Cpp::from(Process::spawn(
        &mut generation.target(&dir, Variant::Crossed),
    ));
    target.obey("mesh 1");
    let mut tracer = Tracer::attach_to(&dir, target.process.pid()).start();
    wait_for("the tracer to end", || {
        target.obey("burst 1");
        !tracer.is_running()
    });
    let words = ["size 2048", "page_size 3", "derived wrongly"];
    expect_failure(&dir, &tracer.wait(), code::UNTRACEABLE_LIBRARY, &words);
    target.obey("alloc DRAM 8192 4096");
    target.finish().expect_code(0);
}

/// The command goes on, and `run` returns its exit code unless that is 0.
fn a_wrong_field_ends_the_trace_and_not_the_command(generation: Generation) {
    for (end, expected) in [("exit 0", code::UNTRACEABLE_LIBRARY), ("exit 3", 3)] {
        let dir = WorkDir::new();
        let target = generation.target(&dir, Variant::Crossed);
        let mut target = Cpp::from(Tracer::run(&dir).traced(&target).start());
        target.obey("mesh 1");
        target.obey("burst 100");
        wait_for("the trace to end", || {
            target.process.stderr().contains("the trace ends here")
        });
        target.obey("alloc DRAM 8192 4096");
        target.process.send(end);
        let done = target.process.finish();
        done.expect_code(expected);
        assert!(done.stderr.contains("derived wrongly"), "{}", done.stderr);
        dir.expect_no_summary();
    }
}

/// The error names the function and shows its code.
fn expect_refused_field(generation: Generation, variant: Variant, function: &str) {
    let dir = WorkDir::new();
    let words = [function, "mov"];
    expect_untraceable(&dir, &generation.library(variant), &words);

    let mut target = Cpp::from(Process::spawn(&mut generation.target(&dir, variant)));
    target.obey("mesh 1");
    let done = Tracer::attach_to(&dir, target.process.pid())
        .start()
        .finish();
    expect_failure(&dir, &done, code::UNTRACEABLE_LIBRARY, &words);
    target.obey("alloc DRAM 8192 4096");
    target.finish().expect_code(0);
}

/// `check` fails with these words in its report.
#[track_caller]
fn expect_untraceable(dir: &WorkDir, library: &Path, words: &[&str]) {
    let done = Tracer::bare(dir, &["check", "--library"])
        .arguments([library])
        .start()
        .finish();
    done.expect_code(code::UNTRACEABLE_LIBRARY);
    let printed = done.text() + &done.stderr;
    for word in words {
        assert!(printed.contains(word), "no `{word}` in: {printed}");
    }
}

/// The tracer finds this before it traces anything, not after hours.
fn an_unwritable_summary(generation: Generation) {
    let dir = WorkDir::new();
    let directory = dir.path().to_str().expect("UTF-8").to_owned();
    let nowhere = dir.path().join("no/such/directory/file");
    let nowhere = nowhere.to_str().expect("UTF-8");
    let mut target = Cpp::alone(&dir, generation, 1);
    let pid = target.process.pid().to_string();
    for option in ["--summary", "--events"] {
        for path in [nowhere, directory.as_str()] {
            let marker = dir.path().join("ran");
            let mut touch = dir.command("touch");
            let run = Tracer::bare(&dir, &["run", option, path]);
            let done = run.traced(touch.arg(&marker)).start().finish();
            expect_failure(&dir, &done, code::UNWRITABLE, &[path]);
            assert!(!marker.exists(), "{option} {path}: the command ran");

            let attach = Tracer::bare(&dir, &["attach", option, path, "--pid", &pid]);
            expect_failure(&dir, &attach.start().finish(), code::UNWRITABLE, &[path]);
        }
    }
    target.expect_unharmed();
}

#[test]
fn a_command_that_cannot_be_started() {
    if !need_root() {
        return;
    }
    let dir = WorkDir::new();
    let missing = dir.command("no-such-command-anywhere");
    let done = Tracer::run(&dir).traced(&missing).start().finish();
    expect_failure(
        &dir,
        &done,
        code::NO_SUCH_COMMAND,
        &["no-such-command-anywhere"],
    );

    let text = dir.path().join("text");
    std::fs::write(&text, "no program").expect("the test's own directory");
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o644))
        .expect("the test's own file");
    let done = Tracer::run(&dir)
        .traced(&Command::new(&text))
        .start()
        .finish();
    let shown = text.to_str().expect("UTF-8");
    expect_failure(&dir, &done, code::NOT_EXECUTABLE, &[shown]);
}

/// The target dies at different moments of attaching. The tracer either writes a complete summary, or fails with a
/// message.
fn a_target_that_dies_while_being_attached(generation: Generation) {
    for moment in 0..12 {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 1);
        let pid = target.process.pid();
        let mut tracer = Tracer::attach_to(&dir, pid).start();
        // The number of files that the tracer has open distinguishes the moments. The last ones come after attaching.
        let reached = |tracer: &mut Process| {
            let open = std::fs::read_dir(format!("/proc/{}/fd", tracer.pid()));
            open.map_or(0, Iterator::count) >= moment * 4
        };
        let mut tries = 0;
        wait_for("a moment of the attaching", || {
            tries += 1;
            reached(&mut tracer) || tries > 500
        });
        target.process.signal(Signal::KILL);
        let done = tracer.wait();
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        match done.code() {
            Some(0) => {
                let summary = dir.summary();
                let exit = summary.process(pid).exit;
                assert!([None, Some(Exit::Signal(9))].contains(&exit), "{exit:?}");
            }
            Some(code::NO_TARGET) => {
                let shown = pid.to_string();
                expect_failure(&dir, &done, code::NO_TARGET, &[&shown]);
            }
            _ => panic!("{:?}: {}", done.status, done.stderr),
        }
    }
}
