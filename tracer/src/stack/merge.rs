//! Python frames and C++ frames in one list, as a person thinks of them.

use super::{Frame, Stack};

/// The function of CPython that executes Python code: each run of it stands for the frames of one
/// group (`Python/ceval.c`, 3.10 to 3.13).
const LOOP: &str = "_PyEval_EvalFrameDefault";

/// A frame of the native stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeFrame {
    pub frame: Frame,
    /// Whether it is code of the Python interpreter's own.
    pub of_interpreter: bool,
}

/// Puts the Python frames where the interpreter's loop runs them. The interpreter's own functions
/// between Python and C++ are left out.
///
/// `groups`: Python frames, innermost first, each group what one run of the loop executes. Groups that
/// no loop is found for stand behind all others.
pub fn merge(native: Vec<NativeFrame>, groups: &[Vec<Frame>], broken: Option<String>) -> Stack {
    let mut groups = groups.iter();
    let mut frames = Vec::new();
    for NativeFrame {
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
    use crate::stack::FrameKind;

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

    fn native(name: &str, of_interpreter: bool) -> NativeFrame {
        NativeFrame {
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
    fn each_run_of_the_loop_is_its_group_and_the_interpreters_own_functions_are_left_out() {
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
    fn python_frames_behind_a_broken_native_stack_are_kept() {
        let stack = merge(
            vec![native("f", false), native(LOOP, true)],
            &[python(&["a"]), python(&["b"])],
            Some("why".into()),
        );
        assert_eq!(names(&stack), ["f", "a", "b"]);
        assert_eq!(stack.broken.as_deref(), Some("why"));
    }

    #[test]
    fn without_native_frames_python_is_all() {
        let stack = merge(Vec::new(), &[python(&["a"]), python(&["b"])], None);
        assert_eq!(names(&stack), ["a", "b"]);
    }
}
