//! What a person at the terminal reads while a trace goes on.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc::SyncSender,
};

use crate::{
    ledger::{
        Event, Mark, Outcome, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    report::TableOptions,
    session::{Notice, Severity},
    sinks::{EventLog, Listener, MarkText},
};

/// Standard error. A reader that went away is no reason to end a trace, so errors of writing are ignored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    is_quiet: bool,
}

impl Terminal {
    /// `is_quiet`: only warnings are printed.
    pub(super) fn new(is_quiet: bool) -> Self {
        Self { is_quiet }
    }

    /// Prints a line for the person who waits.
    pub(super) fn say(self, line: &str) {
        if !self.is_quiet {
            print(&format!("{line}\n"));
        }
    }

    /// Prints a line that a person must know even if they asked for quiet.
    pub(super) fn warn(self, line: &str) {
        print(&format!("tt-memtrace: {line}\n"));
    }

    /// Prints text as it is.
    pub(super) fn show(self, text: &str) {
        if !self.is_quiet {
            print(text);
        }
    }
}

fn print(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// What a trace says while it goes on: to a person, and to the event log.
pub(super) struct Progress {
    pub terminal: Terminal,
    pub events: EventLog,
    /// It was said that the event log can't be written.
    has_warned: bool,
}

impl Progress {
    pub(super) fn new(terminal: Terminal, events: EventLog) -> Self {
        Self {
            terminal,
            events,
            has_warned: false,
        }
    }
}

impl Listener for Progress {
    fn event(&mut self, event: &Event, outcome: &Outcome) {
        self.events.event(event, outcome);
    }

    fn program<'a>(
        &mut self,
        event: &ProgramEvent,
        effect: ProgramEffect,
        program: &dyn Fn(ProgramKey) -> Option<&'a Program>,
    ) {
        self.events.program(event, effect, program);
    }

    fn mark(
        &mut self,
        mark: &Mark,
        reply: Option<&SyncSender<String>>,
        found: &dyn Fn(TableOptions) -> MarkText,
    ) {
        self.events.mark(mark);
        let MarkText { line, changes } = found(table_options());
        self.terminal.say(&line);
        if !changes.is_empty() {
            self.terminal.say(changes.trim_end());
        }
        if let Some(reply) = reply {
            // A client that went away needs no answer.
            reply.try_send(format!("{line}\n{changes}")).ok();
        }
    }

    fn notice(&mut self, notice: &Notice) {
        let text = notice.to_string();
        match notice.severity() {
            Severity::Info => self.terminal.say(&text),
            Severity::Warning => self.terminal.warn(&text),
        }
    }

    fn flush(&mut self) {
        self.events.flush();
        if let Some(error) = self.events.failure().filter(|_| !self.has_warned) {
            let warning = format!("the events can't be written any more: {error}");
            self.terminal.warn(&warning);
            self.has_warned = true;
        }
    }
}

/// How a table is drawn for the reader of standard error.
pub(super) fn table_options() -> TableOptions {
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
