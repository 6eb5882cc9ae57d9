//! The event log: `--events`.

use std::io::{self, Write};

use crate::{
    ledger::{
        Event, Mark, Outcome, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    report::{EventLine, write_line, write_lines},
};

/// Writes a JSON object a line for each event, each layout and dispatch of a program, and each mark.
#[derive(Default)]
pub(crate) struct EventLog {
    writer: Option<Box<dyn Write + Send>>,
    failure: Option<io::Error>,
}

impl EventLog {
    /// A log that goes to `writer`; without one, nothing is logged.
    pub(crate) fn new(writer: Option<Box<dyn Write + Send>>) -> Self {
        Self {
            writer,
            failure: None,
        }
    }

    /// Why the log ended too early, if it did.
    pub(crate) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Consumes the log and returns that error.
    pub(crate) fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    /// Logs an event.
    pub(crate) fn event(&mut self, event: &Event, outcome: &Outcome) {
        self.write(|mut writer| write_lines(&mut writer, event, outcome));
    }

    /// Logs an event of a program. `program` finds the program that the effect names.
    pub(crate) fn program<'a>(
        &mut self,
        event: &ProgramEvent,
        effect: ProgramEffect,
        program: &dyn Fn(ProgramKey) -> Option<&'a Program>,
    ) {
        self.write(|mut writer| {
            let line = EventLine::from_program_event(event, effect, program);
            line.map_or(Ok(()), |line| write_line(&mut writer, &line))
        });
    }

    /// Logs a mark.
    pub(crate) fn mark(&mut self, mark: &Mark) {
        self.write(|mut writer| write_line(&mut writer, &mark.into()));
    }

    /// Lets readers of the log see what was logged so far.
    pub(crate) fn flush(&mut self) {
        self.write(|writer| writer.flush());
    }

    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if let Some(Err(error)) = self.writer.as_mut().map(|writer| write(writer)) {
            self.writer = None;
            self.failure = Some(error);
        }
    }
}
