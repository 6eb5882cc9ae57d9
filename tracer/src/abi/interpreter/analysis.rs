//! The result of interpreting one function.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::Instruction;

use super::{
    explore::{Interpreter, Paths, Visit},
    observation::Observation,
    state::State,
};
use crate::abi::image::{Function, Image};

/// What a function does, and what is known at each of its instructions.
pub(crate) struct Analysis {
    instructions: BTreeMap<u64, (Instruction, State)>,
    targets: BTreeSet<u64>,
    observations: Vec<Observation>,
}

impl Analysis {
    /// Interprets a function to a fixed point: what it finds holds on every path.
    pub(crate) fn all_paths(image: &Image<'_>, function: &Function<'_>) -> Self {
        Self::new(image, function, Paths::All)
    }

    /// Interprets each instruction of a function once, with what is known on the first path that
    /// leads to it. Of a loop that is the first iteration. What this finds need not hold on every
    /// path, unlike what [`Self::all_paths`] finds. But the first iteration shows which vector a loop
    /// walks through; the fixed point of all iterations doesn't.
    pub(crate) fn first_iteration(image: &Image<'_>, function: &Function<'_>) -> Self {
        Self::new(image, function, Paths::First)
    }

    fn new(image: &Image<'_>, function: &Function<'_>, paths: Paths) -> Self {
        let mut analysis = Self {
            instructions: BTreeMap::new(),
            targets: BTreeSet::new(),
            observations: Vec::new(),
        };
        for (at, visit) in Interpreter::new(image, function).visits(paths) {
            let Visit {
                instruction,
                before,
                step,
            } = visit;
            let actions = step.actions.into_iter();
            analysis
                .observations
                .extend(actions.map(|what| Observation { at, what }));
            analysis.targets.extend(step.jumps);
            analysis.instructions.insert(at, (instruction, before));
        }
        analysis
    }

    /// What the function does, in the order of its code.
    pub(crate) fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// What is known before the instruction at an address.
    pub(crate) fn before(&self, address: u64) -> Option<&State> {
        self.instructions.get(&address).map(|(_, state)| state)
    }

    /// The reached instructions from an address on, in the order of the code.
    pub(crate) fn instructions_from(&self, address: u64) -> impl Iterator<Item = &Instruction> {
        self.instructions
            .range(address..)
            .map(|(_, (instruction, _))| instruction)
    }

    /// Whether a branch of the function leads to an address.
    pub(crate) fn is_branch_target(&self, address: u64) -> bool {
        self.targets.contains(&address)
    }
}
