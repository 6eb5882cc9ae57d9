//! The rules of one instruction: from the registers of a frame to those of its caller.

use gimli::{
    CfaRule, Encoding, EndianSlice, EvaluationResult, Expression, Format, LittleEndian, Register,
    RegisterRule, UnwindTableRow, Value, X86_64,
};

pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// x86-64's registers by their DWARF numbers (System V ABI, figure 3.36), and the return address.
const REGISTERS: usize = 17;

/// The content of a register in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Value(u64),
    /// The value is saved at this address of the stack. It is read on demand: most saved registers aren't
    /// needed.
    SavedAt(u64),
    Unknown,
}

/// The registers of a frame.
#[derive(Clone, Debug)]
pub(super) struct Registers([Content; REGISTERS]);

impl Registers {
    pub(super) fn new(sp: u64, bp: u64) -> Self {
        let mut registers = Self([Content::Unknown; REGISTERS]);
        registers.set(X86_64::RSP, Content::Value(sp));
        registers.set(X86_64::RBP, Content::Value(bp));
        registers
    }

    fn get(&self, register: Register) -> Content {
        let content = self.0.get(usize::from(register.0));
        content.copied().unwrap_or(Content::Unknown)
    }

    fn set(&mut self, register: Register, content: Content) {
        if let Some(to) = self.0.get_mut(usize::from(register.0)) {
            *to = content;
        }
    }
}

/// The rules of one instruction, by which a caller's registers follow from those of the frame that it called.
/// They own their data, so that they can be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    cfa: Cfa,
    registers: Vec<(Register, Saved)>,
    /// Whether the return address is undefined: this is the outermost frame.
    is_outermost: bool,
}

/// The rule of the canonical frame address: the stack pointer of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cfa {
    Register { register: Register, offset: i64 },
    Expression(Vec<u8>),
}

/// The rule of a register: where the caller's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Saved {
    /// On the stack, at this offset from the canonical frame address.
    At(i64),
    /// The value is the canonical frame address plus this.
    Is(i64),
    In(Register),
    /// On the stack, at the address that a DWARF expression yields.
    AtExpression(Vec<u8>),
    /// The value is what a DWARF expression yields.
    IsExpression(Vec<u8>),
    Nowhere,
}

/// Why the rules can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doubt {
    /// They depend on a register whose content is unknown.
    Register,
    /// They depend on a word of the stack that wasn't captured.
    Memory,
    /// An expression that no compiler writes for x86-64.
    Expression,
}

impl Step {
    /// `section`: the bytes of `.eh_frame`, which has the expressions. `None` if they aren't all there.
    pub(super) fn new(row: &UnwindTableRow<usize>, section: &[u8]) -> Option<Self> {
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
        // A return address without a rule is undefined, too.
        let has_return = registers
            .iter()
            .any(|(register, saved)| *register == X86_64::RA && *saved != Saved::Nowhere);
        Some(Self {
            cfa,
            registers,
            is_outermost: !has_return,
        })
    }

    pub(super) fn is_outermost(&self) -> bool {
        self.is_outermost
    }

    /// The caller's registers and the return address. `read` reads a word of the stack.
    pub(super) fn apply(
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
        // A function needn't preserve these (System V ABI, figure 3.4).
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
            caller.set(scratch, Content::Unknown);
        }
        caller.set(X86_64::RSP, Content::Value(cfa));
        for (register, saved) in &self.registers {
            let content = match saved {
                Saved::At(offset) => Content::SavedAt(cfa.wrapping_add_signed(*offset)),
                Saved::Is(offset) => Content::Value(cfa.wrapping_add_signed(*offset)),
                Saved::In(other) => registers.get(*other),
                Saved::AtExpression(code) => {
                    Content::SavedAt(evaluate(code, Some(cfa), registers, read)?)
                }
                Saved::IsExpression(code) => {
                    Content::Value(evaluate(code, Some(cfa), registers, read)?)
                }
                Saved::Nowhere => Content::Unknown,
            };
            caller.set(*register, content);
        }
        let back = value(&caller, X86_64::RA, read)?;
        Ok((caller, back))
    }

    /// The stack pointer, if its value is known.
    pub(super) fn stack_pointer(registers: &Registers) -> Option<u64> {
        match registers.get(X86_64::RSP) {
            Content::Value(sp) => Some(sp),
            _ => None,
        }
    }
}

fn value(
    registers: &Registers,
    register: Register,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Result<u64, Doubt> {
    match registers.get(register) {
        Content::Value(value) => Ok(value),
        Content::SavedAt(address) => read(address).ok_or(Doubt::Memory),
        Content::Unknown => Err(Doubt::Register),
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
