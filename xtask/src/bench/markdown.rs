//! Writes docs/benchmark.md from the measurements.

use std::{fmt::Write as _, fs, process::Command, thread};

use anyhow::{Context as _, Result};

use super::{
    Events, Measured, Options, Way,
    attach::Attachment,
    dispatch,
    dispatch::Dispatch,
    statistics::{Quartiles, Spread, median},
    steady::{RATE, SECONDS, Steady},
};
use crate::sh;

/// The project's limit for a probe hit of tt-memtrace: what it adds, over what an empty hit adds.
const LIMIT: f64 = 1.6;

pub(super) fn document(
    measured: &[Measured],
    steady: &[Steady],
    dispatches: &[Dispatch],
    attached: &[Attachment],
    options: &Options,
) -> Result<String> {
    let mut text = String::from(
        "# What tracing costs\n\n\
         Microseconds per `ttnn.empty` + `ttnn.deallocate` of a `[1, 1, 32, 32]` bfloat16 tile tensor \
         in DRAM, on a mock Wormhole n150: the worst case, since nothing else happens. Made by \
         `cargo xtask bench`, which installs bpftrace by apt if it is missing.\n\n",
    );
    for line in machine()? {
        writeln!(text, "- {line}")?;
    }
    writeln!(
        text,
        "- {} rounds of {} turns of {} allocations for each release and way",
        options.rounds, options.turns, options.allocations
    )?;
    text.push_str(
        "\nOne machine, shared and noisy: the microseconds are only its own, the ratios are what \
         counts. All ways of tracing are measured in one run: six processes, each with its own copy \
         of the library, take turns of some ten milliseconds, and only neighbouring turns are compared. \
         \"Added\" is the median difference from the untraced neighbour; brackets hold the quartiles \
         of all turns or, after \"rounds\", the least and the most that one round gave.\n",
    );
    for release in measured {
        text.push('\n');
        text.push_str(&table(release)?);
    }
    if !steady.is_empty() {
        text.push('\n');
        text.push_str(&steady_load(steady)?);
    }
    if !dispatches.is_empty() {
        text.push('\n');
        text.push_str(&dispatched(dispatches)?);
    }
    if !attached.is_empty() {
        text.push_str(&attachments(attached, options)?);
    }
    Ok(text)
}

/// The section on a dispatched operation.
fn dispatched(dispatches: &[Dispatch]) -> Result<String> {
    let mut text = format!(
        "## A dispatched operation\n\n\
         `ttnn.add` into an existing tensor, with a cached program: nothing is allocated. Two processes, \
         one of them under `tt-memtrace attach` (`--stacks full`), take {} turns of {} dispatches each.\n\n\
         | ttnn | untraced µs | added µs |\n|---|---|---|\n",
        dispatch::TURNS,
        dispatch::DISPATCHES
    );
    for Dispatch {
        release,
        untraced,
        added,
    } in dispatches
    {
        let microseconds = |of: &Quartiles| {
            let [first, median, third] = [of.first, of.median, of.third].map(|ns| ns / 1000.0);
            format!("{median:.1} [{first:.1}–{third:.1}]")
        };
        let (untraced, added) = (microseconds(untraced), microseconds(added));
        writeln!(text, "| {release} | {untraced} | {added} |")?;
    }
    Ok(text)
}

const STEADY_LOAD: &str = "## A steady load\n";

/// The section on a steady load.
fn steady_load(steady: &[Steady]) -> Result<String> {
    let mut text = format!(
        "{STEADY_LOAD}\n\
         One process allocates and frees {RATE} tensors a second for {SECONDS} s, evenly, under \
         `tt-memtrace attach` (`--stacks full`). The limit that the project sets itself is that no event \
         is lost. Made by `cargo xtask bench --only-steady`, which writes this section alone, on {}, {} CPUs.\n\n\
         | ttnn | allocations a second | events | lost | stacks skipped | load average before |\n\
         |---|---|---|---|---|---|\n",
        today()?,
        thread::available_parallelism().map_or(0, usize::from),
    );
    for Steady {
        release,
        rate,
        load,
        events,
    } in steady
    {
        let Events {
            received,
            lost,
            stacks_skipped,
        } = events;
        writeln!(
            text,
            "| {release} | {rate:.0} | {received} | {lost} | {stacks_skipped} | {load:.1} |"
        )?;
    }
    Ok(text)
}

/// Puts a new section on the steady load into the document: in place of the old one, else before the section on
/// attaching, else at the end.
pub(super) fn with_steady_load(document: &str, steady: &[Steady]) -> Result<String> {
    let section = steady_load(steady)?;
    let next = |from: usize| {
        let next = document[from..].find("\n## ");
        next.map_or(document.len(), |at| from + at + 1)
    };
    let (start, end) = match document.find(STEADY_LOAD) {
        Some(start) => (start, next(start)),
        None => {
            let start = document.find("## Attaching").unwrap_or(document.len());
            (start, start)
        }
    };
    let (before, after) = (&document[..start], &document[end..]);
    let gap = if after.is_empty() { "" } else { "\n" };
    Ok(format!("{before}{section}{gap}{after}"))
}

/// The section on attaching and detaching.
fn attachments(attached: &[Attachment], options: &Options) -> Result<String> {
    let mut text = String::from(
        "\n## Attaching and detaching\n\n\
         `tt-memtrace attach` to a process with 5,000 live buffers and 2 GiB of resident memory, in one \
         block that `malloc` mapped by itself or in many small ones. \"Attach\" is from the start of the \
         program until each buffer from before is known: kernel programs loaded, fields derived from the library, \
         probes attached, and the snapshot read. The snapshot finds devices from the library's own data and reads \
         their allocators, once more if it began within 0.1 s of the probes. The tracer then searches the heap \
         for more devices, with low priority. \"Detach\" is from Ctrl-C until the program has ended, with that search \
         over and the probes detached. The project's limits are 500 ms and 2 s. The target is never stopped. The \
         longest iteration of an empty loop in the target shows how much it is disturbed; \"alone\" is a second \
         without a tracer.\n\n\
         | ttnn | resident | attach ms | of it the snapshot | detach ms | longest iteration, alone ms | attaching | detaching |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for attachment in attached {
        let [alone, attaching, detaching] = attachment.gaps;
        writeln!(
            text,
            "| {} | {:.2} GiB, {} | {:.0} | {:.0} | {:.0} | {alone:.1} | {attaching:.1} | {detaching:.1} |",
            attachment.release,
            attachment.resident_gib,
            attachment.kind,
            attachment.attach,
            attachment.snapshot,
            attachment.detach,
        )?;
    }
    writeln!(
        text,
        "\nEach is the median of {} attachments.",
        options.attachments
    )?;
    Ok(text)
}

/// The section on one release.
fn table(release: &Measured) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "## ttnn {}\n", release.version)?;
    writeln!(
        text,
        "| | µs | × untraced | added µs | probe hits | added ns per hit |\n|---|---|---|---|---|---|"
    )?;
    for (i, way) in release.ways.iter().enumerate() {
        let time = Quartiles::new(release.turns().map(|turn| turn[i] / 1000.0));
        let ratio = median(release.turns().map(|turn| turn[i] / turn[0]));
        let name = match way {
            Way::Untraced => "untraced",
            Way::TwoEmpty => "two empty bpftrace uprobes, where a buffer is allocated and freed",
            Way::AllEmpty => "empty bpftrace uprobes wherever tt-memtrace has one",
            Way::TtMemtrace => "`tt-memtrace attach --stacks none`",
            Way::Python => "`tt-memtrace attach --stacks python`",
            Way::Full => "`tt-memtrace attach` (`--stacks full`)",
        };
        write!(
            text,
            "| {name} | {:.1} [{:.1}–{:.1}] | {ratio:.2} |",
            time.median, time.first, time.third
        )?;
        if *way == Way::Untraced {
            writeln!(text, " | | |")?;
        } else {
            let added = release.added(i);
            let per_hit = Spread::new(&release.added_per_hit(i));
            writeln!(
                text,
                " {:.2} [{:.2}–{:.2}] | {:.1} | {:.0}; rounds {:.0}–{:.0} |",
                added.median / 1000.0,
                added.first / 1000.0,
                added.third / 1000.0,
                release.hits[i],
                per_hit.median,
                per_hit.least,
                per_hit.most,
            )?;
        }
    }
    text.push('\n');
    if let Some(same) = release.ratio(Way::TtMemtrace, Way::AllEmpty)
        && let Some(two) = release.ratio(Way::TtMemtrace, Way::TwoEmpty)
    {
        writeln!(
            text,
            "A hit of tt-memtrace adds **{:.2}** times (rounds {:.2}–{:.2}) what an empty hit at the \
             same places adds, and {:.2} times (rounds {:.2}–{:.2}) what one of the two adds. The \
             limit that the project sets itself is {LIMIT}.",
            same.median, same.least, same.most, two.median, two.least, two.most
        )?;
    }
    for (way, name, limit) in [
        (Way::Python, "Python stacks add", 3),
        (Way::Full, "Full stacks add", 10),
    ] {
        if let Some(more) = release.more(way, Way::TtMemtrace) {
            writeln!(
                text,
                "{name} **{:.2} µs** an allocation (quartiles {:.2}–{:.2}) to what the neighbour \
                 without stacks takes. The limit that the project sets itself is {limit}.",
                more.median / 1000.0,
                more.first / 1000.0,
                more.third / 1000.0
            )?;
        }
    }
    if let Some(Events {
        received,
        lost,
        stacks_skipped,
    }) = release.events
    {
        writeln!(
            text,
            "The three tt-memtrace received {received} events, lost {lost}, and skipped {stacks_skipped} \
             stacks."
        )?;
    }
    Ok(text)
}

impl Measured {
    fn turns(&self) -> impl Iterator<Item = &[f64]> {
        self.rounds
            .iter()
            .flat_map(|round| round.turns.iter().map(Vec::as_slice))
    }

    /// Nanoseconds more than the untraced neighbour, over all turns.
    fn added(&self, way: usize) -> Quartiles {
        Quartiles::new(self.turns().map(|turn| turn[way] - turn[0]))
    }

    /// The same for each probe hit, by round.
    fn added_per_hit(&self, way: usize) -> Vec<f64> {
        self.rounds
            .iter()
            .map(|round| {
                median(round.turns.iter().map(|turn| turn[way] - turn[0])) / self.hits[way]
            })
            .collect()
    }

    /// Nanoseconds that one way takes more than another in the same turn.
    fn more(&self, way: Way, base: Way) -> Option<Quartiles> {
        let index = |wanted| self.ways.iter().position(|way| *way == wanted);
        let (way, base) = (index(way)?, index(base)?);
        Some(Quartiles::new(
            self.turns().map(|turn| turn[way] - turn[base]),
        ))
    }

    /// What a hit adds in one way, over what it adds in another, by round.
    fn ratio(&self, way: Way, base: Way) -> Option<Spread> {
        let index = |wanted| self.ways.iter().position(|way| *way == wanted);
        let ratios: Vec<f64> = self
            .added_per_hit(index(way)?)
            .into_iter()
            .zip(self.added_per_hit(index(base)?))
            .map(|(way, base)| way / base)
            .collect();
        Some(Spread::new(&ratios))
    }
}

fn machine() -> Result<[String; 4]> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown");
    let count = thread::available_parallelism().map_or(0, usize::from);
    let bpftrace = sh::output(Command::new("bpftrace").arg("--version"))?;
    Ok([
        format!("Kernel {}", kernel.trim()),
        format!("CPU {model}, {count} of them available"),
        bpftrace,
        format!("Date {}", today()?),
    ])
}

fn today() -> Result<String> {
    sh::output(Command::new("date").args(["-u", "+%F"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_section_on_the_steady_load_replaces_the_old_one() {
        let steady = |rate| {
            [Steady {
                release: "0.81.1".to_owned(),
                rate,
                load: 0.5,
                events: Events::default(),
            }]
        };
        let document =
            "# What tracing costs\n\n## ttnn\n\ntable\n\n## Attaching and detaching\n\nmore\n";
        let once = with_steady_load(document, &steady(1.0)).expect("a document");
        let twice = with_steady_load(&once, &steady(2.0)).expect("a document");
        assert!(once.contains("| 0.81.1 | 1 |") && twice.contains("| 0.81.1 | 2 |"));
        assert_eq!(twice.replace("| 0.81.1 | 2 |", "| 0.81.1 | 1 |"), once);
        let section = once.find("## A steady load").expect("a section");
        assert_eq!(
            format!(
                "{}{}",
                &once[..section],
                &once[once.find("## Attaching").expect("kept")..]
            ),
            document
        );
        let last = with_steady_load("# What tracing costs\n\n", &steady(1.0)).expect("a document");
        assert!(last.ends_with("| 0.5 |\n"), "{last}");
    }
}
