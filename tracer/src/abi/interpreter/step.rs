//! The effect of one instruction.

use super::{
    observation::{Action, Callee},
    state::{ARGUMENTS, State},
};

/// The effect of one instruction.
pub(super) struct Step {
    /// The state behind the instruction.
    pub after: State,
    /// The addresses within the function at which execution may continue.
    pub next: Vec<u64>,
    /// The addresses in `next` that are reached by a jump.
    pub jumps: Vec<u64>,
    pub actions: Vec<Action>,
    /// The state in which the function returns here, if it does.
    pub returned: Option<State>,
    /// The instruction calls a function that isn't followed.
    pub opaque: bool,
}

impl Step {
    /// No effect so far: the state behind the instruction is the one before it.
    pub(super) fn new(before: &State) -> Self {
        Self {
            after: before.clone(),
            next: Vec::new(),
            jumps: Vec::new(),
            actions: Vec::new(),
            returned: None,
            opaque: false,
        }
    }

    /// Notes a call with the arguments that the registers hold before it.
    pub(super) fn note_call(&mut self, callee: &Callee, before: &State) {
        self.actions.push(Action::Call {
            callee: callee.clone(),
            arguments: Box::new(ARGUMENTS.map(|register| before.get(register).clone())),
        });
    }
}
