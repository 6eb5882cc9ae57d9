//! Which of ttnn's operations made a program, told from the functions on the stack of its layout.
//!
//! Each operation that has programs is a function of the namespace `ttnn::prim`, whatever a person
//! called: `ttnn::add` comes to `ttnn::prim::binary_ng`. So it is in 0.66.0, 0.77.0 and 0.81.1.

use crate::{
    cpp_name::qualified,
    stack::{FrameKind, Stack},
};

/// The operation's name, such as `matmul`: that of the innermost frame that is one.
pub fn operation(stack: &Stack) -> Option<String> {
    let native = stack
        .frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Native);
    let mut names = native.filter_map(|frame| {
        let name = qualified(frame.function.as_deref()?);
        let name = name.strip_prefix("ttnn::prim::")?;
        (!name.contains("::")).then(|| name.to_owned())
    });
    names.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::Frame;

    fn of(functions: &[&str]) -> Option<String> {
        operation(&Stack {
            frames: functions
                .iter()
                .map(|function| Frame {
                    kind: FrameKind::Native,
                    function: Some((*function).to_owned()),
                    file: None,
                    line: None,
                    module: None,
                    offset: None,
                })
                .collect(),
            broken: None,
        })
    }

    #[test]
    fn an_operation_is_the_innermost_function_of_ttnn_prim() {
        let frames = [
            "tt::tt_metal::detail::ProgramImpl::compile_and_allocate(tt::tt_metal::IDevice*, bool)",
            "ttnn::prim::Factory::create(ttnn::prim::MatmulParams const&)",
            "ttnn::device_operation::detail::launch<…>",
            "ttnn::prim::binary_ng(ttnn::Tensor const&, ttnn::Tensor const&)",
            "ttnn::prim::outer(ttnn::Tensor const&)",
            "ttnn::add(ttnn::Tensor const&, ttnn::Tensor const&)",
        ];
        assert_eq!(of(&frames).as_deref(), Some("binary_ng"));
    }

    #[test]
    fn a_program_that_ttnn_did_not_make_has_none() {
        assert_eq!(
            of(&["main", "tt::tt_metal::detail::ProgramImpl::compile()"]),
            None
        );
        assert_eq!(of(&[]), None);
    }
}
