//! The target of a call, as far as it is known.

use iced_x86::{Instruction, OpKind};

use super::{
    observation::Callee,
    state::State,
    value::{Base, Value},
};
use crate::abi::image::{Image, Pointee};

/// Whether the function of that mangled name never returns.
pub(crate) fn never_returns(name: &str) -> bool {
    const PARTS: [&str; 9] = [
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
    PARTS.iter().any(|part| name.contains(part))
}

/// The function that a call or a tail call reaches.
pub(super) fn callee(image: &Image<'_>, instruction: &Instruction, before: &State) -> Callee {
    let named = match instruction.op0_kind() {
        OpKind::NearBranch64 => image.callee(instruction.near_branch_target()),
        OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
            match image.pointee(instruction.ip_rel_memory_address()) {
                Some(Pointee::Symbol(name)) => Some(name),
                Some(Pointee::Address(address)) => image.callee(address),
                None => None,
            }
        }
        _ => None,
    };
    match named {
        Some(name) => Callee::Named(name.to_owned()),
        None => virtual_callee(instruction, before).unwrap_or(Callee::Unknown),
    }
}

/// `call [vtable + slot]` or the same through a register, where the vtable pointer was read from the
/// start of an object.
fn virtual_callee(instruction: &Instruction, before: &State) -> Option<Callee> {
    let slot = match instruction.op0_kind() {
        OpKind::Memory => {
            let address = before.address(instruction)?;
            before.load(&address, 8)
        }
        OpKind::Register => before.operand(instruction, 0),
        _ => return None,
    };
    let slot = slot.loaded_from()?.clone();
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
