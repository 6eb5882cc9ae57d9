//! The registers and the stack at one point of a function, as far as they are known.

use std::collections::BTreeMap;

use iced_x86::{Instruction, OpKind, Register};
use tracer_common::register;

use super::{
    observation::Action,
    value::{Base, MemoryLocation, RegisterNumber, Value},
};

/// The number of a general register. `register` may be a part of it.
pub(crate) fn number(register: Register) -> Option<RegisterNumber> {
    let full = register.full_register();
    full.is_gpr64()
        .then(|| (full as u32) - (Register::RAX as u32))
}

/// Whether `register` is the second byte of a general register.
pub(super) fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

/// Registers that a called function may change (System V ABI).
const CALLER_SAVED: [RegisterNumber; 9] = [
    register::RAX,
    register::RCX,
    register::RDX,
    register::RSI,
    register::RDI,
    register::R8,
    register::R9,
    register::R10,
    register::R11,
];

/// Registers that carry the first six integer arguments, in order (System V ABI).
pub(crate) const ARGUMENTS: [RegisterNumber; 6] = [
    register::RDI,
    register::RSI,
    register::RDX,
    register::RCX,
    register::R8,
    register::R9,
];

/// The registers and the stack, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    registers: [Value; 16],
    /// How many low bytes of each register its value covers: 8, or fewer where a part was written.
    known: [u8; 16],
    /// Width and value of each slot that was written, by its offset from the stack pointer at entry.
    stack: BTreeMap<i64, (u8, Value)>,
}

impl State {
    /// The state at a function's entry.
    pub(crate) fn entry() -> Self {
        let mut registers: [Value; 16] =
            std::array::from_fn(|n| Value::argument(n as RegisterNumber));
        registers[register::RSP as usize] = Value::symbolic(Base::Stack);
        Self {
            registers,
            known: [8; 16],
            stack: BTreeMap::new(),
        }
    }

    /// The value of a whole register.
    pub(crate) fn get(&self, register: RegisterNumber) -> &Value {
        self.low(register, 8)
    }

    /// The value of the `width` low bytes of a register.
    fn low(&self, register: RegisterNumber, width: u8) -> &Value {
        if self.known[register as usize] < width {
            return &Value::Unknown;
        }
        &self.registers[register as usize]
    }

    pub(crate) fn set(&mut self, register: RegisterNumber, value: Value) {
        self.set_low(register, value, 8);
    }

    /// Writes the `width` low bytes of a register. Writing four clears the rest, so four count as all.
    pub(crate) fn set_low(&mut self, register: RegisterNumber, value: Value, width: usize) {
        let whole = value == Value::Unknown || width >= 4;
        self.known[register as usize] = if whole { 8 } else { width as u8 };
        self.registers[register as usize] = value;
    }

    /// A register that holds `value`.
    pub(crate) fn register_with(&self, value: &Value) -> Option<RegisterNumber> {
        (0..self.registers.len() as RegisterNumber).find(|register| self.get(*register) == value)
    }

    /// A stack slot that holds `value`, as an offset from the current stack pointer.
    pub(crate) fn slot_with(&self, value: &Value) -> Option<i64> {
        let top = self.top()?;
        self.stack
            .iter()
            .find(|(at, (width, held))| **at >= top && *width == 8 && held == value)
            .map(|(at, _)| at - top)
    }

    /// What is known if either of two paths may have led here; `None` if that is no less than what
    /// `self` knows.
    pub(crate) fn join(&self, other: &Self) -> Option<Self> {
        let registers: [Value; 16] =
            std::array::from_fn(|n| self.registers[n].join(&other.registers[n]));
        let known: [u8; 16] = std::array::from_fn(|n| self.known[n].min(other.known[n]));
        // An unknown register has only one form, so that a fixed point is reached.
        let known = std::array::from_fn(|n| {
            if registers[n] == Value::Unknown {
                8
            } else {
                known[n]
            }
        });
        let stack = self
            .stack
            .iter()
            .filter(|(at, slot)| other.stack.get(at) == Some(slot))
            .map(|(at, slot)| (*at, slot.clone()))
            .collect();
        let joined = Self {
            registers,
            known,
            stack,
        };
        (joined != *self).then_some(joined)
    }

    /// An [`Action::Advance`] for each register that holds a pointer read from memory, and in `later`
    /// the same pointer plus a positive constant.
    pub(crate) fn advances(&self, later: &Self) -> Vec<Action> {
        let pairs = self.registers.iter().zip(&later.registers);
        pairs
            .filter_map(|(first, second)| match (first, second) {
                (
                    Value::Symbolic {
                        base: Base::Loaded(pointer),
                        offset: from,
                    },
                    Value::Symbolic {
                        base: Base::Loaded(same),
                        offset: to,
                    },
                ) if pointer == same && to > from => Some(Action::Advance {
                    pointer: MemoryLocation::clone(pointer),
                    by: to - from,
                }),
                _ => None,
            })
            .collect()
    }

    /// Makes unknown what a called function may have changed.
    pub(crate) fn called(&mut self) {
        let before = self.clone();
        self.forget_passed(&before);
        for register in CALLER_SAVED {
            self.set(register, Value::Unknown);
        }
    }

    /// Forgets the local variables whose addresses were in registers at a call: the called function
    /// may have written them.
    pub(crate) fn forget_passed(&mut self, at_call: &Self) {
        for register in CALLER_SAVED {
            if let Value::Symbolic {
                base: Base::Stack,
                offset,
            } = at_call.get(register)
            {
                self.stack.remove(offset);
            }
        }
    }

    /// The state at the entry of a function that is called from here and followed: it has the same
    /// arguments and the same stack. `None` where the stack pointer isn't known.
    pub(crate) fn entering(&self) -> Option<Self> {
        let mut inner = self.clone();
        inner.adjust_stack(-8);
        let top = inner.top()?;
        inner.store_on_stack(top, 8, Value::Unknown);
        Some(inner)
    }

    /// The state after a followed function has returned to its `caller`, without the function's stack
    /// frame. `None` if the function didn't restore the stack pointer.
    pub(crate) fn leaving(mut self, caller: &Self) -> Option<Self> {
        self.adjust_stack(8);
        let top = self.top()?;
        self.stack.retain(|at, _| *at >= top);
        (self.top() == caller.top()).then_some(self)
    }

    /// The stack pointer, as an offset from its value at entry.
    fn top(&self) -> Option<i64> {
        match self.get(register::RSP) {
            Value::Symbolic {
                base: Base::Stack,
                offset,
            } => Some(*offset),
            _ => None,
        }
    }

    pub(crate) fn adjust_stack(&mut self, by: i64) {
        let top = self.get(register::RSP).plus(by);
        self.set(register::RSP, top);
    }

    /// The address of a memory operand. `None` if it isn't a base plus a constant.
    pub(crate) fn address(&self, instruction: &Instruction) -> Option<Value> {
        if instruction.is_ip_rel_memory_operand() {
            return Some(Value::Constant(instruction.ip_rel_memory_address() as i64));
        }
        if instruction.segment_prefix() != Register::None {
            return None;
        }
        let displacement = instruction.memory_displacement64() as i64;
        let base = match instruction.memory_base() {
            Register::None => Value::Constant(0),
            base => self.get(number(base)?).clone(),
        };
        let index = match instruction.memory_index() {
            Register::None => Value::Constant(0),
            index => self.get(number(index)?).clone(),
        };
        match (base, index) {
            (value, Value::Constant(i)) => Some(
                value
                    .plus(i.wrapping_mul(i64::from(instruction.memory_index_scale())))
                    .plus(displacement),
            ),
            (Value::Constant(c), value) if instruction.memory_index_scale() == 1 => {
                Some(value.plus(c).plus(displacement))
            }
            _ => None,
        }
        .filter(|value| *value != Value::Unknown)
    }

    /// The value that a read of `width` bytes at `address` returns.
    pub(crate) fn load(&self, address: &Value, width: u8) -> Value {
        let Value::Symbolic { base, offset } = address else {
            return Value::Unknown;
        };
        if *base == Base::Stack {
            return match self.stack.get(offset) {
                Some((stored, value)) if *stored >= width => value.clone(),
                Some(_) => Value::Unknown,
                None if *offset >= 8 => Value::symbolic(Base::StackArgument(*offset)),
                None => Value::Unknown,
            };
        }
        Value::symbolic(Base::Loaded(
            MemoryLocation {
                base: base.clone(),
                offset: *offset,
                width,
            }
            .into(),
        ))
    }

    /// Writes `width` bytes to the stack at an offset from the stack pointer at entry.
    pub(crate) fn store_on_stack(&mut self, at: i64, width: u8, value: Value) {
        let overlapped: Vec<i64> = self
            .stack
            .range(at - 64..at + i64::from(width))
            .filter(|(slot, (stored, _))| **slot + i64::from(*stored) > at)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in overlapped {
            self.stack.remove(&slot);
        }
        // Kept even if unknown: a slot that was written no longer holds a stack argument.
        self.stack.insert(at, (width, value));
    }

    /// The value of an operand that is read.
    pub(crate) fn operand(&self, instruction: &Instruction, operand: u32) -> Value {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                number(register)
                    .filter(|_| !is_high_byte(register))
                    .map_or(Value::Unknown, |n| {
                        self.low(n, register.size().min(8) as u8).clone()
                    })
            }
            OpKind::Memory => self.address(instruction).map_or(Value::Unknown, |address| {
                self.load(&address, instruction.memory_size().size() as u8)
            }),
            kind if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&kind) => {
                // Sign-extended to the operation's width, so that `add ecx, 0xfffffffe` subtracts 2.
                let immediate = instruction.immediate(operand) as i64;
                Value::Constant(
                    if instruction.op0_kind() == OpKind::Register
                        && instruction.op0_register().is_gpr32()
                    {
                        i64::from(immediate as i32)
                    } else {
                        immediate
                    },
                )
            }
            _ => Value::Unknown,
        }
    }
}
