//! Fetching, operands, control flow.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use tracer_common::register;

use super::{Picture, ReadMemory, ReplayError, arithmetic::Flags, library, vector::Vectors};
use crate::abi::{Image, Pointee, instruction_text, never_returns, register_number};

/// Where a replayed function returns to: no code lies there.
const RETURN: u64 = 0xffff_b000_0000_0000;

/// Instructions that a call may take, at first and more for each page that it has looked at: copying
/// a set takes some 60 for each element, of which a page has room for 128. One that goes round in a
/// circle, in a list that was changed while it was read, looks at no new pages.
const STEPS: u64 = 100_000;
const STEPS_A_PAGE: u64 = 10_000;

/// Registers that carry the first integer arguments (System V ABI).
const ARGUMENTS: [u32; 4] = [register::RDI, register::RSI, register::RDX, register::RCX];

/// Runs functions of one loaded library on a picture of the target's memory.
pub struct Replay<'a> {
    image: &'a Image<'a>,
    /// What the dynamic linker added to the library's virtual addresses.
    bias: u64,
    pub picture: Picture<'a>,
    pub(super) registers: [u64; 16],
    pub(super) vectors: Vectors,
    pub(super) flags: Flags,
    next: u64,
    decoded: HashMap<u64, Instruction>,
    heed_locks: bool,
    most_steps: u64,
    /// Where a function begins that is watched.
    watched: Option<u64>,
    seen: Option<[u64; ARGUMENTS.len()]>,
}

impl<'a> Replay<'a> {
    /// `bias`: what the dynamic linker added to the library's virtual addresses in the process whose
    /// memory `memory` is.
    pub fn new(image: &'a Image<'a>, bias: u64, memory: &'a dyn ReadMemory) -> Self {
        Self {
            image,
            bias,
            picture: Picture::of(memory),
            registers: [0; 16],
            vectors: Vectors::default(),
            flags: Flags::default(),
            next: 0,
            decoded: HashMap::new(),
            heed_locks: true,
            most_steps: u64::MAX,
            watched: None,
            seen: None,
        }
    }

    /// Ends a call that takes more instructions than that, even if it still finds new pages.
    pub fn give_up_after(&mut self, steps: u64) {
        self.most_steps = steps;
    }

    /// Whether a lock that is held ends a call ([`ReplayError::Locked`]), or is taken all the same:
    /// then what is read may be in the middle of a change.
    pub fn heed_locks(&mut self, heed: bool) {
        self.heed_locks = heed;
    }

    /// Watches the function at a virtual address of the library: [`Self::seen`] has the arguments with
    /// which it is called next.
    pub fn watch(&mut self, function: u64) {
        self.watched = Some(function.wrapping_add(self.bias));
        self.seen = None;
    }

    /// The first four integer arguments with which the watched function was called.
    pub fn seen(&self) -> Option<[u64; ARGUMENTS.len()]> {
        self.seen
    }

    /// Calls the function at a virtual address of the library and returns what it leaves in `rax`.
    /// What it wrote stays in the picture.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn call(&mut self, function: u64, arguments: &[u64]) -> Result<u64, ReplayError> {
        for (register, value) in ARGUMENTS.iter().zip(arguments) {
            self.registers[*register as usize] = *value;
        }
        // As a `call` leaves it: 16-byte alignment, then the return address.
        self.registers[register::RSP as usize] = Picture::stack_top() - 64;
        self.push(RETURN)?;
        self.next = function.wrapping_add(self.bias);
        for steps in 0_u64.. {
            if self.next == RETURN {
                return Ok(self.registers[register::RAX as usize]);
            }
            let is_circle = steps >= STEPS && steps / STEPS_A_PAGE > self.picture.page_count();
            if is_circle || steps == self.most_steps {
                break;
            }
            if self.watched == Some(self.next) {
                self.watched = None;
                self.seen = Some(ARGUMENTS.map(|register| self.registers[register as usize]));
            }
            let instruction = self.fetch()?;
            self.next = instruction.next_ip();
            self.step(&instruction)?;
        }
        Err(ReplayError::Endless)
    }

    /// Calls the virtual function in a slot (in bytes) of an object's vtable.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn call_virtual(&mut self, object: u64, slot: u64) -> Result<u64, ReplayError> {
        let vtable = self.picture.number(object, 8)?;
        let function = self.picture.number(vtable.wrapping_add(slot), 8)?;
        self.call(function.wrapping_sub(self.bias), &[object])
    }

    fn fetch(&mut self) -> Result<Instruction, ReplayError> {
        let at = self.next;
        if let Some(instruction) = self.decoded.get(&at) {
            return Ok(*instruction);
        }
        // From the library's file: in the target, probes may stand there.
        let code = self
            .image
            .code_at(at.wrapping_sub(self.bias))
            .ok_or(ReplayError::Outside { address: at })?;
        let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
        self.decoded.insert(at, instruction);
        Ok(instruction)
    }

    fn step(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        match instruction.flow_control() {
            FlowControl::Next => self.compute(instruction),
            FlowControl::Call | FlowControl::IndirectCall => {
                self.push(instruction.next_ip())?;
                self.go_to(instruction)
            }
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
                self.go_to(instruction)
            }
            FlowControl::ConditionalBranch => {
                if self.holds(instruction)? {
                    self.next = instruction.near_branch_target();
                }
                Ok(())
            }
            FlowControl::Return => self.return_(),
            _ => Err(self.unknown(instruction)),
        }
    }

    fn return_(&mut self) -> Result<(), ReplayError> {
        self.next = self.pop()?;
        Ok(())
    }

    /// Goes to a branch's or call's target; where that is a function outside the library, does what
    /// it would do, and returns from it.
    fn go_to(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            if instruction.flow_control() == FlowControl::Call
                && let Some(name) = self.image.callee(target.wrapping_sub(self.bias))
                && never_returns(name)
            {
                return Err(ReplayError::Throws {
                    function: name.to_owned(),
                });
            }
            self.next = target;
            return Ok(());
        }
        if instruction.is_ip_rel_memory_operand() {
            let slot = instruction.ip_rel_memory_address().wrapping_sub(self.bias);
            if let Some(Pointee::Symbol(name)) = self.image.pointee(slot) {
                // The library's own copy does the same, whichever was bound.
                if let Some(function) = self.image.function(name) {
                    self.next = function.address.wrapping_add(self.bias);
                    return Ok(());
                }
                let arguments = ARGUMENTS.map(|register| self.registers[register as usize]);
                let result = match library::call(name, arguments, &mut self.picture) {
                    Err(ReplayError::Locked) if !self.heed_locks => 0,
                    result => result?,
                };
                self.registers[register::RAX as usize] = result;
                return self.return_();
            }
        }
        self.next = self.operand(instruction, 0)?;
        Ok(())
    }

    pub(super) fn unknown(&self, instruction: &Instruction) -> ReplayError {
        ReplayError::Unknown {
            instruction: instruction_text(instruction),
            at: instruction.ip().wrapping_sub(self.bias),
        }
    }

    pub(super) fn push(&mut self, value: u64) -> Result<(), ReplayError> {
        let top = self.registers[register::RSP as usize].wrapping_sub(8);
        self.registers[register::RSP as usize] = top;
        Ok(self.picture.write(top, &value.to_le_bytes())?)
    }

    pub(super) fn pop(&mut self) -> Result<u64, ReplayError> {
        let top = self.registers[register::RSP as usize];
        self.registers[register::RSP as usize] = top.wrapping_add(8);
        Ok(self.picture.number(top, 8)?)
    }

    /// The address that a memory operand names.
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

    /// How many bytes an operand has.
    pub(super) fn width(&self, instruction: &Instruction, operand: u32) -> usize {
        match instruction.op_kind(operand) {
            OpKind::Register => instruction.op_register(operand).size(),
            OpKind::Memory => instruction.memory_size().size(),
            _ => 8,
        }
    }

    /// The value of a general register, or part of one.
    fn register(&self, register: Register) -> Option<u64> {
        let value = self.registers[register_number(register)? as usize];
        Some(match register {
            Register::AH | Register::BH | Register::CH | Register::DH => value >> 8 & 0xff,
            _ => value & mask(register.size()),
        })
    }

    /// The value of an operand that is read, zero-extended.
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
                Ok(self.picture.number(address, width)?)
            }
            kind if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&kind) => {
                Ok(instruction.immediate(operand))
            }
            _ => Err(self.unknown(instruction)),
        }
    }

    /// Gives the first operand a value.
    pub(super) fn set(&mut self, instruction: &Instruction, value: u64) -> Result<(), ReplayError> {
        self.set_operand(instruction, 0, value)
    }

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
                    // Writing 32 bits clears the rest.
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
                Ok(self.picture.write(address, &value.to_le_bytes()[..width])?)
            }
            _ => Err(self.unknown(instruction)),
        }
    }
}

/// `fs:0x28`, with which compilers guard the stack: it is only compared with itself.
fn is_stack_protector(instruction: &Instruction) -> bool {
    instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0x28
}

/// The bits of a value of `width` bytes.
pub(super) fn mask(width: usize) -> u64 {
    match width {
        0..8 => (1 << (8 * width)) - 1,
        _ => u64::MAX,
    }
}
