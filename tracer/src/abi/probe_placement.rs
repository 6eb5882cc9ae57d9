//! Selects the instruction to probe: one that is cheap to probe and at which the object is at hand, which
//! means that a register or a stack slot holds a pointer to it.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::{
    AbiError,
    deriver::Deriver,
    interpreter::{Action, Callee, RegisterNumber, State, Value},
    listing,
    method::Method,
    names,
    point::{Cost, Holder, Point, PointKind},
};

/// The point at a function's entry where `register` holds the wanted argument.
///
/// # Errors
/// When the argument isn't at hand before the code branches.
pub(super) fn at_entry(
    deriver: &Deriver<'_>,
    kind: PointKind,
    method: &Method<'_>,
    register: RegisterNumber,
) -> Result<Point, AbiError> {
    let start = method.function.address;
    let wanted = Value::argument(register);
    place(deriver, kind, method, start, &wanted, Vec::new())
}

/// Checks that one function calls another.
///
/// # Errors
/// When it doesn't.
pub(super) fn require_call(
    caller: &Method<'_>,
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
            "{} doesn't call it, so it was probably inlined (by link-time optimisation?)",
            names::short(caller.function.symbol)
        ),
        code: listing::function(&caller.function),
    })
}

/// The first instruction from `start` on that is cheap to probe and at which `wanted` is at hand. If there
/// is none before the code branches, the first instruction at which `wanted` is at hand.
///
/// # Errors
/// When `wanted` isn't at hand before the code branches.
pub(super) fn place(
    deriver: &Deriver<'_>,
    kind: PointKind,
    method: &Method<'_>,
    start: u64,
    wanted: &Value,
    derefs: Vec<i64>,
) -> Result<Point, AbiError> {
    let mut fallback = None;
    let mut chosen = None;
    for instruction in method.analysis.instructions_from(start) {
        if instruction.ip() != start && method.analysis.is_branch_target(instruction.ip()) {
            break;
        }
        let holder = method
            .analysis
            .before(instruction.ip())
            .and_then(|state| holder(state, wanted));
        // The kernel would single-step `endbr64`, which must stay first for indirect branch tracking.
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
    let function = &method.function;
    let refuse = |reason: &str| AbiError::NoProbePoint {
        function: names::short(function.symbol),
        reason: reason.into(),
        code: listing::function(function),
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
            instruction.op0_kind() == OpKind::NearBranch64 && instruction.len() <= 5
        }
        _ => {
            instruction.flow_control() == FlowControl::ConditionalBranch
                && instruction.is_jcc_short_or_near()
        }
    }
}
