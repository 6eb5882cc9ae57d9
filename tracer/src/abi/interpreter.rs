//! A symbolic interpreter for one function: what it reads, writes, compares, calls and returns, in
//! terms of its arguments, on whichever path.
//!
//! Not an emulator: it follows every branch, keeps only what holds on all paths that meet, and
//! knows values only as "argument", "argument + constant", "what stands at such an address".
//! Everything else is `Unknown`. A called function is [followed](super::call) where it may be; any
//! other is taken to keep the stack slots whose address it wasn't given, and the registers that the
//! System V ABI says it keeps.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory};
use tracer_common::register;

use super::{
    image::{Function, Image},
    state::State,
    value::{Base, Place, Value},
};

/// Who is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A function, by its mangled name.
    Named(String),
    /// A virtual function: the object, and the offset of its slot in the object's vtable.
    Virtual {
        object: Value,
        slot: i64,
    },
    Unknown,
}

/// Something that a function does, at the instruction at `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub at: u64,
    pub what: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Memory outside the function's stack frame is read.
    Load(Place),
    /// Memory outside the function's stack frame is written. `to` is `None` where the address
    /// isn't known: then only `offset`, the instruction's own displacement, is.
    Store {
        to: Option<Base>,
        offset: i64,
        width: u8,
        value: Value,
    },
    /// Two values are compared (`cmp`, or `test` of a value against itself: against 0).
    Compare { left: Value, right: Value },
    /// A function is called; the arguments are the six integer registers.
    Call {
        callee: Callee,
        arguments: Box<[Value; 6]>,
    },
    /// The function returns. A tail call is a call and then a return of its result.
    Return(Value),
    /// A loop's second turn begins, and a register that held a pointer read from memory is so many
    /// bytes farther. Only of [`Analysis::first_turn`].
    Advance { pointer: Place, by: i64 },
}

/// What a function does, and what is known at each of its instructions.
pub struct Analysis {
    instructions: BTreeMap<u64, (Instruction, State)>,
    targets: BTreeSet<u64>,
    observations: Vec<Observation>,
}

impl Analysis {
    /// Interprets a function until nothing new is learnt.
    pub fn of(image: &Image<'_>, function: &Function<'_>) -> Self {
        Self::following(image, function, Ways::All)
    }

    /// Interprets each instruction of a function once, with what is known on the first way that leads
    /// to it: a loop's first turn. What holds there need not hold on each way, as what [`Self::of`]
    /// finds does; but a loop's first turn tells what it walks through, which all its turns together
    /// don't.
    pub fn first_turn(image: &Image<'_>, function: &Function<'_>) -> Self {
        Self::following(image, function, Ways::First)
    }

    fn following(image: &Image<'_>, function: &Function<'_>, ways: Ways) -> Self {
        let mut interpreter = Interpreter::new(image, function, Vec::new(), 0);
        let reached = interpreter.reach(State::entry(), ways);
        let mut analysis = Self {
            instructions: BTreeMap::new(),
            targets: BTreeSet::new(),
            observations: Vec::new(),
        };
        for (
            at,
            Visit {
                instruction,
                before,
                step,
            },
        ) in reached
        {
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
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// What is known before the instruction at an address.
    pub fn before(&self, address: u64) -> Option<&State> {
        self.instructions.get(&address).map(|(_, state)| state)
    }

    /// The reached instructions from an address on, in the order of the code.
    pub fn instructions_from(&self, address: u64) -> impl Iterator<Item = &Instruction> {
        self.instructions
            .range(address..)
            .map(|(_, (instruction, _))| instruction)
    }

    /// Whether some branch of the function leads to an address.
    pub fn is_branch_target(&self, address: u64) -> bool {
        self.targets.contains(&address)
    }
}

/// Which ways to an instruction count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ways {
    All,
    First,
}

/// An instruction that is reached, what is known before it, and what it then does.
struct Visit {
    instruction: Instruction,
    before: State,
    step: Step,
}

pub(super) struct Interpreter<'a> {
    pub image: &'a Image<'a>,
    pub function: &'a Function<'a>,
    pub info: InstructionInfoFactory,
    /// The functions that are followed on the way here; none in the function that is asked.
    pub callers: Vec<u64>,
    /// How many instructions may yet be interpreted for the call that is followed.
    pub budget: usize,
    /// Functions that take too many.
    pub given_up: HashSet<u64>,
}

/// What one instruction does.
pub(super) struct Step {
    pub after: State,
    /// Where execution may go on within the function.
    pub next: Vec<u64>,
    /// Those of `next` that are reached by a jump.
    pub jumps: Vec<u64>,
    pub actions: Vec<Action>,
    /// The state in which the function returns here, if it does.
    pub returned: Option<State>,
    /// A function is called here that isn't followed.
    pub opaque: bool,
}

/// What a followed function does.
pub(super) struct Explored {
    pub actions: Vec<Action>,
    /// What is known where it returns; `None` if it never does.
    pub returned: Option<State>,
    /// It calls functions that aren't followed.
    pub opaque: bool,
    /// All of its code was seen.
    pub complete: bool,
}

impl<'a> Interpreter<'a> {
    pub fn new(
        image: &'a Image<'a>,
        function: &'a Function<'a>,
        callers: Vec<u64>,
        budget: usize,
    ) -> Self {
        Self {
            image,
            function,
            info: InstructionInfoFactory::new(),
            callers,
            budget,
            given_up: HashSet::new(),
        }
    }

    /// Follows every branch, until nothing new is learnt if all ways count: the reached instructions by
    /// address, each as it was visited last, which is with what holds on all ways that count.
    fn reach(&mut self, entry: State, ways: Ways) -> BTreeMap<u64, Visit> {
        let mut reached = BTreeMap::<u64, Visit>::new();
        let mut work = vec![(self.function.address, entry)];
        while let Some((address, state)) = work.pop() {
            let before = match reached.get_mut(&address) {
                Some(visit) if ways == Ways::First => {
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

    /// Interprets the function as a followed one.
    pub fn explore(&mut self, entry: State) -> Explored {
        let reached = self.reach(entry, Ways::All);
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

    fn within(&self, address: u64) -> bool {
        address
            .checked_sub(self.function.address)
            .is_some_and(|at| at < self.function.code.len() as u64)
    }

    fn step(&mut self, instruction: &Instruction, before: &State) -> Step {
        let mut step = Step {
            after: before.clone(),
            next: Vec::new(),
            jumps: Vec::new(),
            actions: Vec::new(),
            returned: None,
            opaque: false,
        };
        if !self.callers.is_empty() {
            self.budget = self.budget.saturating_sub(1);
            if self.budget == 0 {
                return step;
            }
        }
        match instruction.flow_control() {
            FlowControl::Next => {
                self.compute(instruction, before, &mut step);
                step.next.push(instruction.next_ip());
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                self.call(instruction, before, &mut step);
            }
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.within(target) {
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

    /// The function returns in that state.
    pub fn returns(&self, state: State, step: &mut Step) {
        if self.callers.is_empty() {
            let result = state.get(register::RAX).clone();
            step.actions.push(Action::Return(result));
        }
        step.returned = Some(state);
    }
}
