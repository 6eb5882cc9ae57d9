//! Calls: who is called, and what a called function does where that can be told.
//!
//! A library that wasn't optimised calls a function for each `->` of a smart pointer. Such a call is
//! followed: the called code is interpreted as if it stood in its caller's place, with the caller's
//! values. Only functions are followed that the optimiser could have put there, too: small ones that
//! are inline (weak symbols) or of the same source file (local symbols). All others may be bound to
//! another library's, and what they do is known by their names or not at all.

use iced_x86::{Instruction, OpKind};
use tracer_common::register;

use super::{
    image::{Function, Pointee},
    interpreter::{Action, Callee, Explored, Interpreter, Step},
    state::{ARGUMENTS, State},
    value::{Base, Value},
};

/// The longest function that is followed, in bytes of code.
pub const MOST_FOLLOWED: usize = 512;

/// How many instructions are interpreted for one call, with all that it calls in turn.
const MOST_STEPS: usize = 2_000;

/// How many calls deep calls are followed.
const MOST_DEEP: usize = 10;

/// Functions that don't come back, told by their names.
pub fn never_returns(name: &str) -> bool {
    const MARKS: [&str; 9] = [
        "8tt_throw",
        "_Unwind_Resume",
        "__cxa_throw",
        "__cxa_rethrow",
        "9terminatev",
        "__throw_",
        "__clang_call_terminate",
        "__stack_chk_fail",
        "abort",
    ];
    MARKS.iter().any(|mark| name.contains(mark))
}

impl<'a> Interpreter<'a> {
    /// `call`.
    pub(super) fn call(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let callee = self.callee(instruction, before);
        note(&callee, before, step);
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
    pub(super) fn tail_call(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let callee = self.callee(instruction, before);
        note(&callee, before, step);
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

    /// The result of a call that isn't followed. Such a call within a followed one may stand for
    /// several, so its result has no name.
    fn result_of(&self, instruction: &Instruction) -> Value {
        if self.callers.is_empty() {
            Value::symbolic(Base::Result(instruction.ip()))
        } else {
            Value::Unknown
        }
    }

    /// What a function does that is called with `inner` as the state at its entry; `None` if it
    /// isn't to be looked into, or not all of it can be.
    fn follow(&mut self, instruction: &Instruction, inner: State) -> Option<Explored> {
        if instruction.op0_kind() != OpKind::NearBranch64 {
            return None;
        }
        let function: Function<'a> = self
            .image
            .inlinable(instruction.near_branch_target())
            .filter(|function| function.code.len() <= MOST_FOLLOWED)?;
        let asked = self.callers.is_empty();
        if asked {
            if self.given_up.contains(&function.address) {
                return None;
            }
            self.budget = MOST_STEPS;
        }
        let known = [self.function.address]
            .into_iter()
            .chain(self.callers.iter().copied());
        if self.callers.len() >= MOST_DEEP || known.clone().any(|caller| caller == function.address)
        {
            return None;
        }
        let mut callee = Interpreter::new(self.image, &function, known.collect(), self.budget);
        let explored = callee.explore(inner);
        self.budget = callee.budget;
        if asked && self.budget == 0 {
            self.given_up.insert(function.address);
        }
        explored.complete.then_some(explored)
    }

    fn callee(&self, instruction: &Instruction, before: &State) -> Callee {
        let named = match instruction.op0_kind() {
            OpKind::NearBranch64 => self
                .image
                .callee(instruction.near_branch_target())
                .map(str::to_owned),
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
                self.pointee_name(instruction.ip_rel_memory_address())
            }
            _ => None,
        };
        match named {
            Some(name) => Callee::Named(name),
            None => virtual_callee(instruction, before).unwrap_or(Callee::Unknown),
        }
    }

    fn pointee_name(&self, address: u64) -> Option<String> {
        match self.image.pointee(address)? {
            Pointee::Symbol(name) => Some(name.to_owned()),
            Pointee::Address(address) => self.image.callee(address).map(str::to_owned),
        }
    }
}

fn note(callee: &Callee, before: &State, step: &mut Step) {
    step.actions.push(Action::Call {
        callee: callee.clone(),
        arguments: Box::new(ARGUMENTS.map(|register| before.get(register).clone())),
    });
}

/// `call [vtable + slot]`, where the vtable was read from the start of an object; or the same by way
/// of a register.
fn virtual_callee(instruction: &Instruction, before: &State) -> Option<Callee> {
    let slot = match instruction.op0_kind() {
        OpKind::Memory => {
            let address = before.address(instruction)?;
            before.load(&address, 8)
        }
        OpKind::Register => before.operand(instruction, 0),
        _ => return None,
    };
    let slot = slot.place()?.clone();
    let Base::Loaded(vtable) = slot.base else {
        return None;
    };
    if vtable.offset != 0 && !matches!(vtable.base, Base::Argument(_)) {
        return None;
    }
    let object = Value::Symbolic {
        base: vtable.base.clone(),
        offset: vtable.offset,
    };
    Some(Callee::Virtual {
        object,
        slot: slot.offset,
    })
}
