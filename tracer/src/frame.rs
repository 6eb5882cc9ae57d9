//! Call stacks as a person reads them: Python frames and C++ frames in one list.

use serde::{Deserialize, Serialize};

/// A stack of one process; equal stacks of a process have the same id. The frames are in a [`Stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StackId(pub u32);

/// The language of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FrameKind {
    Python,
    Native,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Frame {
    pub kind: FrameKind,
    /// Of a Python function, the qualified name (CPython 3.11 and newer) or the name (3.10). Of a C++
    /// function, the demangled name. `None` where no symbol covers the address.
    pub function: Option<String>,
    /// The file of a Python function.
    pub file: Option<String>,
    /// The line of the call in this file.
    pub line: Option<u32>,
    /// The path of the executable or library that holds the code of a native frame.
    pub module: Option<String>,
    /// A virtual address of the module: of the innermost frame the instruction, of the other frames the
    /// return address.
    pub offset: Option<u64>,
}

/// A call stack, the innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Stack {
    pub frames: Vec<Frame>,
    /// Why frames are missing after the last one; `None` where the stack is complete.
    pub broken: Option<String>,
}

impl Frame {
    /// A Python frame of which nothing else is known.
    pub(crate) fn unknown_python() -> Self {
        Self {
            kind: FrameKind::Python,
            function: None,
            file: None,
            line: None,
            module: None,
            offset: None,
        }
    }
}
