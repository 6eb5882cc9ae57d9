//! What lies in the L1 of a device's cores for programs.

use std::collections::BTreeMap;

use super::super::Nanoseconds;
use super::{
    Core, Layout, ProgramKey, Region, RegionKind,
    layout::{bytes, merge},
};

/// One core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreAccount {
    /// The program that was dispatched there last, if it is there still.
    pub program: Option<ProgramKey>,
    /// What it takes of the core's L1.
    pub live_bytes: u64,
    /// The most that a program took there.
    pub peak_bytes: u64,
}

/// The cores of a device that programs have been on. What lies on a core is what the program needs there
/// that was dispatched last of those that need anything there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L1Account {
    pub cores: BTreeMap<Core, CoreAccount>,
    /// On all cores.
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub peak_at: Nanoseconds,
    /// The one that was dispatched last, and has not ended: once more, it changes nothing.
    last: Option<ProgramKey>,
}

impl L1Account {
    /// A program goes where it was laid out to.
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
            let needed = bytes(regions);
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

    /// A program was laid out anew: should it be the last one, dispatching it changes something.
    pub(super) fn expect_change(&mut self) {
        self.last = None;
    }

    /// What a program left behind is nothing any more.
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

/// What programs were laid out to take, dispatched or not: on each core the union of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaidOut {
    /// Programs that take anything.
    pub programs: u64,
    /// On all cores.
    pub bytes: u64,
    /// Of these, what circular buffers alone take.
    pub circular_buffer_bytes: u64,
}

impl LaidOut {
    pub(super) fn of<'a>(layouts: impl Iterator<Item = &'a Layout> + Clone) -> Self {
        let union = |kind| {
            let mut all: BTreeMap<Core, Vec<Region>> = BTreeMap::new();
            for (core, regions) in layouts.clone().flat_map(|layout| layout.by_core(kind)) {
                all.entry(core).or_default().extend(regions);
            }
            all.values_mut()
                .map(|regions| {
                    merge(regions);
                    bytes(regions)
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
