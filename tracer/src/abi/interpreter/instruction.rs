//! Instructions that only compute: how each changes the [`State`], and which of its actions are noted.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use tracer_common::register;

use super::{
    observation::Action,
    state::{State, is_high_byte, number},
    step::Step,
    value::{Base, MemoryLocation, Value},
};
use crate::abi::image::{Image, Pointee};

/// Computes the effects of a library's instructions.
pub(super) struct Instructions<'a> {
    image: &'a Image<'a>,
    info: InstructionInfoFactory,
}

impl<'a> Instructions<'a> {
    pub(super) fn new(image: &'a Image<'a>) -> Self {
        Self {
            image,
            info: InstructionInfoFactory::new(),
        }
    }

    /// Adds to `step` the effect of an instruction that doesn't branch.
    pub(super) fn compute(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let address = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::Memory)
            .then(|| before.address(instruction))
            .flatten();
        let width = instruction.memory_size().size() as u8;
        let is_memory = instruction.op0_kind() == OpKind::Memory;

        if let Some(Value::Symbolic { base, offset }) = &address
            && *base != Base::Stack
            && instruction.mnemonic() != Mnemonic::Lea
            && (!is_memory || self.reads_memory(instruction))
        {
            step.actions.push(Action::Load(MemoryLocation {
                base: base.clone(),
                offset: *offset,
                width,
            }));
        }
        match instruction.mnemonic() {
            Mnemonic::Cmp => {
                let (left, right) = (
                    before.operand(instruction, 0),
                    before.operand(instruction, 1),
                );
                step.actions.push(Action::Compare { left, right });
                return;
            }
            Mnemonic::Test => {
                let (left, right) = (
                    before.operand(instruction, 0),
                    before.operand(instruction, 1),
                );
                let same = instruction.op1_kind() == OpKind::Register && left == right;
                let right = if same || is_lowest_bit(instruction, &right) {
                    Value::Constant(0)
                } else {
                    Value::Unknown
                };
                step.actions.push(Action::Compare { left, right });
                return;
            }
            Mnemonic::Push => {
                step.after.adjust_stack(-8);
                if let Value::Symbolic {
                    base: Base::Stack,
                    offset,
                } = step.after.get(register::RSP).clone()
                {
                    step.after
                        .store_on_stack(offset, 8, before.operand(instruction, 0));
                }
                return;
            }
            Mnemonic::Pop => {
                let value = before.load(before.get(register::RSP), 8);
                step.after.adjust_stack(8);
                if let Some(to) = number(instruction.op0_register()) {
                    step.after.set(to, value);
                }
                return;
            }
            Mnemonic::Leave => {
                let frame = before.get(register::RBP).clone();
                step.after.set(register::RBP, before.load(&frame, 8));
                step.after.set(register::RSP, frame.plus(8));
                return;
            }
            _ => {}
        }
        let result = self.result(instruction, before, address.as_ref());
        if is_memory && self.writes_memory(instruction) {
            self.store(instruction, address, width, result, step);
        }
        self.write_registers(instruction, before, step);
    }

    /// The new value of the first operand.
    fn result(&self, instruction: &Instruction, before: &State, address: Option<&Value>) -> Value {
        let first = || before.operand(instruction, 0);
        let second = || before.operand(instruction, 1);
        match instruction.mnemonic() {
            // The address of a variable, from the global offset table.
            Mnemonic::Mov
                if instruction.op1_kind() == OpKind::Memory
                    && instruction.is_ip_rel_memory_operand() =>
            {
                match self.image.pointee(instruction.ip_rel_memory_address()) {
                    Some(Pointee::Symbol(name)) => Value::symbolic(Base::Symbol(name.to_owned())),
                    Some(Pointee::Address(address)) => Value::Constant(address as i64),
                    None => Value::Unknown,
                }
            }
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => second(),
            Mnemonic::Lea => address.cloned().unwrap_or(Value::Unknown),
            Mnemonic::Add if instruction.op_count() == 2 => match (first(), second()) {
                (value, Value::Constant(addend)) | (Value::Constant(addend), value) => {
                    value.plus(addend)
                }
                _ => Value::Unknown,
            },
            Mnemonic::Sub if instruction.op_count() == 2 => match second() {
                Value::Constant(subtrahend) => first().plus(subtrahend.wrapping_neg()),
                _ => Value::Unknown,
            },
            Mnemonic::And if is_lowest_bit(instruction, &second()) => first(),
            Mnemonic::Xor
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register() =>
            {
                Value::Constant(0)
            }
            _ => Value::Unknown,
        }
    }

    fn store(
        &self,
        instruction: &Instruction,
        address: Option<Value>,
        width: u8,
        value: Value,
        step: &mut Step,
    ) {
        match address {
            Some(Value::Symbolic {
                base: Base::Stack,
                offset,
            }) => step.after.store_on_stack(offset, width, value),
            Some(Value::Symbolic { base, offset }) => {
                step.actions.push(Action::Store {
                    to: Some(base),
                    offset,
                    width,
                    value,
                });
            }
            // A variable of the library.
            Some(Value::Constant(_)) => {}
            _ => step.actions.push(Action::Store {
                to: None,
                offset: instruction.memory_displacement64() as i64,
                width,
                value,
            }),
        }
    }

    fn write_registers(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
        let exchanged = self.exchanged(instruction, before);
        let result = (instruction.op0_kind() == OpKind::Register).then(|| {
            (
                instruction.op0_register(),
                self.result(instruction, before, before.address(instruction).as_ref()),
            )
        });
        let written: Vec<Register> = self
            .info
            .info(instruction)
            .used_registers()
            .iter()
            .filter(|used| writes(used.access()))
            .map(|used| used.register())
            .collect();
        for register in written {
            let Some(register) = number(register) else {
                continue;
            };
            match &result {
                Some((to, value)) if number(*to) == Some(register) && !is_high_byte(*to) => {
                    step.after.set_low(register, value.clone(), to.size());
                }
                _ => step.after.set(register, Value::Unknown),
            }
        }
        if let Some((register, value)) = exchanged {
            step.after.set(register, value);
        }
    }

    /// `xadd [counter], register`: the register gets the value that the library's variable had.
    fn exchanged(&self, instruction: &Instruction, before: &State) -> Option<(u32, Value)> {
        if instruction.mnemonic() != Mnemonic::Xadd || instruction.op0_kind() != OpKind::Memory {
            return None;
        }
        let name = if instruction.is_ip_rel_memory_operand() {
            self.image
                .symbol_at(instruction.ip_rel_memory_address())?
                .to_owned()
        } else {
            match before.address(instruction)? {
                Value::Symbolic {
                    base: Base::Symbol(name),
                    offset: 0,
                } => name,
                Value::Constant(address) => self.image.symbol_at(address as u64)?.to_owned(),
                _ => return None,
            }
        };
        Some((
            number(instruction.op1_register())?,
            Value::symbolic(Base::Counter(name)),
        ))
    }

    fn writes_memory(&mut self, instruction: &Instruction) -> bool {
        self.info
            .info(instruction)
            .used_memory()
            .iter()
            .any(|memory| writes(memory.access()))
    }

    fn reads_memory(&mut self, instruction: &Instruction) -> bool {
        self.info
            .info(instruction)
            .used_memory()
            .iter()
            .any(|memory| {
                matches!(
                    memory.access(),
                    OpAccess::Read
                        | OpAccess::ReadWrite
                        | OpAccess::CondRead
                        | OpAccess::ReadCondWrite
                )
            })
    }
}

/// Whether the instruction looks at the lowest bit of a byte only, as clang without optimisation
/// reads a `bool`.
fn is_lowest_bit(instruction: &Instruction, mask: &Value) -> bool {
    let width = match instruction.op0_kind() {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op0_register().size(),
    };
    width == 1 && instruction.op1_kind() == OpKind::Immediate8 && *mask == Value::Constant(1)
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
    )
}
