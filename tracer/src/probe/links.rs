//! Probes on files, for one process or for all.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aya::programs::{
    UProbe,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
};

use super::{attached::AttachedProbes, error::ProbeError, kernel::Kernel};

/// The processes whose hits a probe sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LinkScope {
    /// The process with this pid. Others that run the same code aren't touched.
    OneProcess(u32),
    /// Every process, present and future: the kernel puts the probe into each that maps the file, before
    /// it can run.
    AllProcesses,
}

/// A probe's place, and what it records there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The offset in the file, in bytes.
    pub file_offset: u64,
    /// The [`Capture::point`](tracer_common::Capture::point) of its capture program.
    pub point: u32,
    /// Its capture program sends lists.
    pub lists: bool,
}

impl Kernel {
    /// Puts probes on the file `library`, in the order given. They stay on until the `Kernel` is dropped.
    /// Where lists can't be [sent](Self::sends_lists), probes that would send them are left out.
    ///
    /// # Errors
    /// When the kernel refuses a probe. Those that this call has put on come off again.
    pub(crate) fn attach(
        &mut self,
        library: &Path,
        scope: LinkScope,
        probes: impl IntoIterator<Item = Probe>,
    ) -> Result<(), ProbeError> {
        let mut attached = AttachedProbes::default();
        for Probe {
            file_offset,
            point,
            lists,
        } in probes
        {
            if lists && !self.sends_lists() {
                continue;
            }
            let link = self.uprobe(self.capture, library, file_offset, scope, u64::from(point))?;
            attached.push(link);
        }
        self.probes.append(attached);
        Ok(())
    }

    /// Puts the probe that reports loaded libraries on a dynamic linker's `_dl_debug_state`. It stays on
    /// until the `Kernel` is dropped.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(crate) fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        scope: LinkScope,
    ) -> Result<(), ProbeError> {
        let link = self.uprobe("linked", linker, file_offset, scope, 0)?;
        self.probes.push(link);
        Ok(())
    }

    fn uprobe(
        &mut self,
        program: &'static str,
        path: &Path,
        file_offset: u64,
        scope: LinkScope,
        cookie: u64,
    ) -> Result<UProbeLink, ProbeError> {
        let scope = match scope {
            LinkScope::AllProcesses => UProbeScope::AllProcesses,
            LinkScope::OneProcess(pid) => {
                UProbeScope::OneProcess(NonZeroU32::new(pid).ok_or(ProbeError::NoProcess)?)
            }
        };
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(file_offset),
            cookie: Some(cookie),
        };
        let program_data: &mut UProbe = self.program(program)?;
        program_data
            .attach(point, path, scope)
            .and_then(|link| program_data.take_link(link))
            .map_err(|source| ProbeError::Attach {
                path: PathBuf::from(path),
                offset: file_offset,
                source: Box::new(source),
            })
    }
}
