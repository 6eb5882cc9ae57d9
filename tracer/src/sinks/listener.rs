//! What hears of the accounts.

use std::{collections::BTreeMap, sync::mpsc::SyncSender};

use crate::{
    frame::{Stack, StackId},
    ledger::{
        Event, Ledger, Mark, Outcome, ProcessId, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    report::{self, ProcessFacts, TableOptions},
    session::Notice,
};

/// Hears what each item did to the accounts.
pub(crate) trait Listener {
    fn event(&mut self, event: &Event, outcome: &Outcome);

    /// `program` finds the program that the effect names.
    fn program<'a>(
        &mut self,
        event: &ProgramEvent,
        effect: ProgramEffect,
        program: &dyn Fn(ProgramKey) -> Option<&'a Program>,
    );

    /// A mark was set. `found` describes for a person what it found, and `reply` takes that description for
    /// the client that asked for the mark.
    fn mark(
        &mut self,
        mark: &Mark,
        reply: Option<&SyncSender<String>>,
        found: &dyn Fn(TableOptions) -> MarkText,
    );

    /// Something that a person should know.
    fn notice(&mut self, notice: &Notice);

    /// Everything that came together has been entered.
    fn flush(&mut self);
}

/// What a mark found, for a person.
pub(crate) struct MarkText {
    /// That it is set, and what is live.
    pub line: String,
    /// What has changed since the mark before; empty if there is none.
    pub changes: String,
}

impl MarkText {
    /// What the last mark found. Only the stacks that the change names are used, so that a line is told from
    /// those that stand beside it, and not from all that there ever were.
    pub(super) fn new(
        ledger: &Ledger,
        facts: &BTreeMap<ProcessId, ProcessFacts>,
        stacks: &BTreeMap<StackId, Stack>,
        options: TableOptions,
    ) -> Self {
        let marks = ledger.marks();
        let line = marks.last().map(|mark| report::mark_line(mark, ledger));
        let changes = marks.iter().nth_back(1).map(|before| {
            let processes = ledger.processes().iter();
            let named: BTreeMap<StackId, Stack> = processes
                .clone()
                .flat_map(|(_, process)| report::stacks_since_mark(process, before.number))
                .filter_map(|id| Some((id, stacks.get(&id)?.clone())))
                .collect();
            let changes = processes.filter_map(|(id, process)| {
                let comm = facts.get(id).map_or("", |facts| &facts.comm);
                report::changes_since_mark(comm, id.pid, process, before, &named, options)
            });
            changes.collect()
        });
        Self {
            line: line.unwrap_or_default(),
            changes: changes.unwrap_or_default(),
        }
    }
}
