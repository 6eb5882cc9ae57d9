//! The state of the machine at one point of a function, as far as it is known.

use std::collections::BTreeMap;

use iced_x86::{Instruction, OpKind, Register};
use tracer_common::register;

use super::value::{Base, Place, RegisterNumber, Value};

/// The number of a general register, whatever part of it is named.
pub fn number(register: Register) -> Option<RegisterNumber> {
    let full = register.full_register();
    full.is_gpr64()
        .then(|| (full as u32) - (Register::RAX as u32))
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
pub const ARGUMENTS: [RegisterNumber; 6] = [
    register::RDI,
    register::RSI,
    register::RDX,
    register::RCX,
    register::R8,
    register::R9,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    registers: [Value; 16],
    /// By offset from the stack pointer at entry: width and value of what was stored there.
    stack: BTreeMap<i64, (u8, Value)>,
}

impl State {
    /// At a function's entry.
    pub fn entry() -> Self {
        let mut registers: [Value; 16] =
            std::array::from_fn(|n| Value::argument(n as RegisterNumber));
        registers[register::RSP as usize] = Value::symbolic(Base::Stack);
        Self {
            registers,
            stack: BTreeMap::new(),
        }
    }

    pub fn get(&self, register: RegisterNumber) -> &Value {
        &self.registers[register as usize]
    }

    pub fn set(&mut self, register: RegisterNumber, value: Value) {
        self.registers[register as usize] = value;
    }

    /// A register that holds `value`.
    pub fn register_with(&self, value: &Value) -> Option<RegisterNumber> {
        self.registers
            .iter()
            .position(|held| held == value)
            .map(|n| n as RegisterNumber)
    }

    /// A stack slot that holds `value`, told as an offset from what the stack pointer is here.
    pub fn slot_with(&self, value: &Value) -> Option<i64> {
        let Value::Symbolic {
            base: Base::Stack,
            offset: top,
        } = self.get(register::RSP)
        else {
            return None;
        };
        self.stack
            .iter()
            .find(|(at, (width, held))| **at >= *top && *width == 8 && held == value)
            .map(|(at, _)| at - top)
    }

    /// What is known when either of two paths may have led here; `None` if that is no less than
    /// what `self` knows.
    pub fn join(&self, other: &Self) -> Option<Self> {
        let registers = std::array::from_fn(|n| self.registers[n].join(&other.registers[n]));
        let stack = self
            .stack
            .iter()
            .filter(|(at, slot)| other.stack.get(at) == Some(slot))
            .map(|(at, slot)| (*at, slot.clone()))
            .collect();
        let joined = Self { registers, stack };
        (joined != *self).then_some(joined)
    }

    /// After a call: what the called function may have changed is unknown.
    pub fn called(&mut self, at: u64) {
        for (register, value) in CALLER_SAVED
            .iter()
            .map(|r| (*r, self.get(*r).clone()))
            .collect::<Vec<_>>()
        {
            // A local variable whose address was passed may have been written.
            if let Value::Symbolic {
                base: Base::Stack,
                offset,
            } = value
            {
                self.stack.remove(&offset);
            }
            self.set(register, Value::Unknown);
        }
        self.set(register::RAX, Value::symbolic(Base::Result(at)));
    }

    pub fn adjust_stack(&mut self, by: i64) {
        let top = self.get(register::RSP).plus(by);
        self.set(register::RSP, top);
    }

    /// The address that a memory operand names. `None` for what isn't base + constant.
    pub fn address(&self, instruction: &Instruction) -> Option<Value> {
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

    /// What a read of `width` bytes at `address` yields.
    pub fn load(&self, address: &Value, width: u8) -> Value {
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
            Place {
                base: base.clone(),
                offset: *offset,
                width,
            }
            .into(),
        ))
    }

    /// A write of `width` bytes to the stack at an offset from the stack pointer at entry.
    pub fn store_on_stack(&mut self, at: i64, width: u8, value: Value) {
        let overlapped: Vec<i64> = self
            .stack
            .range(at - 64..at + i64::from(width))
            .filter(|(slot, (stored, _))| **slot + i64::from(*stored) > at)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in overlapped {
            self.stack.remove(&slot);
        }
        // Kept even if unknown: an argument's slot that was written is no argument any more.
        self.stack.insert(at, (width, value));
    }

    /// The value of an operand that is read.
    pub fn operand(&self, instruction: &Instruction, operand: u32) -> Value {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                let high = matches!(
                    register,
                    Register::AH | Register::BH | Register::CH | Register::DH
                );
                number(register)
                    .filter(|_| !high)
                    .map_or(Value::Unknown, |n| self.get(n).clone())
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
