//! A kernel side and a machine that write what they give a session to a tape.

use std::{cell::Cell, path::Path};

use tracer_common::{Capture, Lists};

use super::{IDENTITY, INTERPRETER, LIBRARY, RECORD, STACK, STARTED, writer};
use crate::{
    abi::{AbiError, DerivedLibrary},
    probe::{LinkScope, Probe, ProbeError, Recording, Reporting},
    python::Python,
    session::{Kernel, Processes},
    target::{Identity, MappedFile, TargetError},
};

/// A kernel side whose records are taped.
pub(crate) struct TapedKernel<K> {
    kernel: K,
    has_started: Cell<bool>,
}

impl<K> TapedKernel<K> {
    pub(crate) fn new(kernel: K) -> Self {
        Self {
            kernel,
            has_started: Cell::new(false),
        }
    }
}

impl<K: Kernel> Kernel for TapedKernel<K> {
    fn now_ns(&self) -> u64 {
        let now = self.kernel.now_ns();
        // A session begins with the first look at the clock.
        if !self.has_started.replace(true) {
            writer::json(STARTED, &now);
        }
        now
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.kernel.drain(&mut |record| {
            writer::record(RECORD, record);
            each(record)
        });
    }

    fn drain_stacks(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.kernel.drain_stacks(&mut |record| {
            writer::record(STACK, record);
            each(record)
        });
        writer::fetched();
    }

    fn attention(&mut self) -> impl Future<Output = Result<(), ProbeError>> {
        self.kernel.attention()
    }

    fn lost(&mut self) -> Result<u64, ProbeError> {
        self.kernel.lost()
    }

    fn unfollowed(&mut self) -> Result<u64, ProbeError> {
        self.kernel.unfollowed()
    }

    fn stacks_skipped(&mut self) -> Result<u64, ProbeError> {
        self.kernel.stacks_skipped()
    }

    fn record(&mut self, what: Recording) -> Result<(), ProbeError> {
        self.kernel.record(what)
    }

    fn report(&mut self, whose: Reporting) -> Result<(), ProbeError> {
        self.kernel.report(whose)
    }

    fn watch(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.kernel.watch(pid)
    }

    fn let_go(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.kernel.let_go(pid)
    }

    fn let_all_go(&mut self, stopped: &mut Vec<u32>) -> Result<(), ProbeError> {
        self.kernel.let_all_go(stopped)
    }

    fn sends_lists(&self) -> bool {
        self.kernel.sends_lists()
    }

    fn install(&mut self, captures: &mut dyn Iterator<Item = &Capture>) -> Result<(), ProbeError> {
        self.kernel.install(captures)
    }

    fn install_lists(&mut self, number: u32, lists: &Lists) -> Result<(), ProbeError> {
        self.kernel.install_lists(number, lists)
    }

    fn attach(
        &mut self,
        library: &Path,
        scope: LinkScope,
        probes: &[Probe],
    ) -> Result<(), ProbeError> {
        self.kernel.attach(library, scope, probes)
    }

    fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        scope: LinkScope,
    ) -> Result<(), ProbeError> {
        self.kernel.attach_linker(linker, file_offset, scope)
    }

    fn walk_python(&mut self, pid: u32, python: &Python) -> Result<(), ProbeError> {
        writer::json(INTERPRETER, &(writer::moved(pid), python));
        self.kernel.walk_python(pid, python)
    }

    fn set_followers(&mut self, pid: u32, mesh: u64, followers: u32) -> Result<(), ProbeError> {
        self.kernel.set_followers(pid, mesh, followers)
    }
}

/// Processes whose names and libraries are taped.
#[derive(Clone)]
pub(crate) struct TapedProcesses<P>(pub(crate) P);

impl<P: Processes> Processes for TapedProcesses<P> {
    fn identity(&self, pid: u32) -> Result<Identity, TargetError> {
        let identity = self.0.identity(pid)?;
        let Identity {
            pid,
            comm,
            command_line,
        } = &identity;
        writer::json(IDENTITY, &(writer::moved(*pid), comm, command_line));
        Ok(identity)
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.0.is_alive(pid)
    }

    fn all(&self) -> Result<Vec<u32>, TargetError> {
        self.0.all()
    }

    fn libraries(&self, pid: u32) -> Result<Vec<MappedFile>, TargetError> {
        let files = self.0.libraries(pid)?;
        for file in &files {
            writer::json(LIBRARY, &(writer::moved(pid), &file.path));
        }
        Ok(files)
    }

    fn dynamic_linker(&self, pid: u32) -> Result<Option<MappedFile>, TargetError> {
        self.0.dynamic_linker(pid)
    }

    fn derive(&self, file: &MappedFile) -> Result<Result<DerivedLibrary, AbiError>, TargetError> {
        self.0.derive(file)
    }

    fn is_stopping(&self, pid: u32) -> bool {
        self.0.is_stopping(pid)
    }

    fn resume(&self, pid: u32) {
        self.0.resume(pid);
    }
}
