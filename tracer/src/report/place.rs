//! A stack in a few words: the one line of code that a person looks for.

use crate::{
    cpp_name::qualified,
    stack::{Frame, FrameKind, Stack},
};

/// The innermost line of Python that isn't ttnn's; else the innermost function that is neither
/// ttnn's nor TT-Metal's; else the innermost one that has a name; else why there is none.
pub fn place(stack: &Stack) -> String {
    let of_kind = |kind| stack.frames.iter().filter(move |frame| frame.kind == kind);
    let python = of_kind(FrameKind::Python).find(|frame| !is_ttnns_python(frame));
    let native = || of_kind(FrameKind::Native).find(|frame| !is_ttnns_code(frame));
    let named = || stack.frames.iter().find(|frame| frame.function.is_some());
    if let Some(frame) = python.or_else(native).or_else(named) {
        return words(frame);
    }
    match &stack.broken {
        Some(why) => format!("stack unknown: {why}"),
        None => "stack unknown".to_owned(),
    }
}

/// Of the package: as `pip` installs it, or in a source tree (`ttnn/ttnn`).
fn is_ttnns_python(frame: &Frame) -> bool {
    let file = frame.file.as_deref().unwrap_or_default();
    [
        "/site-packages/ttnn/",
        "/dist-packages/ttnn/",
        "/ttnn/ttnn/",
    ]
    .iter()
    .any(|directory| file.contains(directory))
}

/// Of the wheel's libraries, and of what is between them and a person's own code.
fn is_ttnns_code(frame: &Frame) -> bool {
    let file = frame.module.as_deref().map(file_name).unwrap_or_default();
    [
        "libtt_metal.",
        "libtt_stl.",
        "libtt-umd.",
        "libtracy.",
        "_ttnn.",
        "_ttnncpp.",
        "libstdc++.",
        "libc.",
        "libc++.",
    ]
    .iter()
    .any(|library| file.starts_with(library))
}

/// `model.py:25 in Attention.forward`, `Trainer::step (trainer)`, `0x1234 (trainer)`.
fn words(frame: &Frame) -> String {
    match frame.kind {
        FrameKind::Python => {
            let file = frame.file.as_deref().map_or("?", file_name);
            let line = frame
                .line
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            match &frame.function {
                Some(function) => format!("{file}{line} in {function}"),
                None => format!("{file}{line}"),
            }
        }
        FrameKind::Native => {
            let function = match (&frame.function, frame.offset) {
                (Some(function), _) => last_parts(&qualified(function)),
                (None, Some(offset)) => format!("{offset:#x}"),
                (None, None) => "?".to_owned(),
            };
            match frame.module.as_deref().map(file_name) {
                Some(module) => format!("{function} ({module})"),
                None => function,
            }
        }
    }
}

/// A function with the class or the namespace that it is in.
fn last_parts(qualified: &str) -> String {
    let parts: Vec<&str> = qualified.split("::").collect();
    parts[parts.len().saturating_sub(2)..].join("::")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(function: &str, file: &str, line: u32) -> Frame {
        Frame {
            kind: FrameKind::Python,
            function: Some(function.to_owned()),
            file: Some(file.to_owned()),
            line: Some(line),
            module: None,
            offset: None,
        }
    }

    fn native(function: Option<&str>, module: &str) -> Frame {
        Frame {
            kind: FrameKind::Native,
            function: function.map(str::to_owned),
            file: None,
            line: None,
            module: Some(module.to_owned()),
            offset: Some(0x1234),
        }
    }

    fn of(frames: &[Frame]) -> String {
        place(&Stack {
            frames: frames.to_vec(),
            broken: None,
        })
    }

    fn metal() -> Frame {
        native(
            Some("tt::tt_metal::BufferImpl::create(tt::tt_metal::IDevice*)"),
            "/lib/libtt_metal.so",
        )
    }

    #[test]
    fn it_is_the_innermost_line_of_python_that_is_not_ttnns() {
        for ttnn in [
            "/venv/lib/python3.12/site-packages/ttnn/decorators.py",
            "/usr/lib/python3/dist-packages/ttnn/decorators.py",
            "/home/me/tt-metal/ttnn/ttnn/decorators.py",
        ] {
            let frames = [
                metal(),
                python("__call__", ttnn, 531),
                python("Attention.forward", "/home/me/ttnn/model.py", 25),
                python("<module>", "train.py", 90),
            ];
            assert_eq!(of(&frames), "model.py:25 in Attention.forward");
        }
    }

    #[test]
    fn without_python_it_is_the_innermost_function_of_somebody_elses() {
        let frames = [
            metal(),
            native(Some("ttnn::add(ttnn::Tensor const&)"), "/lib/_ttnncpp.so"),
            native(
                Some("void std::function<void ()>::operator()() const"),
                "/lib/libstdc++.so.6",
            ),
            native(Some("app::Trainer::step(int) const"), "/opt/app/trainer"),
            native(Some("main"), "/opt/app/trainer"),
        ];
        assert_eq!(of(&frames), "Trainer::step (trainer)");
        assert_eq!(
            of(&[metal(), native(None, "/opt/trainer")]),
            "0x1234 (trainer)"
        );
    }

    #[test]
    fn where_all_is_ttnns_it_is_the_innermost_function() {
        assert_eq!(
            of(&[native(None, "/lib/_ttnn.so"), metal()]),
            "BufferImpl::create (libtt_metal.so)"
        );
    }

    #[test]
    fn without_frames_it_is_why() {
        let broken = Stack {
            frames: vec![],
            broken: Some("it was not read".to_owned()),
        };
        assert_eq!(place(&broken), "stack unknown: it was not read");
        assert_eq!(place(&Stack::default()), "stack unknown");
    }
}
