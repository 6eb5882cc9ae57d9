//! The vector instructions that compilers use to copy and clear objects, and to sum arrays.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{ReplayError, machine::Machine};

/// A vector register's number.
fn number(register: Register) -> Option<usize> {
    (register.is_xmm() || register.is_ymm())
        .then(|| register.full_register() as usize - Register::ZMM0 as usize)
        .filter(|number| *number < 16)
}

impl Machine<'_> {
    /// The bytes of an operand, followed by zeros.
    fn bytes(&mut self, instruction: &Instruction, operand: u32) -> Result<[u8; 32], ReplayError> {
        let mut bytes = [0; 32];
        match instruction.op_kind(operand) {
            OpKind::Memory => {
                let width = instruction.memory_size().size().min(32);
                let address = self.address(instruction)?;
                self.overlay.read(address, &mut bytes[..width])?;
            }
            _ => {
                let register = instruction.op_register(operand);
                if let Some(number) = number(register) {
                    let width = register.size();
                    bytes[..width].copy_from_slice(&self.vectors[number][..width]);
                } else {
                    let value = self.operand(instruction, operand)?;
                    bytes[..8].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        Ok(bytes)
    }

    /// Sets `width` bytes of the first operand. The bytes behind them in a register: instructions in VEX
    /// encoding clear all of them, `movq` and `movd` those up to the 16th, and others keep them.
    fn set_bytes(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8; 32],
        width: usize,
    ) -> Result<(), ReplayError> {
        match instruction.op0_kind() {
            OpKind::Memory => {
                let address = self.address(instruction)?;
                Ok(self.overlay.write(address, &bytes[..width])?)
            }
            _ => {
                let register = instruction.op0_register();
                let Some(number) = number(register) else {
                    let low = bytes.iter().take(8).rev();
                    return self.set(
                        instruction,
                        low.fold(0, |value, byte| value << 8 | u64::from(*byte)),
                    );
                };
                let vector = &mut self.vectors[number];
                vector[..width].copy_from_slice(&bytes[..width]);
                let cleared = if is_vex(instruction) {
                    32
                } else {
                    16.max(width)
                };
                let from = if moves_scalar(instruction) || is_vex(instruction) {
                    width
                } else {
                    cleared
                };
                vector[from..cleared].fill(0);
                Ok(())
            }
        }
    }

    /// Executes a vector instruction.
    ///
    /// # Errors
    /// When the instruction isn't supported, or accesses memory that can't be read.
    pub(super) fn compute_vector(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        use Mnemonic as M;
        let width = self.width(instruction, 0);
        // VEX encoding has two sources besides the result. Otherwise the first operand is both a source and
        // the result.
        let (first, second) = match instruction.op_count() {
            3 => (1, 2),
            _ => (0, 1),
        };
        match instruction.mnemonic() {
            M::Vzeroupper => {
                for vector in &mut self.vectors {
                    vector[16..].fill(0);
                }
                Ok(())
            }
            M::Movups
            | M::Movaps
            | M::Movupd
            | M::Movapd
            | M::Movdqu
            | M::Movdqa
            | M::Vmovups
            | M::Vmovaps
            | M::Vmovupd
            | M::Vmovapd
            | M::Vmovdqu
            | M::Vmovdqa
            | M::Lddqu
            | M::Vlddqu => {
                let bytes = self.bytes(instruction, 1)?;
                self.set_bytes(instruction, &bytes, width)
            }
            M::Movq | M::Vmovq => {
                let bytes = self.bytes(instruction, 1)?;
                self.set_bytes(instruction, &bytes, 8)
            }
            M::Movd | M::Vmovd => {
                let bytes = self.bytes(instruction, 1)?;
                self.set_bytes(instruction, &bytes, 4)
            }
            M::Xorps | M::Xorpd | M::Pxor | M::Vxorps | M::Vxorpd | M::Vpxor => {
                let (a, b) = (
                    self.bytes(instruction, first)?,
                    self.bytes(instruction, second)?,
                );
                let result = std::array::from_fn(|i| a[i] ^ b[i]);
                self.set_bytes(instruction, &result, width)
            }
            M::Punpcklqdq
            | M::Vpunpcklqdq
            | M::Movlhps
            | M::Vmovlhps
            | M::Unpcklpd
            | M::Vunpcklpd
                if width == 16 =>
            {
                let (a, b) = (
                    self.bytes(instruction, first)?,
                    self.bytes(instruction, second)?,
                );
                self.set_bytes(instruction, &halves(&a[..8], &b[..8]), 16)
            }
            // A load replaces the high half.
            M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd
                if instruction.op0_kind() == OpKind::Register =>
            {
                let (a, b) = (
                    self.bytes(instruction, first)?,
                    self.bytes(instruction, second)?,
                );
                self.set_bytes(instruction, &halves(&a[..8], &b[..8]), 16)
            }
            // A store takes the high half.
            M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd => {
                let bytes = self.bytes(instruction, 1)?;
                self.set_bytes(instruction, &halves(&bytes[8..16], &[0; 8]), 8)
            }
            M::Paddq | M::Vpaddq | M::Psubq | M::Vpsubq => {
                let (a, b) = (
                    self.bytes(instruction, first)?,
                    self.bytes(instruction, second)?,
                );
                let adds = matches!(instruction.mnemonic(), M::Paddq | M::Vpaddq);
                let result = by_lanes(|i| {
                    let (a, b) = (lane(&a, i), lane(&b, i));
                    if adds {
                        a.wrapping_add(b)
                    } else {
                        a.wrapping_sub(b)
                    }
                });
                self.set_bytes(instruction, &result, width)
            }
            // By a constant; the form with the amount in a register isn't supported.
            M::Psrlq | M::Vpsrlq if is_immediate(instruction, second) => {
                let bytes = self.bytes(instruction, first)?;
                let amount = instruction.immediate(second) as u32;
                let shift = |i| lane(&bytes, i).checked_shr(amount).unwrap_or(0);
                self.set_bytes(instruction, &by_lanes(shift), width)
            }
            M::Psrad | M::Vpsrad if is_immediate(instruction, second) => {
                let bytes = self.bytes(instruction, first)?;
                let amount = (instruction.immediate(second) as u32).min(31);
                let result = by_doublewords(|i| ((doubleword(&bytes, i) as i32) >> amount) as u32);
                self.set_bytes(instruction, &result, width)
            }
            M::Vpblendd => {
                let (a, b) = (self.bytes(instruction, 1)?, self.bytes(instruction, 2)?);
                let chosen = instruction.immediate(3);
                let result = by_doublewords(|i| {
                    let from = if chosen >> i & 1 == 0 { &a } else { &b };
                    doubleword(from, i)
                });
                self.set_bytes(instruction, &result, width)
            }
            M::Pshufd | M::Vpshufd => {
                let bytes = self.bytes(instruction, 1)?;
                let order = instruction.immediate(2) as usize;
                // The order applies within each 16 bytes.
                let from = |i: usize| i / 4 * 4 + (order >> (i % 4 * 2) & 3);
                let result = by_doublewords(|i| doubleword(&bytes, from(i)));
                self.set_bytes(instruction, &result, width)
            }
            M::Vpermq => {
                let bytes = self.bytes(instruction, 1)?;
                let order = instruction.immediate(2) as usize;
                let result = by_lanes(|i| lane(&bytes, order >> (i * 2) & 3));
                self.set_bytes(instruction, &result, width)
            }
            M::Vinserti128 | M::Vinsertf128 => {
                let mut bytes = self.bytes(instruction, 1)?;
                let part = self.bytes(instruction, 2)?;
                let at = 16 * (instruction.immediate(3) as usize & 1);
                bytes[at..at + 16].copy_from_slice(&part[..16]);
                self.set_bytes(instruction, &bytes, width)
            }
            M::Vextracti128 | M::Vextractf128 => {
                let bytes = self.bytes(instruction, 1)?;
                let at = 16 * (instruction.immediate(2) as usize & 1);
                let mut part = [0; 32];
                part[..16].copy_from_slice(&bytes[at..at + 16]);
                self.set_bytes(instruction, &part, 16)
            }
            M::Vpbroadcastq => {
                let bytes = self.bytes(instruction, 1)?;
                let result = std::array::from_fn(|i| bytes[i % 8]);
                self.set_bytes(instruction, &result, width)
            }
            _ => Err(self.unknown(instruction)),
        }
    }
}

/// The eight bytes at index `number`.
fn lane(bytes: &[u8; 32], number: usize) -> u64 {
    let lane = bytes.iter().skip(8 * number).take(8).rev();
    lane.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The four bytes at index `number`.
fn doubleword(bytes: &[u8; 32], number: usize) -> u32 {
    (lane(bytes, number / 2) >> (32 * (number % 2))) as u32
}

/// Bytes made of four lanes, each computed from its index.
fn by_lanes(of: impl Fn(usize) -> u64) -> [u8; 32] {
    let lanes: [[u8; 8]; 4] = std::array::from_fn(|i| of(i).to_le_bytes());
    std::array::from_fn(|i| lanes[i / 8][i % 8])
}

/// Bytes made of eight doublewords, each computed from its index.
fn by_doublewords(of: impl Fn(usize) -> u32) -> [u8; 32] {
    by_lanes(|i| u64::from(of(2 * i)) | u64::from(of(2 * i + 1)) << 32)
}

fn is_immediate(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Immediate8
}

fn halves(low: &[u8], high: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(low);
    bytes[8..16].copy_from_slice(high);
    bytes
}

fn is_vex(instruction: &Instruction) -> bool {
    instruction.encoding() == iced_x86::EncodingKind::VEX
}

/// Whether the instruction clears the rest of a 16-byte register.
fn moves_scalar(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Movq | Mnemonic::Movd)
}
