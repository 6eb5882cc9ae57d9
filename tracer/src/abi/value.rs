//! Symbolic values: what a register or a stack slot holds, in terms of the function's arguments.

use std::{fmt, rc::Rc};

use super::field::FieldPath;

/// A general register, by its number in machine code (`tracer_common::register`).
pub type RegisterNumber = u32;

/// Where a symbolic value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// What the register held when the function was entered.
    Argument(RegisterNumber),
    /// The argument passed on the stack at this offset from the stack pointer at entry (8 is the
    /// first, behind the return address).
    StackArgument(i64),
    /// The stack pointer at entry.
    Stack,
    /// What the call at this address returned.
    Result(u64),
    /// The address of the variable of this name.
    Symbol(String),
    /// What stood in the variable of this name before an atomic addition.
    Counter(String),
    /// What was read from memory.
    Loaded(Rc<Place>),
}

/// Memory that was read: `width` bytes at `base + offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub base: Base,
    pub offset: i64,
    pub width: u8,
}

/// What a register or a stack slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Unknown,
    Constant(i64),
    Symbolic { base: Base, offset: i64 },
}

impl Value {
    pub fn symbolic(base: Base) -> Self {
        Self::Symbolic { base, offset: 0 }
    }

    pub fn argument(register: RegisterNumber) -> Self {
        Self::symbolic(Base::Argument(register))
    }

    /// This value plus a constant.
    pub fn plus(&self, addend: i64) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Constant(value) => Self::Constant(value.wrapping_add(addend)),
            Self::Symbolic { base, offset } => Self::Symbolic {
                base: base.clone(),
                offset: offset.wrapping_add(addend),
            },
        }
    }

    /// What is known when either of two paths may have led here.
    pub fn join(&self, other: &Self) -> Self {
        if self == other {
            self.clone()
        } else {
            Self::Unknown
        }
    }

    /// The memory that this value was read from, if it was and nothing was added.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Symbolic {
                base: Base::Loaded(place),
                offset: 0,
            } => Some(place),
            _ => None,
        }
    }
}

impl Place {
    /// The path from what `root` points to, if this memory is reached from there by pointers only.
    pub fn path_from(&self, root: &Base) -> Option<FieldPath> {
        if self.base == *root {
            return Some(FieldPath {
                derefs: Vec::new(),
                offset: self.offset,
                width: self.width,
            });
        }
        let Base::Loaded(pointer) = &self.base else {
            return None;
        };
        if pointer.width != 8 {
            return None;
        }
        let mut path = pointer.path_from(root)?;
        path.derefs.push(path.offset);
        path.offset = self.offset;
        path.width = self.width;
        Some(path)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(register) => write!(f, "arg{register}"),
            Self::StackArgument(offset) => write!(f, "stack-arg{offset:#x}"),
            Self::Stack => f.write_str("stack"),
            Self::Result(call) => write!(f, "result@{call:x}"),
            Self::Symbol(name) => write!(f, "&{name}"),
            Self::Counter(name) => write!(f, "counter {name}"),
            Self::Loaded(place) => write!(f, "[{}{:+#x}]{}", place.base, place.offset, place.width),
        }
    }
}
