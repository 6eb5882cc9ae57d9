//! How long attaching and detaching take, and how much they disturb the target.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{statistics::median, tracer::Tracer};
use crate::{sh, ttnn::Environment};

/// Live buffers of the target.
const BUFFERS: u64 = 5000;

/// The measurements on one target. Times are in milliseconds, each the median of all attachments.
pub(super) struct Attachment {
    pub release: String,
    /// How the target's resident memory is divided.
    pub kind: &'static str,
    pub resident_gib: f64,
    /// From the start of tt-memtrace until the attach snapshot has been read.
    pub attach: f64,
    /// The part of that after the probes are attached.
    pub snapshot: f64,
    /// From Ctrl-C until tt-memtrace has ended.
    pub detach: f64,
    /// The longest iteration of the target's loop: in a second without a tracer, during attaching, and during
    /// detaching.
    pub gaps: [f64; 3],
}

/// Attaches `times` times to a target of each kind.
///
/// # Errors
/// When a program fails, or tt-memtrace doesn't find each buffer.
pub(super) fn measure(
    environment: &Environment,
    tracer: &Path,
    dir: &Path,
    times: usize,
) -> Result<Vec<Attachment>> {
    ["one", "many"]
        .map(|kind| one(environment, tracer, dir, kind, times))
        .into_iter()
        .collect()
}

fn one(
    environment: &Environment,
    tracer: &Path,
    dir: &Path,
    kind: &'static str,
    times: usize,
) -> Result<Attachment> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut target = Target::start(environment, dir, kind)?;
    let mut samples: [Vec<f64>; 6] = Default::default();
    let mut resident = 0;
    for _ in 0..times {
        target.ask()?;
        thread::sleep(Duration::from_secs(1));
        let (kib, alone) = target.ask()?;
        resident = kib;
        let begun = Instant::now();
        let mut running = Tracer::begin_tt_memtrace(tracer, target.child.id(), "full", dir)?;
        let probed = begun.elapsed();
        running.wait_for_snapshot()?;
        let attach = begun.elapsed();
        let (_, attaching) = target.ask()?;
        let begun = Instant::now();
        running.stop()?;
        let detach = begun.elapsed();
        let (_, detaching) = target.ask()?;
        expect_all(&dir.join("summary.json"))?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        for (samples, sample) in samples.iter_mut().zip([
            ms(attach),
            ms(attach - probed),
            ms(detach),
            alone / 1e6,
            attaching / 1e6,
            detaching / 1e6,
        ]) {
            samples.push(sample);
        }
    }
    let [attach, snapshot, detach, alone, attaching, detaching] = samples.map(median);
    Ok(Attachment {
        release: environment.version.clone(),
        kind: match kind {
            "one" => "one block",
            _ => "blocks of 60 kB",
        },
        resident_gib: resident as f64 / f64::from(1 << 20),
        attach,
        snapshot,
        detach,
        gaps: [alone, attaching, detaching],
    })
}

/// Fails if the snapshot has not all buffers: its time would mean nothing.
fn expect_all(summary: &Path) -> Result<()> {
    let text = fs::read(summary).with_context(|| format!("read {}", summary.display()))?;
    let json: Value = serde_json::from_slice(&text)?;
    let found = json.pointer("/processes/0/baseline/buffers");
    ensure!(
        found.and_then(Value::as_u64) == Some(BUFFERS),
        "tt-memtrace found {found:?} of {BUFFERS} buffers"
    );
    Ok(())
}

/// A running `attach_target.py`.
struct Target {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Target {
    fn start(environment: &Environment, dir: &Path, kind: &str) -> Result<Self> {
        let script = dir.join("attach_target.py");
        fs::write(&script, include_str!("attach_target.py"))
            .with_context(|| format!("write {}", script.display()))?;
        let mut child = Command::new(&environment.python)
            .arg(&script)
            .arg(sh::root().join("tests/mock-ttnn/wormhole_n150.yaml"))
            .arg(BUFFERS.to_string())
            .arg(kind)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("attach_target.log")).context("write attach_target.log")?)
            .spawn()
            .with_context(|| format!("can't start {}", environment.python.display()))?;
        let questions = child.stdin.take().context("stdin of the target")?;
        let stdout = child.stdout.take().context("stdout of the target")?;
        let mut target = Self {
            child,
            questions,
            answers: BufReader::new(stdout),
        };
        while target.line()? != "ready" {}
        Ok(target)
    }

    /// Resident memory in KiB, and the longest iteration since the last question in nanoseconds.
    fn ask(&mut self) -> Result<(u64, f64)> {
        writeln!(self.questions, "?").context("the target has ended")?;
        let answer = self.line()?;
        let figures = answer
            .split_once(' ')
            .and_then(|(kib, gap)| Some((kib.parse().ok()?, gap.parse().ok()?)));
        figures.with_context(|| format!("the target answered {answer:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the target ended; see attach_target.log");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
