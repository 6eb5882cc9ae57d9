//! The programs of one process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    event::{ProgramEffect, ProgramEvent, ProgramEventKind, ProgramKey},
    l1::{L1Account, LaidOut},
    layout::{Core, Layout, ProgramPointer, Region, total_bytes},
};
use crate::{
    frame::StackId,
    ledger::event::{Device, DeviceKind, Nanoseconds},
};

/// A program that hasn't ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub layout: Layout,
    /// The stack of the first layout, if it was captured.
    pub stack: Option<StackId>,
    /// The time of the first layout.
    pub first_laid_out_at: Nanoseconds,
    /// The time of the current layout.
    pub laid_out_at: Nanoseconds,
    pub dispatches: u64,
    /// The time of the last dispatch.
    pub dispatched_at: Option<Nanoseconds>,
    /// The regions that it needs on each core.
    needs: BTreeMap<Core, Vec<Region>>,
    key: ProgramKey,
}

impl Program {
    /// The bytes that the program needs, on all cores together.
    pub(crate) fn bytes(&self) -> u64 {
        self.needs
            .values()
            .map(|regions| total_bytes(regions))
            .sum()
    }

    /// The number of cores on which the program needs anything.
    pub(crate) fn cores(&self) -> u64 {
        self.needs.len() as u64
    }

    /// The key that identifies the program in a [`CoreAccount`](super::l1::CoreAccount).
    pub(crate) fn key(&self) -> ProgramKey {
        self.key
    }
}

/// How often each kind of thing happened to the programs of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramCounters {
    /// Events of every kind.
    pub received: u64,
    /// Programs that were laid out for the first time.
    pub laid_out: u64,
    pub dispatched: u64,
    pub ended: u64,
    /// Layouts that are incomplete because a part was lost.
    pub incomplete: u64,
    /// Dispatches of programs whose layout or device is unknown.
    pub unknown_dispatches: u64,
}

/// What the programs of a process take of L1.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessPrograms {
    programs: HashMap<ProgramPointer, Program>,
    accounts: BTreeMap<Device, L1Account>,
    counters: ProgramCounters,
}

impl ProcessPrograms {
    /// The programs that haven't ended, in the order of their first layouts.
    pub(crate) fn programs(&self) -> Vec<&Program> {
        let mut programs: Vec<&Program> = self.programs.values().collect();
        programs.sort_by_key(|program| (program.first_laid_out_at, program.layout.id));
        programs
    }

    /// What programs take on each device that they were dispatched to; on a mesh, on each member chip.
    pub(crate) fn accounts(&self) -> &BTreeMap<Device, L1Account> {
        &self.accounts
    }

    pub(crate) fn counters(&self) -> &ProgramCounters {
        &self.counters
    }

    /// What all programs of a device were laid out to take.
    pub(crate) fn laid_out(&self, device: Device) -> LaidOut {
        let layouts = self.programs.values().map(|program| &program.layout);
        LaidOut::from_layouts(layouts.filter(move |layout| layout.device == Some(device)))
    }

    /// Applies an event. `members` returns a mesh's member chips. `only_mesh` is the process's mesh if it has
    /// exactly one: a program whose device is unknown was dispatched to that mesh.
    pub(in crate::ledger) fn apply(
        &mut self,
        event: &ProgramEvent,
        members: &dyn Fn(Device) -> BTreeSet<u32>,
        only_mesh: Option<Device>,
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
                    program.layout.device = program.layout.device.or(only_mesh);
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

    /// A device closes: no program lies on it or on its members any more.
    pub(in crate::ledger) fn close_device(&mut self, device: Device, members: &BTreeSet<u32>) {
        for (on, account) in &mut self.accounts {
            let is_member = on.kind == DeviceKind::Chip && members.contains(&on.id);
            if *on == device || is_member {
                account.end(|_| true);
            }
        }
    }

    /// The process executes another program: all its programs are gone.
    pub(in crate::ledger) fn clear(&mut self) {
        self.programs.clear();
        self.end(&|_| true);
    }

    fn lay_out(&mut self, layout: &Layout, event: &ProgramEvent) -> ProgramEffect {
        self.counters.incomplete += u64::from(!layout.complete);
        if let Some(program) = self.programs.get_mut(&layout.program) {
            let key = program.key;
            if program.layout.id == layout.id {
                // Not every layout has the device.
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
                // The cores hold the earlier layout until the next dispatch.
                let accounts = self.accounts.values_mut();
                accounts.for_each(L1Account::after_layout);
                return ProgramEffect::LaidOut(key);
            }
            // Another program at the same address proves that the first one's end was lost.
            self.counters.ended += 1;
            self.end(&|other| other == key);
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

    /// The program with this key, if it hasn't ended.
    pub(crate) fn program(&self, key: ProgramKey) -> Option<&Program> {
        self.programs.values().find(|program| program.key == key)
    }

    fn end(&mut self, ends: &dyn Fn(ProgramKey) -> bool) {
        for account in self.accounts.values_mut() {
            account.end(ends);
        }
    }
}
