//! The stacks of all traced processes.

use std::collections::{HashMap, HashSet};

use super::{
    code_files::CodeFiles,
    member_stacks::MemberStacks,
    process::{ProcessStacks, StackParts},
};
use crate::{
    frame::{Stack, StackId},
    ledger::Event,
    python::{Python, PythonError},
    stream::{StackKey, StackPart, StackRecord, StackState},
};

/// The most stacks that wait for their event. If there are more, their events were lost.
const MAX_PENDING: usize = 100_000;

/// Assembles the stacks of all traced processes. A [`StackId`] is unique in the trace.
pub(crate) struct StackAssembler {
    reads_processes: bool,
    processes: HashMap<ProcessNumber, ProcessStacks>,
    next_process: ProcessNumber,
    /// By pid.
    running: HashMap<u32, ProcessNumber>,
    /// Stacks whose event hasn't come yet.
    pending: HashMap<StackKey, ProcessStack>,
    member_stacks: MemberStacks,
    next_id: StackId,
    /// Stacks that weren't named yet, in the order of their ids.
    new: Vec<(StackId, ProcessStack)>,
    files: CodeFiles,
}

/// A stack with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedStack {
    pub id: StackId,
    pub pid: u32,
    pub stack: Stack,
}

/// One program in one process. Unlike a pid it isn't used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct ProcessNumber(usize);

#[derive(Clone, Copy)]
struct ProcessStack {
    process: ProcessNumber,
    parts: StackParts,
}

impl StackAssembler {
    /// `reads_processes`: whether interpreters are searched for in the processes, and code in the files that
    /// they have mapped. Of a recording, and where stacks aren't wanted, nothing is read.
    pub(crate) fn new(reads_processes: bool) -> Self {
        Self {
            reads_processes,
            processes: HashMap::new(),
            next_process: ProcessNumber::default(),
            running: HashMap::new(),
            pending: HashMap::new(),
            member_stacks: MemberStacks::default(),
            next_id: StackId(0),
            new: Vec::new(),
            files: CodeFiles::default(),
        }
    }

    /// Takes a stack record. The record of the stack's event comes later.
    pub(crate) fn take(&mut self, record: &StackRecord<'_>) {
        if self.pending.len() > MAX_PENDING {
            self.pending.clear();
        }
        let number = self.number(record.pid);
        let Self {
            processes,
            files,
            pending,
            ..
        } = self;
        let Some(process) = processes.get_mut(&number) else {
            return;
        };
        let mut parts = StackParts::default();
        match &record.part {
            StackPart::Python { frames, more } => parts.python = process.python(frames, *more),
            StackPart::Native(copy) => parts.native = Some(process.unwind(files, copy)),
            StackPart::Code(code) => return process.add_code(code),
        }
        let stack = pending.entry(record.key).or_insert(ProcessStack {
            process: number,
            parts: StackParts::default(),
        });
        stack.parts.add(parts);
    }

    /// The stack of an event about device memory. The stack's records must have been taken.
    pub(crate) fn stack_of(&mut self, event: &Event, state: StackState) -> Option<StackId> {
        let stack = match state {
            StackState::Sent(key) => self.intern(key),
            StackState::OfMesh => return self.member_stacks.stack_of_member(event),
            StackState::None | StackState::Skipped => None,
        };
        self.member_stacks.note_allocation(event, stack);
        stack
    }

    /// The stack of an event of a program. The stack's records must have been taken.
    pub(crate) fn stack_of_program(&mut self, state: StackState) -> Option<StackId> {
        match state {
            StackState::Sent(key) => self.intern(key),
            StackState::OfMesh | StackState::None | StackState::Skipped => None,
        }
    }

    /// Reads what code a process has mapped now, and searches it for a Python interpreter. Returns the
    /// interpreter if it wasn't found before: the kernel side can walk its frames from now on.
    ///
    /// # Errors
    /// When there is an interpreter, but its stacks can't be read.
    pub(crate) fn find_interpreter(&mut self, pid: u32) -> Result<Option<&Python>, PythonError> {
        if !self.reads_processes {
            return Ok(None);
        }
        let number = self.number(pid);
        match self.processes.get_mut(&number) {
            Some(process) => process.find_interpreter(&mut self.files),
            None => Ok(None),
        }
    }

    /// Sets the interpreter of a process where it is known without a search: from a recording.
    pub(crate) fn set_interpreter(&mut self, pid: u32, python: Python) {
        let number = self.number(pid);
        if let Some(process) = self.processes.get_mut(&number) {
            process.set_interpreter(python);
        }
    }

    /// The interpreter of a running process, once it was found.
    #[cfg(test)]
    pub(crate) fn interpreter(&self, pid: u32) -> Option<&Python> {
        self.processes.get(self.running.get(&pid)?)?.interpreter()
    }

    /// The processes to search for an interpreter again now: the last search found an interpreter that ran
    /// no Python code yet.
    pub(crate) fn pids_to_search_again(&self) -> Vec<u32> {
        let running = self.running.iter();
        running
            .filter(|(_, number)| {
                let process = self.processes.get(number);
                process.is_some_and(ProcessStacks::is_search_due)
            })
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// A process has ended, or has executed another program. Its stacks can still be named.
    pub(crate) fn close(&mut self, pid: u32) {
        self.member_stacks.forget(pid);
        if let Some(number) = self.running.remove(&pid)
            && let Some(process) = self.processes.get_mut(&number)
        {
            process.close();
        }
    }

    /// The stacks that are new since the last call, with names, in the order of their ids.
    pub(crate) fn resolve_new(&mut self) -> Vec<NamedStack> {
        let Self {
            new,
            processes,
            files,
            ..
        } = self;
        let named = new.drain(..).filter_map(|(id, stack)| {
            let process = processes.get(&stack.process)?;
            Some(NamedStack {
                id,
                pid: process.pid(),
                stack: process.resolve(stack.parts, files),
            })
        });
        let named: Vec<NamedStack> = named.collect();
        self.drop_closed();
        named
    }

    /// Drops closed processes of which no stack is left to be named. All ids of new stacks must have been
    /// resolved.
    fn drop_closed(&mut self) {
        let pending = self.pending.values().map(|stack| stack.process);
        let used: HashSet<ProcessNumber> = pending.chain(self.running.values().copied()).collect();
        self.processes.retain(|number, _| used.contains(number));
    }

    /// The id of a pending stack: a new id, unless its process had an equal stack before.
    fn intern(&mut self, key: StackKey) -> Option<StackId> {
        let stack = self.pending.remove(&key)?;
        let process = self.processes.get_mut(&stack.process)?;
        let next = self.next_id;
        let id = process.intern(stack.parts, next);
        if id == next {
            self.next_id = StackId(next.0 + 1);
            self.new.push((id, stack));
        }
        Some(id)
    }

    fn number(&mut self, pid: u32) -> ProcessNumber {
        *self.running.entry(pid).or_insert_with(|| {
            let number = self.next_process;
            self.next_process = ProcessNumber(number.0 + 1);
            let process = ProcessStacks::new(pid, self.reads_processes);
            self.processes.insert(number, process);
            number
        })
    }
}
