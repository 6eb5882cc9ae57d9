//! A symbolic interpreter for one function: what it reads, writes, compares, calls and returns, in
//! terms of its arguments, on whichever path.
//!
//! Not an emulator: it follows every branch, keeps only what holds on all paths that meet, and
//! knows values only as "argument", "argument + constant", "what stands at such an address".
//! Everything else is `Unknown`. A called function is taken to keep the stack slots whose address
//! it wasn't given, and the registers that the System V ABI says it keeps.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use tracer_common::register;

use super::{
    image::{Function, Image, Pointee},
    state::{ARGUMENTS, State, number},
    value::{Base, Place, Value},
};

/// Who is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A function, by its mangled name.
    Named(String),
    /// A virtual function: the object, and the offset of its slot in the object's vtable.
    Virtual {
        object: Value,
        slot: i64,
    },
    Unknown,
}

/// Something that a function does, at the instruction at `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub at: u64,
    pub what: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Memory outside the function's stack frame is read.
    Load(Place),
    /// Memory outside the function's stack frame is written. `to` is `None` where the address
    /// isn't known: then only `offset`, the instruction's own displacement, is.
    Store {
        to: Option<Base>,
        offset: i64,
        width: u8,
        value: Value,
    },
    /// Two values are compared (`cmp`, or `test` of a value against itself: against 0).
    Compare { left: Value, right: Value },
    /// A function is called; the arguments are the six integer registers.
    Call {
        callee: Callee,
        arguments: Box<[Value; 6]>,
    },
    /// The function returns. A tail call is a call and then a return of its result.
    Return(Value),
}

/// What a function does, and what is known at each of its instructions.
pub struct Analysis {
    instructions: BTreeMap<u64, (Instruction, State)>,
    targets: BTreeSet<u64>,
    observations: Vec<Observation>,
}

/// Functions that don't come back, told by their names.
fn never_returns(name: &str) -> bool {
    const MARKS: [&str; 9] = [
        "8tt_throw",
        "_Unwind_Resume",
        "__cxa_throw",
        "__cxa_rethrow",
        "9terminatev",
        "__throw_",
        "__clang_call_terminate",
        "__stack_chk_fail",
        "abort",
    ];
    MARKS.iter().any(|mark| name.contains(mark))
}

impl Analysis {
    /// Interprets a function until nothing new is learnt.
    pub fn of(image: &Image<'_>, function: &Function<'_>) -> Self {
        let mut interpreter = Interpreter {
            image,
            function,
            info: InstructionInfoFactory::new(),
        };
        let mut analysis = Self {
            instructions: BTreeMap::new(),
            targets: BTreeSet::new(),
            observations: Vec::new(),
        };
        let mut work = vec![(function.address, State::entry())];
        while let Some((address, state)) = work.pop() {
            let state = match analysis.instructions.get(&address) {
                Some((_, known)) => match known.join(&state) {
                    Some(joined) => joined,
                    None => continue,
                },
                None => state,
            };
            let Some(instruction) = interpreter.decode(address) else {
                continue;
            };
            let step = interpreter.step(&instruction, &state);
            analysis.instructions.insert(address, (instruction, state));
            analysis.targets.extend(&step.jumps);
            work.extend(step.next.into_iter().map(|next| (next, step.after.clone())));
        }
        for (address, (instruction, state)) in &analysis.instructions {
            let actions = interpreter.step(instruction, state).actions;
            analysis.observations.extend(
                actions
                    .into_iter()
                    .map(|what| Observation { at: *address, what }),
            );
        }
        analysis
    }

    /// What the function does, in the order of its code.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// What is known before the instruction at an address.
    pub fn before(&self, address: u64) -> Option<&State> {
        self.instructions.get(&address).map(|(_, state)| state)
    }

    /// The reached instructions from an address on, in the order of the code.
    pub fn instructions_from(&self, address: u64) -> impl Iterator<Item = &Instruction> {
        self.instructions
            .range(address..)
            .map(|(_, (instruction, _))| instruction)
    }

    /// Whether some branch of the function leads to an address.
    pub fn is_branch_target(&self, address: u64) -> bool {
        self.targets.contains(&address)
    }
}

struct Interpreter<'a> {
    image: &'a Image<'a>,
    function: &'a Function<'a>,
    info: InstructionInfoFactory,
}

/// What one instruction does.
struct Step {
    after: State,
    /// Where execution may go on within the function.
    next: Vec<u64>,
    /// Those of `next` that are reached by a jump.
    jumps: Vec<u64>,
    actions: Vec<Action>,
}

impl Interpreter<'_> {
    fn decode(&self, address: u64) -> Option<Instruction> {
        let code = self
            .function
            .code
            .get(usize::try_from(address.checked_sub(self.function.address)?).ok()?..)?;
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE)
            .iter()
            .next()?;
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn within(&self, address: u64) -> bool {
        address
            .checked_sub(self.function.address)
            .is_some_and(|at| at < self.function.code.len() as u64)
    }

    fn step(&mut self, instruction: &Instruction, before: &State) -> Step {
        let mut step = Step {
            after: before.clone(),
            next: Vec::new(),
            jumps: Vec::new(),
            actions: Vec::new(),
        };
        match instruction.flow_control() {
            FlowControl::Next => {
                self.compute(instruction, before, &mut step);
                step.next.push(instruction.next_ip());
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                let comes_back = self.call(instruction, before, &mut step);
                if comes_back {
                    step.after.called(instruction.ip());
                    step.next.push(instruction.next_ip());
                }
            }
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.within(target) {
                    step.next.push(target);
                    step.jumps.push(target);
                } else {
                    self.tail_call(instruction, before, &mut step);
                }
                if instruction.flow_control() == FlowControl::ConditionalBranch {
                    step.next.push(instruction.next_ip());
                }
            }
            // A jump through a table, or a tail call through a pointer.
            FlowControl::IndirectBranch => self.tail_call(instruction, before, &mut step),
            FlowControl::Return => step
                .actions
                .push(Action::Return(before.get(register::RAX).clone())),
            _ => {}
        }
        step
    }

    fn tail_call(&self, instruction: &Instruction, before: &State, step: &mut Step) {
        if self.call(instruction, before, step) {
            step.actions
                .push(Action::Return(Value::symbolic(Base::Result(
                    instruction.ip(),
                ))));
        }
    }

    /// Notes a call; `false` if it doesn't come back.
    fn call(&self, instruction: &Instruction, before: &State, step: &mut Step) -> bool {
        let callee = match instruction.op0_kind() {
            OpKind::NearBranch64 => self
                .image
                .callee(instruction.near_branch_target())
                .map(str::to_owned),
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
                self.pointee_name(instruction.ip_rel_memory_address())
            }
            _ => None,
        };
        let callee = match callee {
            Some(name) => Callee::Named(name),
            None => Self::virtual_callee(instruction, before).unwrap_or(Callee::Unknown),
        };
        let returns = !matches!(&callee, Callee::Named(name) if never_returns(name));
        let arguments = Box::new(ARGUMENTS.map(|register| before.get(register).clone()));
        step.actions.push(Action::Call { callee, arguments });
        returns
    }

    fn pointee_name(&self, address: u64) -> Option<String> {
        match self.image.pointee(address)? {
            Pointee::Symbol(name) => Some(name.to_owned()),
            Pointee::Address(address) => self.image.callee(address).map(str::to_owned),
        }
    }

    /// `call [vtable + slot]`, where the vtable was read from the start of an object; or the same
    /// by way of a register.
    fn virtual_callee(instruction: &Instruction, before: &State) -> Option<Callee> {
        let slot = match instruction.op0_kind() {
            OpKind::Memory => {
                let address = before.address(instruction)?;
                before.load(&address, 8)
            }
            OpKind::Register => before.operand(instruction, 0),
            _ => return None,
        };
        let slot = slot.place()?.clone();
        let Base::Loaded(vtable) = slot.base else {
            return None;
        };
        if vtable.offset != 0 && !matches!(vtable.base, Base::Argument(_)) {
            return None;
        }
        let object = Value::Symbolic {
            base: vtable.base.clone(),
            offset: vtable.offset,
        };
        Some(Callee::Virtual {
            object,
            slot: slot.offset,
        })
    }

    /// Any instruction that just computes.
    fn compute(&mut self, instruction: &Instruction, before: &State, step: &mut Step) {
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
            step.actions.push(Action::Load(Place {
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
                let right = if same {
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

    /// What the first operand becomes.
    fn result(&self, instruction: &Instruction, before: &State, address: Option<&Value>) -> Value {
        let first = || before.operand(instruction, 0);
        let second = || before.operand(instruction, 1);
        match instruction.mnemonic() {
            // A variable's address, from the global offset table.
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
            // A variable of the library's own.
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
            let value = match &result {
                // Writing a part of a register leaves the rest: only wider parts count as known.
                Some((to, value)) if number(*to) == Some(register) && to.size() >= 4 => {
                    value.clone()
                }
                _ => Value::Unknown,
            };
            step.after.set(register, value);
        }
        if let Some((register, value)) = exchanged {
            step.after.set(register, value);
        }
    }

    /// `xadd [counter], register`: the register becomes what the library's variable was.
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

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
    )
}
