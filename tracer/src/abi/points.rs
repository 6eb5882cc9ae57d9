//! Where probes go: instructions that are cheap to probe and at which the object is at hand.

use std::fmt;

use iced_x86::{FlowControl, Instruction, Mnemonic};
use serde::Serialize;
use tracer_common::register;

use super::{
    AbiError,
    derive::{ALLOCATORS, Deriver},
    fields::Fields,
    free_list,
    interpreter::{Action, Callee},
    listing, names,
    state::State,
    value::{RegisterNumber, Value},
    witness::{Testimony, hidden_result},
};

/// What a hit of a probe point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// An owning buffer has its address (or a hook took the allocator's place).
    Allocate,
    /// An owning buffer's memory goes back to the allocator.
    Deallocate,
    /// A non-owning buffer is complete.
    Create,
    /// A buffer ends.
    Destroy,
    /// An allocator frees all that it gave.
    BulkFree,
    /// A program's circular buffers, dataflow buffers and scratchpads have their places in L1.
    LaidOut,
    /// A program is on its way to the device.
    Dispatched,
    /// A program ends.
    ProgramEnd,
    /// An allocator takes a block of its banks for a buffer. Not every library tells.
    Block,
}

impl PointKind {
    /// Those about buffers. Probes that tell of ends come before those that tell of births, in the order in which
    /// probes are put on: so that nothing is seen to be born whose end then goes unseen.
    pub const ATTACH_ORDER: [Self; 6] = [
        Self::BulkFree,
        Self::Destroy,
        Self::Deallocate,
        Self::Create,
        Self::Block,
        Self::Allocate,
    ];

    /// Those about programs, likewise.
    pub const OF_PROGRAMS: [Self; 3] = [Self::ProgramEnd, Self::LaidOut, Self::Dispatched];
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allocate => "allocate",
            Self::Deallocate => "deallocate",
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::BulkFree => "bulk free",
            Self::LaidOut => "laid out",
            Self::Dispatched => "dispatched",
            Self::ProgramEnd => "program end",
            Self::Block => "block",
        })
    }
}

/// What the kernel does with the probed instruction, which is most of what a hit costs. Measured on
/// Linux 6.18; `arch/x86/kernel/uprobes.c` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Emulated in place: 0.1 to 0.2 µs.
    Emulated,
    /// Executed out of line under single-step: about 2.4 µs.
    SingleStepped,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulated => "emulated, about 0.2 µs a hit",
            Self::SingleStepped => "single-stepped, about 2.4 µs a hit",
        })
    }
}

/// Where, at a probe point, the pointer stands from which the object is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Register(RegisterNumber),
    /// On the stack, this many bytes above the stack pointer.
    Stack(i64),
}

/// One place for a probe.
#[derive(Clone, Debug)]
pub struct Point {
    pub kind: PointKind,
    /// The function, demangled and short.
    pub function: String,
    /// The virtual address of the probed instruction.
    pub address: u64,
    /// Where the instruction lies in the library's file.
    pub file_offset: u64,
    /// How far into the function it is, in bytes.
    pub into: u64,
    pub instruction: String,
    pub cost: Cost,
    pub holder: Holder,
    /// Pointers to follow from what the holder holds to the object.
    pub derefs: Vec<i64>,
    /// The register that holds the device, where that isn't reached from the object.
    pub device: Option<RegisterNumber>,
}

/// The class of programs.
pub const PROGRAM: &str = "detail::ProgramImpl";

/// Finds the places for all probes.
///
/// # Errors
/// When a function is missing, or has no place where the object is at hand.
pub fn find(deriver: &Deriver<'_>, fields: &Fields) -> Result<Vec<Point>, AbiError> {
    called(deriver)?;
    let missing = |name: &str| AbiError::MissingSymbols {
        names: vec![format!("tt::tt_metal::{name}")],
    };
    let entry = |kind, testimony: Option<Testimony<'_>>, name, register| {
        let testimony = testimony.ok_or_else(|| missing(name))?;
        at_entry(deriver, kind, &testimony, register)
    };
    // Without it a library can be traced all the same.
    let block = free_list::block_point(deriver);
    PointKind::ATTACH_ORDER
        .into_iter()
        .filter(|kind| *kind != PointKind::Block || block.is_some())
        .map(|kind| match kind {
            PointKind::Block => block
                .clone()
                .ok_or_else(|| missing("allocator::FreeListOpt::allocate_in_block")),
            PointKind::Allocate => {
                let function = deriver.method("GraphTracker", "track_allocate");
                entry(
                    kind,
                    function,
                    "GraphTracker::track_allocate(Buffer const*)",
                    register::RSI,
                )
            }
            PointKind::Deallocate => {
                let function = deriver.allocator_method("deallocate_buffer");
                entry(
                    kind,
                    function,
                    "AllocatorImpl::deallocate_buffer(Buffer*)",
                    register::RSI,
                )
            }
            PointKind::Destroy => entry(
                kind,
                deriver.destructor(),
                "Buffer::~Buffer()",
                register::RDI,
            ),
            PointKind::BulkFree => {
                let function = deriver.allocator_method("deallocate_buffers");
                entry(
                    kind,
                    function,
                    "AllocatorImpl::deallocate_buffers()",
                    register::RDI,
                )
            }
            PointKind::Create => created(deriver, fields),
            // None of `ATTACH_ORDER`.
            PointKind::LaidOut | PointKind::Dispatched | PointKind::ProgramEnd => {
                Err(missing(&kind.to_string()))
            }
        })
        .collect()
}

/// Finds the places for the probes that tell of programs.
///
/// # Errors
/// Like [`find`].
pub fn of_programs(deriver: &Deriver<'_>) -> Result<Vec<Point>, AbiError> {
    // What is called last once a program is laid out: to see whether it fits.
    let validates = [
        "validate_dataflow_buffer_region",
        "validate_circular_buffer_region",
    ];
    let laid_out = validates
        .iter()
        .find_map(|name| Some((deriver.method(PROGRAM, name)?, *name)))
        .ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{PROGRAM}::{}", validates[1])],
        })?;
    // From 0.76 on there is one function that does all of it.
    if let Some(caller) = deriver.method(PROGRAM, "compile_and_allocate") {
        calls(&caller, laid_out.1, &|symbol| {
            names::is_method(symbol, &[PROGRAM], laid_out.1)
        })?;
    }
    let (namespace, update) = ("program_dispatch", "update_program_dispatch_commands");
    let dispatched = deriver.required(namespace, update)?;
    let end = names::destructor(deriver.image, PROGRAM)
        .map(|function| deriver.testimony(function, Vec::new()))
        .ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{PROGRAM}::~ProgramImpl()")],
        })?;
    let at_entry = |kind, testimony: &Testimony<'_>| {
        let start = testimony.function.address;
        let program = Value::argument(register::RDI);
        place(deriver, kind, testimony, start, &program, Vec::new())
    };
    PointKind::OF_PROGRAMS
        .into_iter()
        .map(|kind| match kind {
            PointKind::LaidOut => {
                let point = at_entry(kind, &laid_out.0)?;
                let state = laid_out.0.analysis.before(point.address);
                let device = state
                    .and_then(|state| state.register_with(&Value::argument(register::RSI)))
                    .ok_or_else(|| AbiError::NoProbePoint {
                        function: point.function.clone(),
                        reason: "the device isn't at hand".into(),
                        code: listing::of(&laid_out.0.function),
                    })?;
                Ok(Point {
                    device: Some(device),
                    ..point
                })
            }
            PointKind::Dispatched => at_entry(kind, &dispatched),
            _ => at_entry(kind, &end),
        })
        .collect()
}

/// At the entry of a function whose argument in `register` is wanted.
///
/// # Errors
/// When it isn't at hand there.
pub fn at_entry(
    deriver: &Deriver<'_>,
    kind: PointKind,
    testimony: &Testimony<'_>,
    register: RegisterNumber,
) -> Result<Point, AbiError> {
    let start = testimony.function.address;
    let wanted = Value::argument(register);
    place(deriver, kind, testimony, start, &wanted, Vec::new())
}

/// Checks that functions which must call a probed one do: optimising at link time may have put its
/// code in their place, and then a probe at its own would see nothing.
///
/// # Errors
/// When one of them doesn't call it.
fn called(deriver: &Deriver<'_>) -> Result<(), AbiError> {
    if let Some(allocate) = deriver.holder("allocate_impl") {
        calls(&allocate, "GraphTracker::track_allocate", &|symbol| {
            names::is_method(symbol, &["GraphTracker"], "track_allocate")
        })?;
    }
    if let Some(deallocate) = deriver.holder("deallocate_impl") {
        calls(&deallocate, "AllocatorImpl::deallocate_buffer", &|symbol| {
            names::is_method(symbol, &ALLOCATORS, "deallocate_buffer")
        })?;
    }
    for dispose in deriver.disposers() {
        calls(&dispose, "Buffer::~Buffer", &|symbol| {
            names::is_destructor(symbol, "Buffer")
        })?;
    }
    Ok(())
}

/// Checks that one function calls another.
fn calls(
    caller: &Testimony<'_>,
    callee: &str,
    is_callee: &dyn Fn(&str) -> bool,
) -> Result<(), AbiError> {
    let calls = caller.analysis.observations().iter().any(|seen| {
        matches!(
            &seen.what,
            Action::Call { callee: Callee::Named(name), .. } if is_callee(name)
        )
    });
    if calls {
        return Ok(());
    }
    Err(AbiError::NoProbePoint {
        function: callee.into(),
        reason: format!(
            "{} doesn't call it, so its code was copied to where it is used (by link-time \
             optimisation?)",
            names::short(caller.function.symbol)
        ),
        code: listing::of(&caller.function),
    })
}

/// Inside the `create` that makes non-owning buffers, behind the instruction that gives the buffer
/// its address: there it is complete, and the `shared_ptr` that is about to be returned leads to it.
fn created(deriver: &Deriver<'_>, fields: &Fields) -> Result<Point, AbiError> {
    let create = deriver.create()?;
    let stored = create.store_at(fields.address.path.offset, &names::argument(2));
    let after = stored
        .and_then(|at| create.analysis.instructions_from(at).nth(1))
        .map(Instruction::ip);
    let Some(after) = after else {
        return Err(AbiError::NoProbePoint {
            function: names::short(create.function.symbol),
            reason: "the instruction that gives a buffer its address wasn't found".into(),
            code: listing::of(&create.function),
        });
    };
    place(
        deriver,
        PointKind::Create,
        &create,
        after,
        &hidden_result(),
        vec![0],
    )
}

/// The first cheap instruction from `start` on at which `wanted` is at hand; where there is none
/// before the code branches, the first instruction.
fn place(
    deriver: &Deriver<'_>,
    kind: PointKind,
    testimony: &Testimony<'_>,
    start: u64,
    wanted: &Value,
    derefs: Vec<i64>,
) -> Result<Point, AbiError> {
    let mut fallback = None;
    let mut chosen = None;
    for instruction in testimony.analysis.instructions_from(start) {
        if instruction.ip() != start && testimony.analysis.is_branch_target(instruction.ip()) {
            break;
        }
        let holder = testimony
            .analysis
            .before(instruction.ip())
            .and_then(|state| holder(state, wanted));
        // The kernel would single-step it, and it must stay first for indirect branch tracking.
        if instruction.mnemonic() != Mnemonic::Endbr64
            && let Some(holder) = holder
        {
            let found = (*instruction, holder);
            if is_emulated(instruction) {
                chosen = Some(found);
                break;
            }
            fallback.get_or_insert(found);
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    let function = &testimony.function;
    let refuse = |reason: &str| AbiError::NoProbePoint {
        function: names::short(function.symbol),
        reason: reason.into(),
        code: listing::of(function),
    };
    let (instruction, holder) = chosen
        .or(fallback)
        .ok_or_else(|| refuse("the object isn't at hand before the code branches"))?;
    let address = instruction.ip();
    Ok(Point {
        kind,
        function: names::short(function.symbol),
        address,
        file_offset: deriver
            .image
            .file_offset(address)
            .ok_or_else(|| refuse("its code isn't in the file"))?,
        into: address - function.address,
        instruction: listing::instruction(&instruction),
        cost: if is_emulated(&instruction) {
            Cost::Emulated
        } else {
            Cost::SingleStepped
        },
        holder,
        derefs,
        device: None,
    })
}

fn holder(state: &State, wanted: &Value) -> Option<Holder> {
    state
        .register_with(wanted)
        .map(Holder::Register)
        .or_else(|| state.slot_with(wanted).map(Holder::Stack))
}

/// Whether the kernel emulates an instruction under a uprobe (`push_setup_xol_ops` and
/// `branch_setup_xol_ops` in `arch/x86/kernel/uprobes.c`): `push` of a register, a nop, a direct
/// jump or call without an operand-size prefix.
fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => instruction.op0_register().is_gpr64() && instruction.len() <= 2,
        Mnemonic::Nop => true,
        Mnemonic::Call | Mnemonic::Jmp => {
            instruction.op0_kind() == iced_x86::OpKind::NearBranch64 && instruction.len() <= 5
        }
        _ => {
            instruction.flow_control() == FlowControl::ConditionalBranch
                && instruction.is_jcc_short_or_near()
        }
    }
}
