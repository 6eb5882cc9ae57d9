//! Merges Python frames and C++ frames into one list.

use crate::frame::{Frame, Stack};

/// The function of CPython that executes Python code: each run of it executes the frames of one group
/// (`Python/ceval.c`, 3.10 to 3.13).
const LOOP: &str = "_PyEval_EvalFrameDefault";

/// A frame of the native stack, with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedNativeFrame {
    pub frame: Frame,
    /// Whether its code belongs to the Python interpreter.
    pub of_interpreter: bool,
}

/// Puts the Python frames in the place of the interpreter's loop that executes them. The interpreter's other
/// functions are left out.
///
/// `groups`: Python frames, innermost first. One run of the loop executes one group. Groups without a loop in
/// `native` come last.
pub(super) fn merge(
    native: Vec<NamedNativeFrame>,
    groups: &[Vec<Frame>],
    broken: Option<String>,
) -> Stack {
    let mut groups = groups.iter();
    let mut frames = Vec::new();
    for NamedNativeFrame {
        frame,
        of_interpreter,
    } in native
    {
        let is_loop = of_interpreter
            && frame
                .function
                .as_deref()
                .is_some_and(|name| name == LOOP || name.starts_with("_PyEval_EvalFrameDefault."));
        if is_loop {
            frames.extend(groups.next().into_iter().flatten().cloned());
        } else if !of_interpreter {
            frames.push(frame);
        }
    }
    frames.extend(groups.flatten().cloned());
    Stack { frames, broken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;

    fn frame(kind: FrameKind, name: &str) -> Frame {
        Frame {
            kind,
            function: Some(name.into()),
            file: None,
            line: None,
            module: None,
            offset: None,
        }
    }

    fn native(name: &str, of_interpreter: bool) -> NamedNativeFrame {
        NamedNativeFrame {
            frame: frame(FrameKind::Native, name),
            of_interpreter,
        }
    }

    fn python(names: &[&str]) -> Vec<Frame> {
        names
            .iter()
            .map(|name| frame(FrameKind::Python, name))
            .collect()
    }

    fn names(stack: &Stack) -> Vec<&str> {
        stack
            .frames
            .iter()
            .filter_map(|frame| frame.function.as_deref())
            .collect()
    }

    #[test]
    fn groups_take_the_place_of_the_loop_and_other_functions_of_the_interpreter_are_left_out() {
        let stack = merge(
            vec![
                native("Buffer::create", false),
                native("nb_func_vectorcall", false),
                native("_PyObject_Vectorcall", true),
                native(LOOP, true),
                native("call_back", false),
                native("_PyEval_EvalFrameDefault.cold", true),
                native("Py_RunMain", true),
                native("main", true),
                native("__libc_start_main", false),
            ],
            &[python(&["inner", "outer"]), python(&["<module>"])],
            None,
        );
        assert_eq!(
            names(&stack),
            [
                "Buffer::create",
                "nb_func_vectorcall",
                "inner",
                "outer",
                "call_back",
                "<module>",
                "__libc_start_main"
            ]
        );
    }

    #[test]
    fn python_frames_after_a_broken_native_stack_are_kept() {
        let stack = merge(
            vec![native("f", false), native(LOOP, true)],
            &[python(&["a"]), python(&["b"])],
            Some("why".into()),
        );
        assert_eq!(names(&stack), ["f", "a", "b"]);
        assert_eq!(stack.broken.as_deref(), Some("why"));
    }

    #[test]
    fn without_native_frames_the_stack_is_the_python_frames() {
        let stack = merge(Vec::new(), &[python(&["a"]), python(&["b"])], None);
        assert_eq!(names(&stack), ["a", "b"]);
    }
}
