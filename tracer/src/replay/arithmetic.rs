//! The instructions on general registers (Intel SDM, volume 2).

use iced_x86::{ConditionCode, Instruction, Mnemonic};
use tracer_common::register;

use super::{
    ReplayError,
    flags::{Flags, is_negative, mask, sign_extended},
    machine::Machine,
};

impl Machine<'_> {
    /// Whether the condition of a jump, move or set holds.
    ///
    /// # Errors
    /// When the instruction has no condition.
    pub(super) fn holds(&self, instruction: &Instruction) -> Result<bool, ReplayError> {
        self.flags
            .holds(instruction.condition_code())
            .ok_or_else(|| self.unknown(instruction))
    }

    /// Executes an instruction that isn't a branch, call or return.
    ///
    /// # Errors
    /// When the instruction isn't supported, divides by zero or accesses memory that can't be read.
    pub(super) fn compute(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        let width = self.width(instruction, 0);
        match instruction.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 => Ok(()),
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.operand(instruction, 1)?;
                self.set(instruction, value)
            }
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let from = self.width(instruction, 1);
                let value = self.operand(instruction, 1)?;
                self.set(instruction, sign_extended(value, from) as u64)
            }
            Mnemonic::Lea => {
                let address = self.address(instruction)?;
                self.set(instruction, address)
            }
            Mnemonic::Push => {
                let value = self.operand(instruction, 0)?;
                self.push(value)
            }
            Mnemonic::Pop => {
                let value = self.pop()?;
                self.set(instruction, value)
            }
            Mnemonic::Leave => {
                self.registers[register::RSP as usize] = self.registers[register::RBP as usize];
                self.registers[register::RBP as usize] = self.pop()?;
                Ok(())
            }
            Mnemonic::Xchg => {
                let (first, second) = self.both(instruction)?;
                self.set_operand(instruction, 1, first)?;
                self.set(instruction, second)
            }
            Mnemonic::Add | Mnemonic::Adc | Mnemonic::Sub | Mnemonic::Sbb | Mnemonic::Cmp => {
                self.add_or_subtract(instruction, width)
            }
            Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg => self.count(instruction, width),
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => {
                let (first, second) = self.both(instruction)?;
                let result = match instruction.mnemonic() {
                    Mnemonic::Or => first | second,
                    Mnemonic::Xor => first ^ second,
                    _ => first & second,
                };
                self.flags = Flags::from_result(result, width);
                if instruction.mnemonic() == Mnemonic::Test {
                    return Ok(());
                }
                self.set(instruction, result)
            }
            Mnemonic::Not => {
                let value = self.operand(instruction, 0)?;
                self.set(instruction, !value)
            }
            Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar => self.shift(instruction, width),
            Mnemonic::Bt => {
                let (bits, index) = self.both(instruction)?;
                // In memory, an index in a register may reach beyond the operand.
                if instruction.op0_kind() == iced_x86::OpKind::Memory {
                    return Err(self.unknown(instruction));
                }
                self.flags.carry = bits >> (index % (8 * width as u64)) & 1 != 0;
                Ok(())
            }
            Mnemonic::Tzcnt | Mnemonic::Bsf => {
                let value = self.operand(instruction, 1)?;
                let zeros = u64::from(value.trailing_zeros()).min(8 * width as u64);
                self.set_found(instruction, value, zeros)
            }
            Mnemonic::Lzcnt => {
                let value = self.operand(instruction, 1)?;
                let zeros = u64::from(value.leading_zeros()) - (64 - 8 * width as u64);
                self.set_found(instruction, value, zeros)
            }
            Mnemonic::Bsr => {
                let value = self.operand(instruction, 1)?;
                let highest = 63 - u64::from(value.leading_zeros().min(63));
                self.set_found(instruction, value, highest)
            }
            Mnemonic::Imul | Mnemonic::Mul | Mnemonic::Div | Mnemonic::Idiv => {
                self.multiply_or_divide(instruction, width)
            }
            Mnemonic::Cdq => {
                let sign = sign_extended(self.registers[register::RAX as usize], 4) >> 63;
                self.registers[register::RDX as usize] = sign as u64 & mask(4);
                Ok(())
            }
            Mnemonic::Cqo => {
                let sign = self.registers[register::RAX as usize] as i64 >> 63;
                self.registers[register::RDX as usize] = sign as u64;
                Ok(())
            }
            Mnemonic::Cdqe => {
                let value = sign_extended(self.registers[register::RAX as usize], 4);
                self.registers[register::RAX as usize] = value as u64;
                Ok(())
            }
            Mnemonic::Xadd => {
                let (first, second) = self.both(instruction)?;
                self.set_operand(instruction, 1, first)?;
                self.set(instruction, first.wrapping_add(second))
            }
            _ if instruction.condition_code() != ConditionCode::None => {
                self.conditional(instruction)
            }
            _ => self.compute_vector(instruction),
        }
    }

    /// The values of the first two operands.
    fn both(&mut self, instruction: &Instruction) -> Result<(u64, u64), ReplayError> {
        Ok((self.operand(instruction, 0)?, self.operand(instruction, 1)?))
    }

    fn add_or_subtract(
        &mut self,
        instruction: &Instruction,
        width: usize,
    ) -> Result<(), ReplayError> {
        let mnemonic = instruction.mnemonic();
        let (first, second) = self.both(instruction)?;
        let (first, second) = (first & mask(width), second & mask(width));
        let carry =
            u128::from(matches!(mnemonic, Mnemonic::Adc | Mnemonic::Sbb) && self.flags.carry);
        let adds = matches!(mnemonic, Mnemonic::Add | Mnemonic::Adc);
        let (a, b) = (u128::from(first), u128::from(second));
        let wide = if adds {
            a + b + carry
        } else {
            a.wrapping_sub(b).wrapping_sub(carry)
        };
        let result = wide as u64 & mask(width);
        let signs = [first, second, result].map(|value| is_negative(value, width));
        self.flags = Flags {
            carry: wide >> (8 * width) & 1 != 0,
            overflow: if adds {
                signs[0] == signs[1] && signs[0] != signs[2]
            } else {
                signs[0] != signs[1] && signs[0] != signs[2]
            },
            ..Flags::from_result(result, width)
        };
        if mnemonic == Mnemonic::Cmp {
            return Ok(());
        }
        self.set(instruction, result)
    }

    /// `inc`, `dec` and `neg`.
    fn count(&mut self, instruction: &Instruction, width: usize) -> Result<(), ReplayError> {
        let value = self.operand(instruction, 0)?;
        let lowest = 1 << (8 * width - 1);
        let (result, carry, overflow) = match instruction.mnemonic() {
            Mnemonic::Inc => {
                let result = value.wrapping_add(1) & mask(width);
                (result, self.flags.carry, result == lowest)
            }
            Mnemonic::Dec => {
                let result = value.wrapping_sub(1) & mask(width);
                (result, self.flags.carry, value == lowest)
            }
            _ => {
                let result = value.wrapping_neg() & mask(width);
                (result, value != 0, value == lowest)
            }
        };
        self.flags = Flags {
            carry,
            overflow,
            ..Flags::from_result(result, width)
        };
        self.set(instruction, result)
    }

    fn shift(&mut self, instruction: &Instruction, width: usize) -> Result<(), ReplayError> {
        let (value, count) = self.both(instruction)?;
        let count = (count & if width == 8 { 63 } else { 31 }) as u32;
        if count == 0 {
            return self.set(instruction, value);
        }
        let (result, carry) = match instruction.mnemonic() {
            Mnemonic::Shl => {
                let wide = u128::from(value) << count;
                (wide as u64, wide >> (8 * width) & 1 != 0)
            }
            Mnemonic::Shr => (value >> count, value >> (count - 1) & 1 != 0),
            _ => {
                let signed = sign_extended(value, width);
                ((signed >> count) as u64, signed >> (count - 1) & 1 != 0)
            }
        };
        let overflow = match instruction.mnemonic() {
            Mnemonic::Shl => is_negative(result, width) != carry,
            Mnemonic::Shr => is_negative(value, width),
            _ => false,
        };
        self.flags = Flags {
            carry,
            overflow,
            ..Flags::from_result(result, width)
        };
        self.set(instruction, result)
    }

    /// Sets the result of a search for a bit. If no bit is set, `bsf` and `bsr` keep the register (as all
    /// processors do); the others set the carry flag.
    fn set_found(
        &mut self,
        instruction: &Instruction,
        searched: u64,
        found: u64,
    ) -> Result<(), ReplayError> {
        let keeps = matches!(instruction.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
        self.flags.carry = searched == 0;
        self.flags.zero = if keeps { searched == 0 } else { found == 0 };
        if keeps && searched == 0 {
            return Ok(());
        }
        self.set(instruction, found)
    }

    fn multiply_or_divide(
        &mut self,
        instruction: &Instruction,
        width: usize,
    ) -> Result<(), ReplayError> {
        if instruction.mnemonic() == Mnemonic::Imul && instruction.op_count() > 1 {
            let last = instruction.op_count() - 1;
            let first = sign_extended(self.operand(instruction, last - 1)?, width);
            let second = sign_extended(self.operand(instruction, last)?, width);
            let wide = i128::from(first) * i128::from(second);
            let result = wide as u64 & mask(width);
            let lost = i128::from(sign_extended(result, width)) != wide;
            self.flags.carry = lost;
            self.flags.overflow = lost;
            return self.set(instruction, result);
        }
        // The forms that use rdx:rax. Accessors have none of 8 or 16 bits.
        if width < 4 {
            return Err(self.unknown(instruction));
        }
        let bits = 8 * width as u32;
        let operand = self.operand(instruction, 0)?;
        let low = self.registers[register::RAX as usize] & mask(width);
        let high = self.registers[register::RDX as usize] & mask(width);
        let division = ReplayError::Division {
            at: instruction.ip(),
        };
        let (low, high) = match instruction.mnemonic() {
            Mnemonic::Mul => {
                let wide = u128::from(low) * u128::from(operand);
                let high = (wide >> bits) as u64;
                self.flags.carry = high != 0;
                self.flags.overflow = high != 0;
                (wide as u64, high)
            }
            Mnemonic::Imul => {
                let wide = i128::from(sign_extended(low, width))
                    * i128::from(sign_extended(operand, width));
                let lost = i128::from(sign_extended(wide as u64 & mask(width), width)) != wide;
                self.flags.carry = lost;
                self.flags.overflow = lost;
                (wide as u64, (wide >> bits) as u64)
            }
            Mnemonic::Div => {
                let dividend = u128::from(high) << bits | u128::from(low);
                let divisor = u128::from(operand);
                let quotient = dividend.checked_div(divisor).ok_or(division.clone())?;
                if quotient > u128::from(mask(width)) {
                    return Err(division);
                }
                (quotient as u64, (dividend % divisor) as u64)
            }
            _ => {
                let unused = 128 - 2 * bits;
                let dividend =
                    ((u128::from(high) << bits | u128::from(low)) << unused) as i128 >> unused;
                let divisor = i128::from(sign_extended(operand, width));
                let quotient = dividend.checked_div(divisor).ok_or(division.clone())?;
                if i128::from(sign_extended(quotient as u64 & mask(width), width)) != quotient {
                    return Err(division);
                }
                (quotient as u64, (dividend % divisor) as u64)
            }
        };
        self.registers[register::RAX as usize] = low & mask(width);
        self.registers[register::RDX as usize] = high & mask(width);
        Ok(())
    }

    /// `cmovcc` and `setcc`.
    fn conditional(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        let holds = self.holds(instruction)?;
        match instruction.op_count() {
            1 => self.set(instruction, u64::from(holds)),
            2 => {
                // `cmov` reads its source and clears the upper half of a 32-bit register in either case.
                let (old, new) = self.both(instruction)?;
                self.set(instruction, if holds { new } else { old })
            }
            _ => Err(self.unknown(instruction)),
        }
    }
}
