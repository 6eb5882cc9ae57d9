//! Where results go: checked before the trace, written after it.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::anyhow;

use super::{
    args::Tracing,
    failure::{Failure, Kind},
};
use crate::{
    ledger::{
        Event, Mark, Outcome, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    report::{
        self, Change, Earlier, Summary, TableOptions, check_writable, open_lines, write_json,
        write_json_to,
    },
};

/// The log of events.
type Log = BufWriter<Box<dyn Write + Send>>;

/// The destinations of one trace.
pub struct Output {
    summary: Option<PathBuf>,
    events: Option<Log>,
    quiet: bool,
    /// What this trace is held against.
    baseline: Option<Earlier>,
    /// How many bytes a process may hold at its end.
    fail_on_leak: Option<u64>,
    /// Told once: the log of events couldn't be written.
    failed: Option<io::Error>,
}

impl Output {
    /// Opens what must be open and checks what is written later.
    ///
    /// # Errors
    /// When a file can't be written, or the baseline isn't one.
    pub fn open(options: &Tracing) -> Result<Self, Failure> {
        let baseline = options.baseline.as_deref().map(Earlier::read).transpose()?;
        let summary = options.summary.clone();
        if let Some(path) = summary.as_deref().filter(|path| !is_stdout(path)) {
            check_writable(path)?;
        }
        let events = match options.events.as_deref() {
            Some(path) if is_stdout(path) => Some(BufWriter::new(
                Box::new(io::stdout()) as Box<dyn Write + Send>
            )),
            Some(path) => Some(open_lines(path)?),
            None => None,
        };
        Ok(Self {
            summary,
            events,
            quiet: options.quiet,
            baseline,
            fail_on_leak: options.fail_on_leak,
            failed: None,
        })
    }

    /// A line for the person who waits.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Something that the person must know even if they asked for quiet.
    pub fn warn(&self, line: &str) {
        eprintln!("tt-memtrace: {line}");
    }

    /// Whether there is a log of events.
    pub fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// Writes an event's lines to the log.
    pub fn event(&mut self, event: &Event, outcome: &Outcome) {
        self.log(|writer| report::write_lines(writer, event, outcome));
    }

    /// Writes the line of a program's event to the log, if it has one.
    pub fn program_event<'a>(
        &mut self,
        event: &ProgramEvent,
        effect: ProgramEffect,
        program: impl FnOnce(ProgramKey) -> Option<&'a Program>,
    ) {
        self.log(|writer| {
            let line = report::EventLine::of_program(event, effect, program);
            line.map_or(Ok(()), |line| report::write_line(writer, &line))
        });
    }

    /// Writes a mark's line to the log.
    pub fn mark(&mut self, mark: &Mark) {
        self.log(|writer| report::write_line(writer, &mark.into()));
    }

    /// Lets readers of the log see what was written so far.
    pub fn flush(&mut self) {
        self.log(Write::flush);
    }

    fn log(&mut self, write: impl FnOnce(&mut Log) -> io::Result<()>) {
        if let Some(Err(error)) = self.events.as_mut().map(write) {
            self.events = None;
            self.warn(&format!("the events can't be written any more: {error}"));
            self.failed = Some(error);
        }
    }

    /// Writes the summary and shows the table.
    ///
    /// # Errors
    /// When something couldn't be written, or else when a process held more at its end than it may.
    pub fn finish(mut self, mut summary: Summary) -> Result<(), Failure> {
        self.flush();
        let baseline = self.baseline.as_ref();
        summary.change = baseline.map(|baseline| Change::new(baseline, &summary));
        let summary = &summary;
        if !self.quiet {
            // A reader that went away isn't worth failing for: the JSON is what counts.
            let _ = io::stderr()
                .lock()
                .write_all(report::table(summary, table_options()).as_bytes());
        }
        match self.summary.as_deref() {
            Some(path) if is_stdout(path) => write_json_to(&mut io::stdout().lock(), summary)?,
            Some(path) => write_json(path, summary)?,
            None => {}
        }
        match self.failed {
            Some(error) => Err(Failure::new(
                Kind::Output,
                anyhow::Error::new(error).context("the events are incomplete"),
            )),
            None => self
                .fail_on_leak
                .map_or(Ok(()), |limit| no_leak(summary, limit)),
        }
    }
}

/// Errors if a process that ended leaked more than `limit` bytes, or so much more than the baseline's.
fn no_leak(summary: &Summary, limit: u64) -> Result<(), Failure> {
    let leaking = summary.leaked().filter_map(|(process, leaked)| {
        let size = humansize::format_size(leaked, humansize::BINARY);
        (leaked > limit).then(|| format!("{} (pid {}) {size}", process.comm, process.pid))
    });
    let leaking: Vec<String> = leaking.collect();
    let change = summary.change.as_ref();
    let beyond = change.map(|change| format!(", beyond {}", change.path));
    let beyond = beyond.unwrap_or_default();
    if leaking.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Leak,
        anyhow!("held until the end: {}{}", leaking.join(", "), beyond),
    ))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// How a table is drawn for whoever reads stderr.
pub fn table_options() -> TableOptions {
    let is_terminal = io::stderr().is_terminal();
    TableOptions {
        colour: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        width: is_terminal.then(terminal_width).flatten(),
    }
}

fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 0)
}
