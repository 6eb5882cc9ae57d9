//! What a session asks of the kernel side. [`probe::Kernel`] is the real one; a recording of what it
//! once sent is another.

use std::path::Path;

use tracer_common::{Capture, Lists};

use crate::{
    clock::monotonic_ns,
    probe::{self, LinkScope, Probe, ProbeError, Recording, Reporting},
    python::Python,
};

/// The capture programs, their probes, and the records that they send.
pub(crate) trait Kernel {
    /// The clock that records are stamped with, in nanoseconds: `CLOCK_MONOTONIC`.
    fn now_ns(&self) -> u64;

    /// Gives each record that waits to `each`, until `each` returns false.
    fn drain(&mut self, each: &mut dyn FnMut(&[u8]) -> bool);

    /// Gives each stack record that waits to `each`, until `each` returns false. The stack records of a
    /// record that [`Self::drain`] gave were sent before it.
    fn drain_stacks(&mut self, each: &mut dyn FnMut(&[u8]) -> bool);

    /// Waits until a record is there that can't wait for the next timed drain.
    fn attention(&mut self) -> impl Future<Output = Result<(), ProbeError>>;

    /// Records lost so far because the ring buffer was full.
    fn lost(&mut self) -> Result<u64, ProbeError>;

    /// Children of watched processes that aren't watched because there are too many.
    fn unfollowed(&mut self) -> Result<u64, ProbeError>;

    /// Stacks skipped so far because too many waited.
    fn stacks_skipped(&mut self) -> Result<u64, ProbeError>;

    /// Chooses which probe hits are recorded.
    fn record(&mut self, what: Recording) -> Result<(), ProbeError>;

    /// Chooses whose process events are reported.
    fn report(&mut self, whose: Reporting) -> Result<(), ProbeError>;

    /// Reports the process events of `pid` until it ends.
    fn watch(&mut self, pid: u32) -> Result<(), ProbeError>;

    /// No longer stops `pid` when it loads libraries, until it executes another program.
    fn let_go(&mut self, pid: u32) -> Result<(), ProbeError>;

    /// Stops and follows no process any longer. Adds to `stopped` those that may be stopped now, on an error,
    /// too.
    fn let_all_go(&mut self, stopped: &mut Vec<u32>) -> Result<(), ProbeError>;

    /// Whether this kernel can run programs that send lists.
    fn sends_lists(&self) -> bool;

    /// Installs capture programs, each at its own number ([`Capture::point`]).
    fn install(&mut self, captures: &mut dyn Iterator<Item = &Capture>) -> Result<(), ProbeError>;

    /// Installs the lists of a library's programs, by the number that captures refer to.
    fn install_lists(&mut self, number: u32, lists: &Lists) -> Result<(), ProbeError>;

    /// Puts probes on a library's file, in this order. They stay until the kernel side is dropped.
    fn attach(
        &mut self,
        library: &Path,
        scope: LinkScope,
        probes: &[Probe],
    ) -> Result<(), ProbeError>;

    /// Puts the probe that reports loaded libraries at this offset of a dynamic linker's file.
    fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        scope: LinkScope,
    ) -> Result<(), ProbeError>;

    /// Has the frames of a process's Python interpreter walked, until the process ends.
    fn walk_python(&mut self, pid: u32, python: &Python) -> Result<(), ProbeError>;

    /// Sets how many buffers follow each buffer on a mesh whose device object lies at `mesh`.
    fn set_followers(&mut self, pid: u32, mesh: u64, followers: u32) -> Result<(), ProbeError>;
}

impl Kernel for probe::Kernel {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.drain(each);
    }

    fn drain_stacks(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        self.drain_stacks(each);
    }

    fn attention(&mut self) -> impl Future<Output = Result<(), ProbeError>> {
        self.attention()
    }

    fn lost(&mut self) -> Result<u64, ProbeError> {
        self.lost()
    }

    fn unfollowed(&mut self) -> Result<u64, ProbeError> {
        self.unfollowed()
    }

    fn stacks_skipped(&mut self) -> Result<u64, ProbeError> {
        self.stacks_skipped()
    }

    fn record(&mut self, what: Recording) -> Result<(), ProbeError> {
        self.record(what)
    }

    fn report(&mut self, whose: Reporting) -> Result<(), ProbeError> {
        self.report(whose)
    }

    fn watch(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.watch(pid)
    }

    fn let_go(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.let_go(pid)
    }

    fn let_all_go(&mut self, stopped: &mut Vec<u32>) -> Result<(), ProbeError> {
        self.let_all_go(stopped)
    }

    fn sends_lists(&self) -> bool {
        self.sends_lists()
    }

    fn install(&mut self, captures: &mut dyn Iterator<Item = &Capture>) -> Result<(), ProbeError> {
        self.install(captures)
    }

    fn install_lists(&mut self, number: u32, lists: &Lists) -> Result<(), ProbeError> {
        self.install_lists(number, lists)
    }

    fn attach(
        &mut self,
        library: &Path,
        scope: LinkScope,
        probes: &[Probe],
    ) -> Result<(), ProbeError> {
        self.attach(library, scope, probes.iter().copied())
    }

    fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        scope: LinkScope,
    ) -> Result<(), ProbeError> {
        self.attach_linker(linker, file_offset, scope)
    }

    fn walk_python(&mut self, pid: u32, python: &Python) -> Result<(), ProbeError> {
        // An interpreter whose frames the kernel side can't reach is walked by nobody.
        match python.kernel_walk() {
            Some(walk) => self.walk_python(pid, walk),
            None => Ok(()),
        }
    }

    fn set_followers(&mut self, pid: u32, mesh: u64, followers: u32) -> Result<(), ProbeError> {
        self.set_followers(pid, mesh, followers)
    }
}
