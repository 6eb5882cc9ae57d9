//! Records that don't fit into the ring buffer are counted: in the summary, and in red on the terminal.

use rustix::process::Signal;
use serde_json::Value;
use tt_memtrace_tests::{
    Cpp, Generation, Process, Tracer, Variant, WorkDir, events_named, for_each_generation, list,
    unsigned,
};

for_each_generation!(
    a_tiny_ring_loses_records_and_reports_it,
    a_terminal_shows_loss_in_red,
    without_loss_nothing_is_red,
    stacks_are_skipped_before_events_are_lost,
);

/// One page holds some dozens of records.
const TINY: [&str; 2] = ["--ring-size", "4KiB"];

fn a_tiny_ring_loses_records_and_reports_it(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::traced(&dir, generation, 1, &TINY);
    target.obey("threads 4 20000");
    let done = target.finish();
    done.expect_code(0);

    let summary = dir.summary();
    let lost = summary.events.lost;
    assert!(lost > 0);
    assert!(!summary.events.exact);
    assert!(summary.events.received > 0);
    // The event lines have the same number of lost records as the summary.
    let events = dir.events();
    let counted: u64 = events_named(&events, "lost")
        .iter()
        .map(|event: &&Value| unsigned(event, "count"))
        .sum();
    assert_eq!(counted, lost);
    assert!(done.stderr.contains("lost"), "{}", done.stderr);
}

/// Runs the target in a terminal of its own, and returns what the terminal shows.
fn in_a_terminal(dir: &WorkDir, generation: Generation, options: &[&str]) -> String {
    let target = generation.target(dir, Variant::Plain);
    let tracer = Tracer::run(dir)
        .arguments(options)
        .traced(&target)
        .command();
    let words: Vec<String> = std::iter::once(tracer.get_program())
        .chain(tracer.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8")))
        .collect();
    let mut script = dir.command("script");
    script
        .args(["--quiet", "--return", "--echo", "never", "--command"])
        .arg(words.join(" "))
        .arg("/dev/null")
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR");
    let mut terminal = Process::spawn(&mut script);
    terminal.send("mesh 1\nthreads 4 20000\nexit 0");
    terminal.wait().expect_code(0).text()
}

/// Whether the terminal shows that word in red, judged by the colours in force at the word.
fn is_red(shown: &str, word: &str) -> bool {
    shown.match_indices(word).any(|(at, _)| {
        let mut red = false;
        for sequence in shown[..at].split("\x1b[").skip(1) {
            let Some((parameters, _)) = sequence.split_once('m') else {
                continue;
            };
            let mut numbers = parameters.split(';').map(|n| n.parse().unwrap_or(0));
            while let Some(number) = numbers.next() {
                match number {
                    0 | 39 | 30 | 32..=37 | 90 | 92..=97 => red = false,
                    31 | 91 => red = true,
                    // Of the 256 colours, 1 and 9 are red.
                    38 if numbers.next() == Some(5) => {
                        red = matches!(numbers.next(), Some(1 | 9));
                    }
                    _ => {}
                }
            }
        }
        red
    })
}

fn a_terminal_shows_loss_in_red(generation: Generation) {
    let dir = WorkDir::new();
    let shown = in_a_terminal(&dir, generation, &TINY);
    assert!(dir.summary().events.lost > 0);
    assert!(is_red(&shown, "lost"), "{shown}");
}

fn without_loss_nothing_is_red(generation: Generation) {
    let dir = WorkDir::new();
    let shown = in_a_terminal(&dir, generation, &["--ring-size", "64MiB"]);
    dir.summary().expect_complete();
    assert!(shown.contains("DRAM"), "{shown}");
    assert!(!is_red(&shown, "lost"), "{shown}");
}

fn stacks_are_skipped_before_events_are_lost(generation: Generation) {
    let dir = WorkDir::new();
    let mut target = Cpp::alone(&dir, generation, 1);
    let mut tracer = Tracer::attach_to(&dir, target.pid())
        .arguments(["--stacks", "full", "--ring-size", "64MiB"])
        .start_and_see(|| drop(target.obey("alloc DRAM 2048 2048")));
    // A stopped tracer doesn't drain the ring buffer.
    tracer.signal(Signal::STOP);
    target.obey("threads 4 20000");
    tracer.signal(Signal::CONT);
    let live = target.obey("live");
    target.finish().expect_code(0);
    let done = tracer.finish();
    done.expect_code(0);

    let summary = dir.summary();
    let process = summary.expect_complete().only_process();
    assert!(summary.events.stacks_skipped > 0);
    assert!(summary.events.exact);
    assert!(
        done.stderr.contains("too many at once to keep"),
        "{}",
        done.stderr
    );
    let live = list(&live, "live").len();
    assert_eq!(process.owning().len(), live);
}
