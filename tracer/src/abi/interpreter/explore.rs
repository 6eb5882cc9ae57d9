//! Follows a function's code along its branches, and into the calls that can be followed.

use std::collections::{BTreeMap, HashSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use tracer_common::register;

use super::{
    call::{callee, never_returns},
    instruction::Instructions,
    observation::{Action, Callee},
    state::State,
    step::Step,
    value::{Base, Value},
};
use crate::abi::image::{Function, Image};

/// The longest function that is followed, in bytes of code.
pub(crate) const MAX_FOLLOWED_LEN: usize = 512;

/// How many instructions are interpreted for one call, including all calls that it makes in turn.
const MAX_STEPS: usize = 2_000;

/// How deep calls are followed.
const MAX_DEPTH: usize = 10;

/// Which paths to an instruction count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    All,
    First,
}

/// An instruction that is reached, the state before it, and its effect.
pub(super) struct Visit {
    pub instruction: Instruction,
    pub before: State,
    pub step: Step,
}

/// The effect of a followed call.
struct Explored {
    actions: Vec<Action>,
    /// The state in which the function returns; `None` if it never does.
    returned: Option<State>,
    /// The function calls functions that aren't followed.
    opaque: bool,
    /// All of the function's code was seen.
    complete: bool,
}

/// Interprets one function.
pub(super) struct Interpreter<'a> {
    image: &'a Image<'a>,
    function: &'a Function<'a>,
    instructions: Instructions<'a>,
    /// The addresses of the functions through which this one is reached by followed calls; empty for
    /// the function that is analysed.
    callers: Vec<u64>,
    /// How many instructions may still be interpreted for the call that is followed.
    budget: usize,
    /// Functions that exceeded the budget.
    given_up: HashSet<u64>,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(image: &'a Image<'a>, function: &'a Function<'a>) -> Self {
        Self {
            image,
            function,
            instructions: Instructions::new(image),
            callers: Vec::new(),
            budget: 0,
            given_up: HashSet::new(),
        }
    }

    /// The instructions that are reached from the function's entry, by address.
    pub(super) fn visits(&mut self, paths: Paths) -> BTreeMap<u64, Visit> {
        self.reach(State::entry(), paths)
    }

    /// Follows every branch, to a fixed point if all paths count. Each instruction's last visit is
    /// returned: its state holds on all paths that count.
    fn reach(&mut self, entry: State, paths: Paths) -> BTreeMap<u64, Visit> {
        let mut reached = BTreeMap::<u64, Visit>::new();
        let mut work = vec![(self.function.address, entry)];
        while let Some((address, state)) = work.pop() {
            let before = match reached.get_mut(&address) {
                Some(visit) if paths == Paths::First => {
                    let advances = visit.before.advances(&state);
                    visit.step.actions.extend(advances);
                    continue;
                }
                Some(visit) => match visit.before.join(&state) {
                    Some(joined) => joined,
                    None => continue,
                },
                None => state,
            };
            let Some(instruction) = self.decode(address) else {
                continue;
            };
            let step = self.step(&instruction, &before);
            work.extend(step.next.iter().map(|next| (*next, step.after.clone())));
            let visit = Visit {
                instruction,
                before,
                step,
            };
            reached.insert(address, visit);
        }
        reached
    }

    /// Interprets the function as one whose call is followed.
    fn explore(&mut self, entry: State) -> Explored {
        let reached = self.reach(entry, Paths::All);
        let mut explored = Explored {
            actions: Vec::new(),
            returned: None,
            opaque: false,
            complete: self.budget > 0,
        };
        for Visit {
            instruction, step, ..
        } in reached.values()
        {
            explored.actions.extend_from_slice(&step.actions);
            explored.opaque |= step.opaque;
            explored.complete &= instruction.flow_control() != FlowControl::IndirectBranch
                && step.next.iter().all(|next| reached.contains_key(next));
            explored.returned = match (explored.returned, &step.returned) {
                (Some(one), Some(other)) => Some(one.join(other).unwrap_or(one)),
                (one, other) => one.or_else(|| other.clone()),
            };
        }
        explored
    }

    fn decode(&self, address: u64) -> Option<Instruction> {
        let code = self
            .function
            .code
            .get(usize::try_from(address.checked_sub(self.function.address)?).ok()?..)?;
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE)
            .iter()
            .next()?;
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn is_within(&self, address: u64) -> bool {
        address
            .checked_sub(self.function.address)
            .is_some_and(|at| at < self.function.code.len() as u64)
    }

    fn step(&mut self, instruction: &Instruction, before: &State) -> Step {
        let mut step = Step::new(before);
        if !self.callers.is_empty() {
            self.budget = self.budget.saturating_sub(1);
            if self.budget == 0 {
                return step;
            }
        }
        match instruction.flow_control() {
            FlowControl::Next => {
                self.instructions.compute(instruction, before, &mut step);
                step.next.push(instruction.next_ip());
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                self.call(instruction, before, &mut step);
            }
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.is_within(target) {
                    step.next.push(target);
                    step.jumps.push(target);
                } else {
                    self.tail_call(instruction, before, &mut step);
                }
                if instruction.flow_control() == FlowControl::ConditionalBranch {
                    step.next.push(instruction.next_ip());
                }
            }
            // A jump through a table, or a tail call through a pointer.
            FlowControl::IndirectBranch => self.tail_call(instruction, before, &mut step),
            FlowControl::Return => self.returns(before.clone(), &mut step),
            _ => {}
        }
        step
    }

    /// The function returns in `state`.
    fn returns(&self, state: State, step: &mut Step) {
        if self.callers.is_empty() {
            let result = state.get(register::RAX).clone();
            step.actions.push(Action::Return(result));
        }
        step.returned = Some(state);
    }

    fn call(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let callee = callee(self.image, instruction, before);
        step.note_call(&callee, before);
        if matches!(&callee, Callee::Named(name) if never_returns(name)) {
            return;
        }
        let followed = before
            .entering()
            .and_then(|inner| self.follow(instruction, inner));
        if let Some(explored) = followed {
            let Some(returned) = explored.returned else {
                step.actions.extend(explored.actions);
                return;
            };
            if let Some(mut after) = returned.leaving(before) {
                if explored.opaque {
                    step.opaque = true;
                    after.forget_passed(before);
                }
                step.actions.extend(explored.actions);
                step.after = after;
                step.next.push(instruction.next_ip());
                return;
            }
        }
        step.opaque = true;
        step.after.called();
        step.after.set(register::RAX, self.result_of(instruction));
        step.next.push(instruction.next_ip());
    }

    /// A jump out of the function: a call, and then a return of its result.
    fn tail_call(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let callee = callee(self.image, instruction, before);
        step.note_call(&callee, before);
        if matches!(&callee, Callee::Named(name) if never_returns(name)) {
            return;
        }
        let returned = match self.follow(instruction, before.clone()) {
            Some(explored) => {
                step.actions.extend(explored.actions);
                step.opaque |= explored.opaque;
                explored.returned
            }
            None => {
                step.opaque = true;
                let mut returned = before.clone();
                returned.called();
                returned.set(register::RAX, self.result_of(instruction));
                Some(returned)
            }
        };
        if let Some(returned) = returned {
            self.returns(returned, step);
        }
    }

    /// The result of a call that isn't followed. A call inside a followed function may be reached
    /// through several callers, so its result has no name.
    fn result_of(&self, instruction: &Instruction) -> Value {
        if self.callers.is_empty() {
            Value::symbolic(Base::Result(instruction.ip()))
        } else {
            Value::Unknown
        }
    }

    /// The effect of the called function, with `inner` as the state at its entry. `None` if the call
    /// isn't to be followed, or if not all of the function's code can be.
    fn follow(&mut self, instruction: &Instruction, inner: State) -> Option<Explored> {
        if instruction.op0_kind() != OpKind::NearBranch64 {
            return None;
        }
        let function: Function<'a> = self
            .image
            .inlinable(instruction.near_branch_target())
            .filter(|function| function.code.len() <= MAX_FOLLOWED_LEN)?;
        let is_outermost = self.callers.is_empty();
        if is_outermost {
            if self.given_up.contains(&function.address) {
                return None;
            }
            self.budget = MAX_STEPS;
        }
        let callers = [self.function.address]
            .into_iter()
            .chain(self.callers.iter().copied());
        if self.callers.len() >= MAX_DEPTH
            || callers.clone().any(|caller| caller == function.address)
        {
            return None;
        }
        let mut callee = Interpreter {
            callers: callers.collect(),
            budget: self.budget,
            ..Interpreter::new(self.image, &function)
        };
        let explored = callee.explore(inner);
        self.budget = callee.budget;
        if is_outermost && self.budget == 0 {
            self.given_up.insert(function.address);
        }
        explored.complete.then_some(explored)
    }
}
