//! A stack in a few words: the one line of code that a person looks for.

use crate::{
    cpp_name::qualified,
    stack::{Frame, FrameKind, Stack},
};

/// The innermost line of Python that isn't ttnn's; else the innermost function of a person's own code;
/// else the outermost one of ttnn's, such as `ttnn::empty`; else the innermost one that has a name; else
/// why there is none.
pub fn place(stack: &Stack) -> String {
    let of_kind = |kind| stack.frames.iter().filter(move |frame| frame.kind == kind);
    let named = |frame: &&Frame| frame.function.is_some();
    let native = || of_kind(FrameKind::Native);
    let found = of_kind(FrameKind::Python)
        .find(|frame| !is_ttnns_python(frame))
        .or_else(|| native().find(|frame| !is_in(frame, &TTNN) && !is_in(frame, &RUNTIME)))
        .or_else(|| native().filter(named).rfind(|frame| is_in(frame, &TTNN)))
        .or_else(|| stack.frames.iter().find(named));
    if let Some(frame) = found {
        return words(frame);
    }
    match &stack.broken {
        Some(why) => format!("stack unknown: {why}"),
        None => "stack unknown".to_owned(),
    }
}

/// How the files begin that ttnn's and TT-Metal's code lies in.
const TTNN: [&str; 6] = [
    "libtt_metal.",
    "libtt_stl.",
    "libtt-umd.",
    "libtracy.",
    "_ttnn.",
    "_ttnncpp.",
];

/// The same of what runs programs: no frame of it tells whose the program is.
const RUNTIME: [&str; 7] = [
    "python",
    "libpython",
    "libstdc++.",
    "libc++.",
    "libc.",
    "libpthread.",
    "ld-linux",
];

fn is_in(frame: &Frame, files: &[&str]) -> bool {
    let file = frame.module.as_deref().map(file_name).unwrap_or_default();
    files.iter().any(|begin| file.starts_with(begin))
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
    fn without_anybodys_own_code_it_is_the_function_of_ttnns_that_was_called() {
        let frames = [
            metal(),
            native(
                Some("ttnn::empty(tt::tt_metal::Shape const&)"),
                "/lib/_ttnncpp.so",
            ),
            native(None, "/lib/_ttnn.cpython-310-x86_64-linux-gnu.so"),
            native(
                Some("_PyEval_EvalFrameDefault"),
                "/lib/libpython3.10.so.1.0",
            ),
            native(Some("__libc_start_main"), "/lib/libc.so.6"),
            native(Some("_start"), "/venv/bin/python3.10"),
        ];
        assert_eq!(of(&frames), "ttnn::empty (_ttnncpp.so)");
        assert_eq!(
            of(&frames[3..]),
            "_PyEval_EvalFrameDefault (libpython3.10.so.1.0)"
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
