//! What programs take of the L1 of a device's cores.

use std::collections::BTreeMap;

use super::{
    event::ProgramKey,
    layout::{Core, Layout, Region, RegionKind, merge, total_bytes},
};
use crate::ledger::event::Nanoseconds;

/// What programs take of one core's L1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CoreAccount {
    /// The program that lies there: the one that was dispatched there last, if it hasn't ended.
    pub program: Option<ProgramKey>,
    /// Bytes that this program takes.
    pub live_bytes: u64,
    /// The most bytes that any program took.
    pub peak_bytes: u64,
}

/// The cores of a device that programs were dispatched to. Of the programs that need anything on a core, the
/// one that was dispatched last lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct L1Account {
    pub cores: BTreeMap<Core, CoreAccount>,
    /// Bytes on all cores together.
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub peak_at: Nanoseconds,
    /// The program that was dispatched last, if it hasn't ended. Dispatching it again changes nothing.
    last: Option<ProgramKey>,
}

impl L1Account {
    /// Puts a program where it was laid out.
    pub(super) fn dispatch(
        &mut self,
        program: ProgramKey,
        needs: &BTreeMap<Core, Vec<Region>>,
        at: Nanoseconds,
    ) {
        if self.last == Some(program) {
            return;
        }
        self.last = Some(program);
        for (core, regions) in needs {
            let account = self.cores.entry(*core).or_default();
            let needed = total_bytes(regions);
            self.live_bytes = self.live_bytes - account.live_bytes + needed;
            account.live_bytes = needed;
            account.peak_bytes = account.peak_bytes.max(needed);
            account.program = Some(program);
        }
        if self.live_bytes > self.peak_bytes {
            self.peak_bytes = self.live_bytes;
            self.peak_at = at;
        }
    }

    /// A program has a different layout: dispatching it changes something, even if it was dispatched last.
    pub(super) fn after_layout(&mut self) {
        self.last = None;
    }

    /// Removes the programs for which `ends` returns true.
    pub(super) fn end(&mut self, ends: impl Fn(ProgramKey) -> bool) {
        self.last = self.last.filter(|last| !ends(*last));
        for account in self.cores.values_mut() {
            if account.program.is_some_and(&ends) {
                account.program = None;
                self.live_bytes -= account.live_bytes;
                account.live_bytes = 0;
            }
        }
    }
}

/// What all programs were laid out to take, dispatched or not: on each core the union of their regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaidOut {
    /// The number of programs that take anything.
    pub programs: u64,
    /// Bytes on all cores together.
    pub bytes: u64,
    /// The part of `bytes` that circular buffers take.
    pub circular_buffer_bytes: u64,
}

impl LaidOut {
    pub(super) fn from_layouts<'a>(layouts: impl Iterator<Item = &'a Layout> + Clone) -> Self {
        let union = |kind| {
            let mut all: BTreeMap<Core, Vec<Region>> = BTreeMap::new();
            for (core, regions) in layouts.clone().flat_map(|layout| layout.by_core(kind)) {
                all.entry(core).or_default().extend(regions);
            }
            all.values_mut()
                .map(|regions| {
                    merge(regions);
                    total_bytes(regions)
                })
                .sum()
        };
        Self {
            programs: layouts
                .clone()
                .filter(|layout| !layout.by_core(None).is_empty())
                .count() as u64,
            bytes: union(None),
            circular_buffer_bytes: union(Some(RegionKind::CircularBuffers)),
        }
    }
}
