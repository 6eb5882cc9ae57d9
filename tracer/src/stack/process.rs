//! The stacks of one program in one process.

use std::collections::HashMap;

use super::{code_files::CodeFiles, merge::merge};
use crate::{
    frame::{Stack, StackId},
    python::{InterpreterSearch, NoMemory, Python, PythonError, PythonStackId, PythonStacks},
    stream::SentCode,
    target::{self, MappedCode, ProcessMemory},
    unwind::{Broken, Mapping, NativeStackId, StackCopy, Unwinder},
};

/// The Python part and the native part of a stack, as far as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct StackParts {
    pub python: Option<PythonStackId>,
    pub native: Option<NativeStackId>,
}

impl StackParts {
    /// Adds what another record brought.
    pub(super) fn add(&mut self, other: Self) {
        self.python = other.python.or(self.python);
        self.native = other.native.or(self.native);
    }
}

pub(super) struct ProcessStacks {
    pid: u32,
    /// Whether its memory and mappings are read.
    is_read: bool,
    has_mappings: bool,
    unwinder: Unwinder,
    search: InterpreterSearch,
    python: PythonStacks,
    ids: HashMap<StackParts, StackId>,
}

impl ProcessStacks {
    pub(super) fn new(pid: u32, is_read: bool) -> Self {
        Self {
            pid,
            is_read,
            has_mappings: false,
            unwinder: Unwinder::default(),
            search: InterpreterSearch::default(),
            python: PythonStacks::new(if is_read {
                Box::new(ProcessMemory::new(pid))
            } else {
                Box::new(NoMemory)
            }),
            ids: HashMap::new(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// See [`StackAssembler::find_interpreter`](super::StackAssembler::find_interpreter).
    pub(super) fn find_interpreter(
        &mut self,
        files: &mut CodeFiles,
    ) -> Result<Option<&Python>, PythonError> {
        let mapped = self.read_mappings(files);
        if self.python.interpreter().is_some() {
            return Ok(None);
        }
        let memory = ProcessMemory::new(self.pid);
        let Some(python) = self.search.find(&memory, &mapped)? else {
            return Ok(None);
        };
        self.python.set_interpreter(python);
        Ok(self.python.interpreter())
    }

    pub(super) fn set_interpreter(&mut self, python: Python) {
        self.python.set_interpreter(python);
    }

    #[cfg(test)]
    pub(super) fn interpreter(&self) -> Option<&Python> {
        self.python.interpreter()
    }

    pub(super) fn is_search_due(&self) -> bool {
        self.search.is_due()
    }

    /// Takes the Python frames of a stack.
    pub(super) fn python(&mut self, frames: &[u8], more: bool) -> Option<PythonStackId> {
        self.python.add_stack(frames, more)
    }

    pub(super) fn add_code(&mut self, code: &SentCode<'_>) {
        self.python.add_code(code);
    }

    /// Unwinds a stack. If it ends at code that may have been mapped since the mappings were read, they are
    /// read again.
    pub(super) fn unwind(&mut self, files: &mut CodeFiles, copy: &StackCopy<'_>) -> NativeStackId {
        if !self.has_mappings {
            self.read_mappings(files);
        }
        let native = self.unwinder.unwind(files, copy);
        let stack = self.unwinder.stack(native);
        let broken = stack.and_then(|stack| stack.broken);
        if !matches!(broken, Some(Broken::NoCode(_))) {
            return native;
        }
        self.read_mappings(files);
        self.unwinder.unwind(files, copy)
    }

    /// The id of a stack of which all records were taken: `next`, unless there was an equal stack before.
    pub(super) fn intern(&mut self, parts: StackParts, next: StackId) -> StackId {
        if let Some(python) = parts.python {
            self.python.finish_stack(python);
        }
        *self.ids.entry(parts).or_insert(next)
    }

    /// Frees what only new stacks need.
    pub(super) fn close(&mut self) {
        self.unwinder.clear_cache();
    }

    /// A stack with names.
    pub(super) fn resolve(&self, parts: StackParts, files: &mut CodeFiles) -> Stack {
        let native = parts.native.and_then(|native| self.unwinder.stack(native));
        let mut broken = native.and_then(|native| native.broken.map(|why| why.to_string()));
        let frames = native.map(|native| {
            let frames = native.frames.iter().enumerate();
            let frames = frames.map(|(depth, frame)| files.named(*frame, depth == 0));
            frames.collect()
        });
        let python = parts.python.and_then(|python| self.python.stack(python));
        let python = python.unwrap_or_default();
        if python.more {
            broken.get_or_insert_with(|| "there are more Python frames than are kept".to_owned());
        }
        merge(frames.unwrap_or_default(), &python.groups, broken)
    }

    /// Reads what code the process has mapped now.
    fn read_mappings(&mut self, files: &mut CodeFiles) -> Vec<MappedCode> {
        if !self.is_read {
            return Vec::new();
        }
        // A process that has ended has nothing mapped. What it had mapped is known, or never will be.
        let mapped = target::code(self.pid).unwrap_or_default();
        if mapped.is_empty() {
            return mapped;
        }
        self.has_mappings = true;
        let mappings = mapped.iter().filter_map(|part| {
            Some(Mapping {
                start: part.start,
                end: part.end,
                file_offset: part.file_offset,
                file: files.number(part)?,
            })
        });
        self.unwinder.set_mappings(mappings.collect());
        mapped
    }
}
