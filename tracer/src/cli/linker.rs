//! The probe that tells of loaded libraries.

use super::{
    failure::{Failure, Kind},
    session::Session,
};
use crate::{abi::Image, probe::AttachedProbes, target::MappedFile};

/// The function that glibc's dynamic linker calls whenever its list of loaded libraries changed,
/// so that debuggers can put a breakpoint there (`elf/dl-debug.c`, every release).
const FUNCTION: &str = "_dl_debug_state";

/// # Errors
/// When the linker is not glibc's, or can't be probed.
pub fn attach(session: &mut Session, linker: &MappedFile) -> Result<AttachedProbes, Failure> {
    let data = linker.read()?;
    let offset = Image::parse(&data)
        .ok()
        .and_then(|image| image.file_offset(image.address_of(FUNCTION)?));
    let offset = offset.ok_or_else(|| {
        Failure::new(
            Kind::Host,
            anyhow::anyhow!(
                "{} has no {FUNCTION}: only glibc's dynamic linker tells of loaded libraries. \
                 Start the command by itself and use `tt-memtrace attach`",
                linker.path.display(),
            ),
        )
    })?;
    Ok(session
        .kernel
        .attach_linker(&linker.open_path(), offset, linker.pid)?)
}
