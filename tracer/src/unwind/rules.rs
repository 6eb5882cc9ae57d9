//! How one frame leads to its caller's.

use gimli::{
    CfaRule, Encoding, EndianSlice, EvaluationResult, Expression, Format, LittleEndian, Register,
    RegisterRule, UnwindTableRow, Value, X86_64,
};

pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// x86-64's registers by their DWARF numbers (System V ABI, figure 3.36), and the return address.
const REGISTERS: usize = 17;

/// What is known of a register of the frame at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Value(u64),
    /// It stands at this address of the stack. Most of those that are saved nobody asks for.
    SavedAt(u64),
    Unknown,
}

/// The registers of a frame.
#[derive(Clone, Debug)]
pub(super) struct Registers([Known; REGISTERS]);

impl Registers {
    pub fn new(sp: u64, bp: u64) -> Self {
        let mut registers = Self([Known::Unknown; REGISTERS]);
        registers.set(X86_64::RSP, Known::Value(sp));
        registers.set(X86_64::RBP, Known::Value(bp));
        registers
    }

    fn of(&self, register: Register) -> Known {
        let known = self.0.get(usize::from(register.0));
        known.copied().unwrap_or(Known::Unknown)
    }

    fn set(&mut self, register: Register, known: Known) {
        if let Some(to) = self.0.get_mut(usize::from(register.0)) {
            *to = known;
        }
    }
}

/// How a frame's registers follow from those of the one that it called. Owned, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    cfa: Cfa,
    registers: Vec<(Register, Saved)>,
    /// The rule of the return address is "undefined": the outermost frame.
    is_outermost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cfa {
    Register { register: Register, offset: i64 },
    Expression(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Saved {
    At(i64),
    Is(i64),
    In(Register),
    AtExpression(Vec<u8>),
    IsExpression(Vec<u8>),
    Nowhere,
}

/// Why a step can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doubt {
    /// It depends on a register that isn't known.
    Register,
    /// It depends on a word that wasn't captured.
    Memory,
    /// An expression that no compiler writes for x86-64.
    Expression,
}

impl Step {
    /// `section`: of `.eh_frame`, where the expressions stand.
    pub fn new(row: &UnwindTableRow<usize>, section: &[u8]) -> Option<Self> {
        let bytes = |offset: usize, length: usize| {
            let bytes = section.get(offset..offset.checked_add(length)?)?;
            Some(bytes.to_vec())
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => Cfa::Register {
                register: *register,
                offset: *offset,
            },
            CfaRule::Expression(of) => Cfa::Expression(bytes(of.offset, of.length)?),
        };
        let mut registers = Vec::new();
        for (register, rule) in row.registers() {
            let saved = match rule {
                RegisterRule::Offset(offset) => Saved::At(*offset),
                RegisterRule::ValOffset(offset) => Saved::Is(*offset),
                RegisterRule::Register(other) => Saved::In(*other),
                RegisterRule::Expression(of) => Saved::AtExpression(bytes(of.offset, of.length)?),
                RegisterRule::ValExpression(of) => {
                    Saved::IsExpression(bytes(of.offset, of.length)?)
                }
                RegisterRule::SameValue => continue,
                _ => Saved::Nowhere,
            };
            registers.push((*register, saved));
        }
        // No rule for the return address at all means the same.
        let has_return = registers
            .iter()
            .any(|(register, saved)| *register == X86_64::RA && *saved != Saved::Nowhere);
        Some(Self {
            cfa,
            registers,
            is_outermost: !has_return,
        })
    }

    pub fn is_outermost(&self) -> bool {
        self.is_outermost
    }

    /// The caller's registers and the return address.
    pub fn apply(
        &self,
        registers: &Registers,
        read: &mut impl FnMut(u64) -> Option<u64>,
    ) -> Result<(Registers, u64), Doubt> {
        let cfa = match &self.cfa {
            Cfa::Register { register, offset } => {
                value(registers, *register, read)?.wrapping_add_signed(*offset)
            }
            Cfa::Expression(code) => evaluate(code, None, registers, read)?,
        };
        let mut caller = registers.clone();
        // What a function needn't keep (System V ABI, figure 3.4) isn't its caller's any more.
        for scratch in [
            X86_64::RAX,
            X86_64::RCX,
            X86_64::RDX,
            X86_64::RSI,
            X86_64::RDI,
            X86_64::R8,
            X86_64::R9,
            X86_64::R10,
            X86_64::R11,
        ] {
            caller.set(scratch, Known::Unknown);
        }
        caller.set(X86_64::RSP, Known::Value(cfa));
        for (register, saved) in &self.registers {
            let known = match saved {
                Saved::At(offset) => Known::SavedAt(cfa.wrapping_add_signed(*offset)),
                Saved::Is(offset) => Known::Value(cfa.wrapping_add_signed(*offset)),
                Saved::In(other) => registers.of(*other),
                Saved::AtExpression(code) => {
                    Known::SavedAt(evaluate(code, Some(cfa), registers, read)?)
                }
                Saved::IsExpression(code) => {
                    Known::Value(evaluate(code, Some(cfa), registers, read)?)
                }
                Saved::Nowhere => Known::Unknown,
            };
            caller.set(*register, known);
        }
        let back = value(&caller, X86_64::RA, read)?;
        Ok((caller, back))
    }

    /// The caller's stack pointer, once it is known.
    pub fn stack_pointer(registers: &Registers) -> Option<u64> {
        match registers.of(X86_64::RSP) {
            Known::Value(sp) => Some(sp),
            _ => None,
        }
    }
}

fn value(
    registers: &Registers,
    register: Register,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Result<u64, Doubt> {
    match registers.of(register) {
        Known::Value(value) => Ok(value),
        Known::SavedAt(address) => read(address).ok_or(Doubt::Memory),
        Known::Unknown => Err(Doubt::Register),
    }
}

fn evaluate(
    code: &[u8],
    cfa: Option<u64>,
    registers: &Registers,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Result<u64, Doubt> {
    const ENCODING: Encoding = Encoding {
        address_size: 8,
        format: Format::Dwarf32,
        version: 4,
    };
    let mut evaluation = Expression(Slice::new(code, LittleEndian)).evaluation(ENCODING);
    if let Some(cfa) = cfa {
        evaluation.set_initial_value(cfa);
    }
    let mut state = evaluation.evaluate();
    loop {
        state = match state {
            Ok(EvaluationResult::Complete) => break,
            Ok(EvaluationResult::RequiresMemory {
                address, size: 8, ..
            }) => {
                evaluation.resume_with_memory(Value::Generic(read(address).ok_or(Doubt::Memory)?))
            }
            Ok(EvaluationResult::RequiresRegister { register, .. }) => {
                let value = value(registers, register, read)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            _ => return Err(Doubt::Expression),
        };
    }
    let result = evaluation.value_result();
    match result {
        Some(Value::Generic(value)) => Ok(value),
        _ => Err(Doubt::Expression),
    }
}
