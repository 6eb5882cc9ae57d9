//! What a session asks of the machine about processes. [`Machine`] is the one that this program runs on.

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    abi::{AbiError, DerivedLibrary},
    python::Python,
    target::{self, Identity, MappedFile, TargetError},
};

/// The processes of a machine.
pub(crate) trait Processes: Clone + Send + 'static {
    /// What a process is called.
    ///
    /// # Errors
    /// When there is no such process.
    fn identity(&self, pid: u32) -> Result<Identity, TargetError>;

    /// Whether a process still runs.
    fn is_alive(&self, pid: u32) -> bool;

    /// All processes but this one, by their pids.
    ///
    /// # Errors
    /// When they can't be listed.
    fn all(&self) -> Result<Vec<u32>, TargetError>;

    /// The TT-Metal libraries that a process has mapped.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    fn libraries(&self, pid: u32) -> Result<Vec<MappedFile>, TargetError>;

    /// The dynamic linker of a process; `None` for a statically linked program.
    ///
    /// # Errors
    /// Like [`Self::libraries`].
    fn dynamic_linker(&self, pid: u32) -> Result<Option<MappedFile>, TargetError>;

    /// Reads a library's file and derives where its fields lie.
    ///
    /// # Errors
    /// When the file can't be read; within, when it can't be traced.
    fn derive(&self, file: &MappedFile) -> Result<Result<DerivedLibrary, AbiError>, TargetError>;

    /// The Python interpreter of a process where that is known without a search, as in a recording.
    fn interpreter(&self, pid: u32) -> Option<Python> {
        let _ = pid;
        None
    }

    /// Whether a process is stopped by a signal, or is about to be.
    fn is_stopping(&self, pid: u32) -> bool;

    /// Lets a stopped process go on (SIGCONT).
    fn resume(&self, pid: u32);
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine;

impl Processes for Machine {
    fn identity(&self, pid: u32) -> Result<Identity, TargetError> {
        Identity::from_pid(pid)
    }

    fn is_alive(&self, pid: u32) -> bool {
        target::is_alive(pid)
    }

    fn all(&self) -> Result<Vec<u32>, TargetError> {
        target::all()
    }

    fn libraries(&self, pid: u32) -> Result<Vec<MappedFile>, TargetError> {
        target::libraries(pid)
    }

    fn dynamic_linker(&self, pid: u32) -> Result<Option<MappedFile>, TargetError> {
        target::dynamic_linker(pid)
    }

    fn derive(&self, file: &MappedFile) -> Result<Result<DerivedLibrary, AbiError>, TargetError> {
        Ok(DerivedLibrary::derive(file.read()?))
    }

    fn is_stopping(&self, pid: u32) -> bool {
        target::is_stopping(pid)
    }

    fn resume(&self, pid: u32) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have been killed meanwhile; then nothing has to go on.
            kill_process(pid, Signal::CONT).ok();
        }
    }
}
