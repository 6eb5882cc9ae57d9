//! The probes that tell of loaded libraries.

use std::collections::HashSet;

use super::failure::{Failure, Kind};
use crate::{
    abi::Image,
    probe::{AttachedProbes, Kernel, Scope},
    target::{self, FileId, MappedFile},
};

/// The function that glibc's dynamic linker calls whenever its list of loaded libraries changed,
/// so that debuggers can put a breakpoint there (`elf/dl-debug.c`, every release).
const FUNCTION: &str = "_dl_debug_state";

/// The dynamic linkers that tell of loaded libraries. A host may have several: each container has
/// one of its own.
#[derive(Default)]
pub struct Linkers {
    /// Those that can't be probed, too: once is enough to say so.
    known: HashSet<(FileId, Option<u32>)>,
    probes: AttachedProbes,
}

impl Linkers {
    /// Puts the probe on the dynamic linker of a process, unless it is there already. `scope` says
    /// whose loading it tells of. Returns whether the process has one: a statically linked program
    /// loads nothing.
    ///
    /// # Errors
    /// When the linker is not glibc's, or can't be probed. Of the same linker that is said once.
    pub fn listen(&mut self, kernel: &mut Kernel, pid: u32, scope: Scope) -> Result<bool, Failure> {
        let Some(linker) = target::dynamic_linker(pid)? else {
            return Ok(false);
        };
        let of = match scope {
            Scope::All => None,
            Scope::Process(pid) => Some(pid),
        };
        if self.known.insert((linker.file, of)) {
            let offset = function(&linker)?;
            self.probes
                .append(kernel.attach_linker(&linker.open_path(), offset, scope)?);
        }
        Ok(true)
    }

    /// The probes, for whoever takes them off.
    pub fn into_probes(self) -> AttachedProbes {
        self.probes
    }
}

/// The function's offset in the linker's file.
fn function(linker: &MappedFile) -> Result<u64, Failure> {
    let data = linker.read()?;
    let offset = Image::parse(&data)
        .ok()
        .and_then(|image| image.file_offset(image.address_of(FUNCTION)?));
    offset.ok_or_else(|| {
        Failure::new(
            Kind::Host,
            anyhow::anyhow!(
                "{} has no {FUNCTION}: only glibc's dynamic linker tells of loaded libraries. \
                 Start the command by itself and use `tt-memtrace attach`",
                linker.path.display(),
            ),
        )
    })
}
