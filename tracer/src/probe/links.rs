//! Probes on files, for one process or for all.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    thread,
};

use aya::programs::{
    UProbe,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
};

use super::{Kernel, ProbeError};

/// Whose hits a probe sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of one process's threads. Others that run the same code aren't touched.
    Process(u32),
    /// Those of every process, present and future: the kernel puts the probe into each that maps the
    /// file, before it can run.
    All,
}

/// Where a probe goes, and what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// In the file, in bytes.
    pub file_offset: u64,
    /// The [`Capture::point`](tracer_common::Capture::point) of its capture program.
    pub point: u32,
    /// That program sends lists.
    pub lists: bool,
}

/// Probes that are on; dropping them takes them off.
#[must_use = "probes come off when this is dropped"]
#[derive(Default)]
pub struct AttachedProbes {
    links: Vec<UProbeLink>,
}

impl AttachedProbes {
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Takes others along, so that all come off together.
    pub fn append(&mut self, mut others: Self) {
        self.links.append(&mut others.links);
    }
}

impl Drop for AttachedProbes {
    /// The kernel waits for a grace period for each probe (about 0.1 s); the waits overlap when
    /// each has a thread of its own.
    fn drop(&mut self) {
        thread::scope(|scope| {
            for link in self.links.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
    }
}

impl Kernel {
    /// Puts probes on the file `library`, in the order given.
    ///
    /// # Errors
    /// When the kernel refuses one; those that were already on come off.
    pub fn attach(
        &mut self,
        library: &Path,
        scope: Scope,
        probes: impl IntoIterator<Item = Probe>,
    ) -> Result<AttachedProbes, ProbeError> {
        let mut attached = AttachedProbes::default();
        for Probe {
            file_offset,
            point,
            lists,
        } in probes
        {
            // Without, there is nothing to tell.
            if lists && !self.sends_lists() {
                continue;
            }
            let link = self.uprobe(self.capture, library, file_offset, scope, u64::from(point))?;
            attached.links.push(link);
        }
        Ok(attached)
    }

    /// Puts the probe that reports loaded libraries on a dynamic linker's `_dl_debug_state`.
    pub fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        scope: Scope,
    ) -> Result<AttachedProbes, ProbeError> {
        Ok(AttachedProbes {
            links: vec![self.uprobe("linked", linker, file_offset, scope, 0)?],
        })
    }

    fn uprobe(
        &mut self,
        program: &'static str,
        path: &Path,
        file_offset: u64,
        scope: Scope,
        cookie: u64,
    ) -> Result<UProbeLink, ProbeError> {
        let scope = match scope {
            Scope::All => UProbeScope::AllProcesses,
            Scope::Process(pid) => {
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
