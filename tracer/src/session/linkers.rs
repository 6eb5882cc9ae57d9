//! Probes on dynamic linkers, which report loaded libraries.

use std::collections::HashSet;

use super::{Kernel, Processes, SessionError};
use crate::{
    abi::Image,
    probe::LinkScope,
    target::{FileId, MappedFile},
};

/// The function that glibc's dynamic linker calls whenever its list of loaded libraries changed,
/// so that debuggers can put a breakpoint there (`elf/dl-debug.c`, every release).
const FUNCTION: &str = "_dl_debug_state";

/// The dynamic linkers with a probe. A host may have several: each container has one of its own.
#[derive(Debug, Default)]
pub(super) struct Linkers {
    /// Linkers that a probe was tried on, also those that can't be probed: one error is enough.
    tried: HashSet<(FileId, LinkScope)>,
}

impl Linkers {
    /// Puts the probe on the dynamic linker of a process, unless it is there already. `scope` chooses the
    /// processes whose loading it reports. Returns whether the process has a dynamic linker: a statically
    /// linked program loads nothing.
    ///
    /// # Errors
    /// When the linker is not glibc's, or can't be probed. Each linker is an error once.
    pub(super) fn listen(
        &mut self,
        kernel: &mut impl Kernel,
        processes: &impl Processes,
        pid: u32,
        scope: LinkScope,
    ) -> Result<bool, SessionError> {
        let Some(linker) = processes.dynamic_linker(pid)? else {
            return Ok(false);
        };
        if self.tried.insert((linker.file, scope)) {
            let offset = function_offset(&linker)?;
            kernel.attach_linker(&linker.open_path(), offset, scope)?;
        }
        Ok(true)
    }
}

/// The function's offset in the linker's file.
fn function_offset(linker: &MappedFile) -> Result<u64, SessionError> {
    let data = linker.read()?;
    let offset = Image::parse(&data)
        .ok()
        .and_then(|image| image.file_offset(image.address_of(FUNCTION)?));
    offset.ok_or_else(|| SessionError::Linker {
        linker: linker.path.clone(),
        function: FUNCTION,
    })
}
