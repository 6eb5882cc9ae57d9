//! Stacks as a person reads them: Python frames and C++ frames in one list.

mod merge;

use serde::{Deserialize, Serialize};

pub use merge::{NativeFrame, merge};

/// A stack of one process; equal stacks have one id. What it stands for is a [`Stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StackId(pub u32);

/// Which language a frame is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    Python,
    Native,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frame {
    pub kind: FrameKind,
    /// A Python function's qualified name where its CPython has one, else its name; a demangled C++
    /// name. `None` where no symbol covers the address.
    pub function: Option<String>,
    /// The file of a Python function.
    pub file: Option<String>,
    /// The line of the call in it.
    pub line: Option<u32>,
    /// The path of the file that the code of a native frame lies in.
    pub module: Option<String>,
    /// Where in it, as a virtual address of the file: of the call's return address, or, of the
    /// innermost frame, of the instruction itself.
    pub offset: Option<u64>,
}

/// A call stack, the innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stack {
    pub frames: Vec<Frame>,
    /// Why frames are missing behind the last one; `None` where the stack is whole.
    pub broken: Option<String>,
}
