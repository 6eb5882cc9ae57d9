//! Executes functions: fetches instructions, follows calls and branches, and counts steps.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use tracer_common::register;

use super::{Overlay, ReplayError, library, machine::Machine};
use crate::{
    abi::{Image, Pointee, never_returns},
    target::ReadMemory,
};

/// The address to which a replayed function returns. No code lies there.
const RETURN: u64 = 0xffff_b000_0000_0000;

/// How many instructions a call may take, whatever it reads.
const MIN_STEPS: u64 = 100_000;

/// How many instructions a call may take for each page that it has read. Copying a set takes about 60
/// instructions per element, and a page has room for 128 elements. A call that runs in a circle, because a
/// list was changed while it was read, reads no new pages.
const STEPS_PER_PAGE: u64 = 10_000;

/// Registers that carry the first integer arguments (System V ABI).
const ARGUMENTS: [u32; 4] = [register::RDI, register::RSI, register::RDX, register::RCX];

/// Executes functions of one loaded library on an overlay of the target's memory.
pub(crate) struct Replay<'a> {
    image: &'a Image<'a>,
    machine: Machine<'a>,
    /// The address of the next instruction.
    next: u64,
    /// The instructions that were decoded, by address.
    decoded: HashMap<u64, Instruction>,
    heed_locks: bool,
    max_steps: u64,
    /// The address of the function that is watched for.
    watched: Option<u64>,
    seen: Option<[u64; ARGUMENTS.len()]>,
}

impl<'a> Replay<'a> {
    /// `bias` is what the dynamic linker added to the library's virtual addresses in the process that
    /// `memory` belongs to.
    pub(crate) fn new(image: &'a Image<'a>, bias: u64, memory: &'a dyn ReadMemory) -> Self {
        Self {
            image,
            machine: Machine::new(bias, Overlay::new(memory)),
            next: 0,
            decoded: HashMap::new(),
            heed_locks: true,
            max_steps: u64::MAX,
            watched: None,
            seen: None,
        }
    }

    /// The target's memory, with what the called functions wrote.
    pub(crate) fn overlay(&mut self) -> &mut Overlay<'a> {
        &mut self.machine.overlay
    }

    /// Makes a call fail after that many instructions, even if it still reads new pages.
    pub(crate) fn give_up_after(&mut self, steps: u64) {
        self.max_steps = steps;
    }

    /// Whether a call fails on a lock that is held ([`ReplayError::Locked`]), which is the default, or
    /// ignores the lock. A call that ignores locks may read data in the middle of a change.
    pub(crate) fn heed_locks(&mut self, heed: bool) {
        self.heed_locks = heed;
    }

    /// Watches for the next call of the function at a virtual address of the library, whose arguments
    /// [`Self::seen`] then returns.
    pub(crate) fn watch(&mut self, function: u64) {
        self.watched = Some(function.wrapping_add(self.machine.bias));
        self.seen = None;
    }

    /// The first four integer arguments with which the watched function was called; `None` if it wasn't.
    pub(crate) fn seen(&self) -> Option<[u64; ARGUMENTS.len()]> {
        self.seen
    }

    /// Calls the function at a virtual address of the library and returns its result, the value of `rax`.
    /// What it writes stays in the overlay.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub(crate) fn call(&mut self, function: u64, arguments: &[u64]) -> Result<u64, ReplayError> {
        for (register, value) in ARGUMENTS.iter().zip(arguments) {
            self.machine.registers[*register as usize] = *value;
        }
        // As after a `call`: aligned to 16 bytes, then the return address.
        self.machine.registers[register::RSP as usize] = Overlay::stack_top() - 64;
        self.machine.push(RETURN)?;
        self.next = function.wrapping_add(self.machine.bias);
        for steps in 0_u64.. {
            if self.next == RETURN {
                return Ok(self.machine.registers[register::RAX as usize]);
            }
            let is_circle =
                steps >= MIN_STEPS && steps / STEPS_PER_PAGE > self.machine.overlay.page_count();
            if is_circle || steps == self.max_steps {
                break;
            }
            if self.watched == Some(self.next) {
                self.watched = None;
                self.seen =
                    Some(ARGUMENTS.map(|register| self.machine.registers[register as usize]));
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
    pub(crate) fn call_virtual(&mut self, object: u64, slot: u64) -> Result<u64, ReplayError> {
        let vtable = self.machine.overlay.number(object, 8)?;
        let function = self.machine.overlay.number(vtable.wrapping_add(slot), 8)?;
        self.call(function.wrapping_sub(self.machine.bias), &[object])
    }

    fn fetch(&mut self) -> Result<Instruction, ReplayError> {
        let at = self.next;
        if let Some(instruction) = self.decoded.get(&at) {
            return Ok(*instruction);
        }
        // From the library's file, because probes may have replaced instructions in the target.
        let code = self
            .image
            .code_at(at.wrapping_sub(self.machine.bias))
            .ok_or(ReplayError::Outside { address: at })?;
        let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
        self.decoded.insert(at, instruction);
        Ok(instruction)
    }

    fn step(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        match instruction.flow_control() {
            FlowControl::Next => self.machine.compute(instruction),
            FlowControl::Call | FlowControl::IndirectCall => {
                self.machine.push(instruction.next_ip())?;
                self.go_to(instruction)
            }
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
                self.go_to(instruction)
            }
            FlowControl::ConditionalBranch => {
                if self.machine.holds(instruction)? {
                    self.next = instruction.near_branch_target();
                }
                Ok(())
            }
            FlowControl::Return => self.return_(),
            _ => Err(self.machine.unknown(instruction)),
        }
    }

    fn return_(&mut self) -> Result<(), ReplayError> {
        self.next = self.machine.pop()?;
        Ok(())
    }

    /// Continues at the target of a branch or call. A function outside the library is emulated, and
    /// execution continues at its return address.
    fn go_to(&mut self, instruction: &Instruction) -> Result<(), ReplayError> {
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            if instruction.flow_control() == FlowControl::Call
                && let Some(name) = self.image.callee(target.wrapping_sub(self.machine.bias))
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
            let slot = instruction
                .ip_rel_memory_address()
                .wrapping_sub(self.machine.bias);
            if let Some(Pointee::Symbol(name)) = self.image.pointee(slot) {
                // The library's own copy does the same, whichever one the linker bound.
                if let Some(function) = self.image.function(name) {
                    self.next = function.address.wrapping_add(self.machine.bias);
                    return Ok(());
                }
                let arguments = ARGUMENTS.map(|register| self.machine.registers[register as usize]);
                let result = match library::call(name, arguments, &mut self.machine.overlay) {
                    Err(ReplayError::Locked) if !self.heed_locks => 0,
                    result => result?,
                };
                self.machine.registers[register::RAX as usize] = result;
                return self.return_();
            }
        }
        self.next = self.machine.operand(instruction, 0)?;
        Ok(())
    }
}
