//! The ttnn operation that made a program, derived from the functions on the stack of the program's layout.
//!
//! Each operation that has programs is a function in the namespace `ttnn::prim`, whatever function the user
//! called: `ttnn::add` calls `ttnn::prim::binary_ng`. This holds for 0.66.0, 0.77.0 and 0.81.1.

use crate::{
    cpp_name::qualified,
    frame::{FrameKind, Stack},
};

/// The name of the innermost operation on the stack, such as `matmul`.
pub(crate) fn operation(stack: &Stack) -> Option<String> {
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
    use crate::frame::Frame;

    fn operation_of(functions: &[&str]) -> Option<String> {
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
        assert_eq!(operation_of(&frames).as_deref(), Some("binary_ng"));
    }

    #[test]
    fn a_program_that_no_ttnn_operation_made_has_no_operation() {
        assert_eq!(
            operation_of(&["main", "tt::tt_metal::detail::ProgramImpl::compile()"]),
            None
        );
        assert_eq!(operation_of(&[]), None);
    }
}
