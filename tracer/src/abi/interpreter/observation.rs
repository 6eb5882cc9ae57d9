//! What a function does, as the interpreter notes it.

use super::value::{Base, MemoryLocation, Value};

/// The target of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Callee {
    /// A function, by its mangled name.
    Named(String),
    /// A virtual function: the object, and the offset of the function's slot in the object's vtable.
    Virtual {
        object: Value,
        slot: i64,
    },
    Unknown,
}

/// An action of a function, with the address of the instruction that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub at: u64,
    pub what: Action,
}

/// One thing that a function does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The function reads memory outside its stack frame.
    Load(MemoryLocation),
    /// The function writes memory outside its stack frame. `to` is `None` where the address isn't
    /// known: `offset` is the instruction's own displacement then.
    Store {
        to: Option<Base>,
        offset: i64,
        width: u8,
        value: Value,
    },
    /// The function compares two values (`cmp`, or `test` of a value against itself: against 0).
    Compare { left: Value, right: Value },
    /// The function calls another one. The arguments are the six integer registers.
    Call {
        callee: Callee,
        arguments: Box<[Value; 6]>,
    },
    /// The function returns. A tail call is a call, and then a return of its result.
    Return(Value),
    /// A loop's second iteration begins, and a register that held a pointer read from memory has
    /// advanced by `by` bytes. Only [`Analysis::first_iteration`](super::Analysis::first_iteration)
    /// notes this.
    Advance { pointer: MemoryLocation, by: i64 },
}
