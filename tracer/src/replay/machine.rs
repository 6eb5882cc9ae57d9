//! The state of the processor: registers, flags and memory, and the operands of instructions.

use iced_x86::{Instruction, OpKind, Register};
use tracer_common::register;

use super::{
    Overlay, ReplayError,
    flags::{Flags, mask},
};
use crate::abi::{instruction_text, register_number};

/// The state of a processor that executes a library's code on an overlay of the target's memory.
pub(super) struct Machine<'a> {
    /// What the dynamic linker added to the library's virtual addresses.
    pub bias: u64,
    pub overlay: Overlay<'a>,
    /// The general registers, by their numbers in machine code.
    pub registers: [u64; 16],
    /// The registers `ymm0` to `ymm15`.
    pub vectors: [[u8; 32]; 16],
    pub flags: Flags,
}

impl<'a> Machine<'a> {
    /// All registers are zero at first.
    pub(super) fn new(bias: u64, overlay: Overlay<'a>) -> Self {
        Self {
            bias,
            overlay,
            registers: [0; 16],
            vectors: [[0; 32]; 16],
            flags: Flags::default(),
        }
    }

    /// The error for an instruction that isn't supported.
    pub(super) fn unknown(&self, instruction: &Instruction) -> ReplayError {
        ReplayError::Unknown {
            instruction: instruction_text(instruction),
            at: instruction.ip().wrapping_sub(self.bias),
        }
    }

    /// Pushes a value on the stack.
    ///
    /// # Errors
    /// When the stack's memory can't be read.
    pub(super) fn push(&mut self, value: u64) -> Result<(), ReplayError> {
        let top = self.registers[register::RSP as usize].wrapping_sub(8);
        self.registers[register::RSP as usize] = top;
        Ok(self.overlay.write(top, &value.to_le_bytes())?)
    }

    /// Pops a value from the stack.
    ///
    /// # Errors
    /// When the stack's memory can't be read.
    pub(super) fn pop(&mut self) -> Result<u64, ReplayError> {
        let top = self.registers[register::RSP as usize];
        self.registers[register::RSP as usize] = top.wrapping_add(8);
        Ok(self.overlay.number(top, 8)?)
    }

    /// The address of a memory operand.
    ///
    /// # Errors
    /// When its form isn't supported.
    pub(super) fn address(&self, instruction: &Instruction) -> Result<u64, ReplayError> {
        if instruction.is_ip_rel_memory_operand() {
            return Ok(instruction.ip_rel_memory_address());
        }
        let part = |register: Register| match register {
            Register::None => Ok(0),
            _ if register.size() == 8 => register_number(register)
                .map(|number| self.registers[number as usize])
                .ok_or_else(|| self.unknown(instruction)),
            _ => Err(self.unknown(instruction)),
        };
        if instruction.segment_prefix() != Register::None {
            return Err(self.unknown(instruction));
        }
        let index = part(instruction.memory_index())?
            .wrapping_mul(u64::from(instruction.memory_index_scale()));
        Ok(part(instruction.memory_base())?
            .wrapping_add(index)
            .wrapping_add(instruction.memory_displacement64()))
    }

    /// The width of an operand in bytes.
    pub(super) fn width(&self, instruction: &Instruction, operand: u32) -> usize {
        match instruction.op_kind(operand) {
            OpKind::Register => instruction.op_register(operand).size(),
            OpKind::Memory => instruction.memory_size().size(),
            _ => 8,
        }
    }

    /// The value of a general register or of a part of one.
    fn register(&self, register: Register) -> Option<u64> {
        let value = self.registers[register_number(register)? as usize];
        Some(match register {
            Register::AH | Register::BH | Register::CH | Register::DH => value >> 8 & 0xff,
            _ => value & mask(register.size()),
        })
    }

    /// The value of an operand, zero-extended.
    ///
    /// # Errors
    /// When its form isn't supported, or when memory can't be read.
    pub(super) fn operand(
        &mut self,
        instruction: &Instruction,
        operand: u32,
    ) -> Result<u64, ReplayError> {
        match instruction.op_kind(operand) {
            OpKind::Register => self
                .register(instruction.op_register(operand))
                .ok_or_else(|| self.unknown(instruction)),
            OpKind::Memory => {
                let width = instruction.memory_size().size();
                if is_stack_protector(instruction) {
                    return Ok(0);
                }
                if width > 8 {
                    return Err(self.unknown(instruction));
                }
                let address = self.address(instruction)?;
                Ok(self.overlay.number(address, width)?)
            }
            kind if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&kind) => {
                Ok(instruction.immediate(operand))
            }
            _ => Err(self.unknown(instruction)),
        }
    }

    /// Sets the first operand.
    ///
    /// # Errors
    /// Like [`Self::operand`].
    pub(super) fn set(&mut self, instruction: &Instruction, value: u64) -> Result<(), ReplayError> {
        self.set_operand(instruction, 0, value)
    }

    /// Sets an operand.
    ///
    /// # Errors
    /// Like [`Self::operand`].
    pub(super) fn set_operand(
        &mut self,
        instruction: &Instruction,
        operand: u32,
        value: u64,
    ) -> Result<(), ReplayError> {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                let number =
                    register_number(register).ok_or_else(|| self.unknown(instruction))? as usize;
                let old = self.registers[number];
                self.registers[number] = match (register, register.size()) {
                    (Register::AH | Register::BH | Register::CH | Register::DH, _) => {
                        old & !0xff00 | (value & 0xff) << 8
                    }
                    (_, 8) => value,
                    // Writing 32 bits clears the upper half.
                    (_, 4) => value & mask(4),
                    (_, size) => old & !mask(size) | value & mask(size),
                };
                Ok(())
            }
            OpKind::Memory => {
                let width = instruction.memory_size().size();
                if width > 8 {
                    return Err(self.unknown(instruction));
                }
                let address = self.address(instruction)?;
                Ok(self.overlay.write(address, &value.to_le_bytes()[..width])?)
            }
            _ => Err(self.unknown(instruction)),
        }
    }
}

/// Whether the instruction reads `fs:0x28`, the compilers' stack protector value. It is only compared with
/// itself.
fn is_stack_protector(instruction: &Instruction) -> bool {
    instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0x28
}
