//! The programs of one process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::{Device, DeviceKind, Nanoseconds};
use super::{
    Core, L1Account, LaidOut, Layout, ProgramEffect, ProgramEvent, ProgramEventKind,
    ProgramPointer, Region,
};
use crate::stack::StackId;

/// A program of a process: how many were laid out before, and itself. Addresses are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramKey(pub u64);

/// A program that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub layout: Layout,
    /// Where the thread was that had it laid out first, if its stack was captured.
    pub stack: Option<StackId>,
    /// When it was laid out first, and last.
    pub first_laid_out_at: Nanoseconds,
    pub laid_out_at: Nanoseconds,
    pub dispatches: u64,
    pub dispatched_at: Option<Nanoseconds>,
    /// What it needs of each core.
    needs: BTreeMap<Core, Vec<Region>>,
    key: ProgramKey,
}

impl Program {
    /// What it needs on all cores.
    pub fn bytes(&self) -> u64 {
        self.needs
            .values()
            .map(|regions| super::layout::bytes(regions))
            .sum()
    }

    /// On how many cores it needs anything.
    pub fn cores(&self) -> u64 {
        self.needs.len() as u64
    }

    /// What names it in a [`CoreAccount`](super::CoreAccount).
    pub fn key(&self) -> ProgramKey {
        self.key
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCounters {
    /// Events that came.
    pub received: u64,
    /// Programs that were laid out first.
    pub laid_out: u64,
    pub dispatched: u64,
    pub ended: u64,
    /// Layouts of which not all came.
    pub incomplete: u64,
    /// Dispatches of programs of which nothing is known, or not on which device.
    pub unknown_dispatches: u64,
}

/// What the programs of a process take of L1.
#[derive(Clone, Debug, Default)]
pub struct ProcessPrograms {
    programs: HashMap<ProgramPointer, Program>,
    accounts: BTreeMap<Device, L1Account>,
    counters: ProgramCounters,
}

impl ProcessPrograms {
    /// The programs that have not ended, in the order in which they were laid out first.
    pub fn programs(&self) -> Vec<&Program> {
        let mut programs: Vec<&Program> = self.programs.values().collect();
        programs.sort_by_key(|program| (program.first_laid_out_at, program.layout.id));
        programs
    }

    /// What lies on each device that programs were dispatched to; of a mesh, on each member.
    pub fn accounts(&self) -> &BTreeMap<Device, L1Account> {
        &self.accounts
    }

    pub fn counters(&self) -> &ProgramCounters {
        &self.counters
    }

    /// What the programs of a device were laid out to take.
    pub fn laid_out(&self, device: Device) -> LaidOut {
        let layouts = self.programs.values().map(|program| &program.layout);
        LaidOut::of(layouts.filter(move |layout| layout.device == Some(device)))
    }

    /// Enters an event. `members`: the chips of a mesh. `only`: the device of a program that doesn't say
    /// which, if the process has but one.
    pub(in super::super) fn apply(
        &mut self,
        event: &ProgramEvent,
        members: &dyn Fn(Device) -> BTreeSet<u32>,
        only: Option<Device>,
    ) -> ProgramEffect {
        self.counters.received += 1;
        match &event.kind {
            ProgramEventKind::LaidOut(layout) => self.lay_out(layout, event),
            ProgramEventKind::Dispatched { program, layout } => {
                self.counters.dispatched += 1;
                if let Some(layout) = layout {
                    self.lay_out(layout, event);
                }
                if let Some(program) = self.programs.get_mut(program) {
                    program.layout.device = program.layout.device.or(only);
                }
                ProgramEffect::Dispatched(self.dispatch(*program, members, event.time))
            }
            ProgramEventKind::Ended(program) => {
                let ended = self.programs.remove(program).map(|program| program.key);
                if let Some(ended) = ended {
                    self.counters.ended += 1;
                    self.end(&|key| key == ended);
                }
                ProgramEffect::Ended(ended)
            }
        }
    }

    /// All devices' memory is free: of a device that closes, and its members.
    pub(in super::super) fn close(&mut self, device: Device, members: &BTreeSet<u32>) {
        for (of, account) in &mut self.accounts {
            let is_member = of.kind == DeviceKind::Chip && members.contains(&of.id);
            if *of == device || is_member {
                account.end(|_| true);
            }
        }
    }

    /// The process holds nothing any more.
    pub(in super::super) fn clear(&mut self) {
        self.programs.clear();
        self.end(&|_| true);
    }

    fn lay_out(&mut self, layout: &Layout, event: &ProgramEvent) -> ProgramEffect {
        self.counters.incomplete += u64::from(!layout.complete);
        if let Some(program) = self.programs.get_mut(&layout.program) {
            let key = program.key;
            if program.layout.id == layout.id {
                // Not each tells the device anew.
                let device = layout.device.or(program.layout.device);
                let layout = Layout {
                    device,
                    ..layout.clone()
                };
                if program.layout == layout {
                    return ProgramEffect::AsBefore(key);
                }
                program.needs = layout.by_core(None);
                program.layout = layout;
                program.laid_out_at = event.time;
                // What lies on the cores stays there until the next dispatch.
                let accounts = self.accounts.values_mut();
                accounts.for_each(L1Account::expect_change);
                return ProgramEffect::LaidOut(key);
            }
            // Another one at the same address proves that the end of the first was lost.
            self.counters.ended += 1;
            self.end(&|of| of == key);
        }
        self.counters.laid_out += 1;
        let key = ProgramKey(self.counters.laid_out);
        self.programs.insert(
            layout.program,
            Program {
                needs: layout.by_core(None),
                layout: layout.clone(),
                stack: event.stack,
                first_laid_out_at: event.time,
                laid_out_at: event.time,
                dispatches: 0,
                dispatched_at: None,
                key,
            },
        );
        ProgramEffect::LaidOut(key)
    }

    fn dispatch(
        &mut self,
        program: ProgramPointer,
        members: &dyn Fn(Device) -> BTreeSet<u32>,
        at: Nanoseconds,
    ) -> Option<ProgramKey> {
        let Some(program) = self.programs.get_mut(&program) else {
            self.counters.unknown_dispatches += 1;
            return None;
        };
        program.dispatches += 1;
        program.dispatched_at = Some(at);
        let Some(device) = program.layout.device else {
            self.counters.unknown_dispatches += 1;
            return None;
        };
        let chips = members(device).into_iter().map(|id| Device {
            kind: DeviceKind::Chip,
            id,
        });
        for device in chips.chain([device]) {
            let account = self.accounts.entry(device).or_default();
            account.dispatch(program.key, &program.needs, at);
        }
        Some(program.key)
    }

    /// The program that is known by a key, if it has not ended.
    pub fn program(&self, key: ProgramKey) -> Option<&Program> {
        self.programs.values().find(|program| program.key == key)
    }

    fn end(&mut self, ends: &dyn Fn(ProgramKey) -> bool) {
        for account in self.accounts.values_mut() {
            account.end(ends);
        }
    }
}
