//! What a trace leaves: the summary, the event log, the table, and what a person reads meanwhile.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    args::Tracing,
    failure::{Failure, Kind},
    terminal::{Progress, Terminal, table_options},
};
use crate::{
    files,
    probe::HostName,
    report::{self, BaselineSummary, Change, Facts, Host, Summary, Tool},
    session::Ended,
    sinks::{Accounts, Closed, EventLog},
};

/// Where the results of one trace go, and how they are judged.
pub(super) struct Outputs {
    terminal: Terminal,
    summary: Option<PathBuf>,
    /// Whether there is an event log.
    has_events: bool,
    /// The earlier summary that this trace is compared with.
    baseline: Option<BaselineSummary>,
    /// How many bytes a process may hold at its end.
    fail_on_leak: Option<u64>,
}

impl Outputs {
    /// Opens what must be open and checks what is written later. Returns the accounts, too: they write the event
    /// log while the trace goes on.
    ///
    /// # Errors
    /// When a file can't be written, or the baseline is no summary.
    pub(super) fn open(options: &Tracing) -> Result<(Self, Accounts<Progress>), Failure> {
        let baseline = options.baseline.as_deref().map(read_baseline).transpose()?;
        let summary = options.summary.clone();
        if let Some(path) = summary.as_deref().filter(|path| !is_stdout(path)) {
            files::check_writable(path)?;
        }
        let events: Option<Box<dyn Write + Send>> = match options.events.as_deref() {
            Some(path) if is_stdout(path) => Some(Box::new(BufWriter::new(io::stdout()))),
            Some(path) => Some(Box::new(files::open_lines(path)?)),
            None => None,
        };
        let terminal = Terminal::new(options.quiet);
        let outputs = Self {
            terminal,
            summary,
            has_events: events.is_some(),
            baseline,
            fail_on_leak: options.fail_on_leak,
        };
        let progress = Progress::new(terminal, EventLog::new(events));
        Ok((outputs, Accounts::new(options.temporary, progress)))
    }

    /// Writes the summary and shows the table.
    ///
    /// # Errors
    /// When something couldn't be written, or else when a process held more at its end than it may.
    pub(super) fn finish(self, accounts: Accounts<Progress>, ended: &Ended) -> Result<(), Failure> {
        let Closed {
            ledger,
            facts: processes,
            untraced,
            listener: Progress { events, .. },
        } = accounts.close();
        let facts = Facts {
            tool: Tool {
                name: "tt-memtrace".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            host: host(),
            started_at: ended.started_at,
            duration: ended.duration,
            processes,
            untraced,
            every_stack: self.has_events,
            stacks_skipped: ended.stacks_skipped,
        };
        let mut summary = Summary::new(&ledger, &facts);
        let baseline = self.baseline.as_ref();
        summary.change = baseline.map(|baseline| Change::new(baseline, &summary));
        let summary = &summary;
        self.terminal.show(&report::table(summary, table_options()));
        match self.summary.as_deref() {
            Some(path) if is_stdout(path) => {
                files::write_stream(&mut io::stdout().lock(), |file| summary.write_json(file))?;
            }
            Some(path) => files::write_whole(path, |file| summary.write_json(file))?,
            None => {}
        }
        if let Some(error) = events.into_failure() {
            let error = anyhow::Error::new(error).context("the events are incomplete");
            return Err(Failure::new(Kind::Output, error));
        }
        match self.fail_on_leak {
            Some(limit) => Ok(report::check_leaks(summary, limit)?),
            None => Ok(()),
        }
    }
}

fn host() -> Host {
    let HostName {
        hostname,
        kernel,
        arch,
    } = HostName::read();
    Host {
        hostname,
        kernel,
        arch,
    }
}

/// Reads the summary of an earlier trace.
fn read_baseline(path: &Path) -> Result<BaselineSummary, Failure> {
    let json = std::fs::read(path).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
        Failure::new(Kind::Usage, error)
    })?;
    Ok(BaselineSummary::parse(path, &json)?)
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}
