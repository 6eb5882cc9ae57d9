//! Frame labels: a stack as the one line of code that a person looks for, such as
//! `model.py:25 in Attention.forward`.

use std::collections::BTreeMap;

use crate::{
    cpp_name::qualified,
    frame::{Frame, FrameKind, Stack, StackId},
};

/// A label names at most this many callers.
const MAX_CALLERS: usize = 2;

/// A label while it is being made.
struct Draft {
    text: String,
    /// The callers that the text doesn't name, innermost first.
    callers: Vec<String>,
    names_caller: bool,
}

/// The [`label`] of each stack. Stacks with the same label, such as all that one helper allocates,
/// also name the innermost caller that differs.
pub(super) fn labels<'a>(
    stacks: impl IntoIterator<Item = (StackId, &'a Stack)>,
) -> BTreeMap<StackId, String> {
    let drafts = drafts(stacks).into_iter();
    drafts.map(|(id, draft)| (id, draft.text)).collect()
}

/// The same, with at least one caller each. This is for a few of a process's stacks: without the others, it
/// doesn't show whether a line is in a helper that several callers share.
pub(super) fn labels_with_callers<'a>(
    stacks: impl IntoIterator<Item = (StackId, &'a Stack)>,
) -> BTreeMap<StackId, String> {
    let mut drafts = drafts(stacks);
    for draft in drafts.values_mut().filter(|draft| !draft.names_caller) {
        draft.name_caller(0);
    }
    let drafts = drafts.into_iter();
    drafts.map(|(id, draft)| (id, draft.text)).collect()
}

impl Draft {
    /// Appends the caller at `position` and forgets those up to it.
    fn name_caller(&mut self, position: usize) {
        if let Some(caller) = self.callers.get(position) {
            self.text.push_str(&format!(", from {caller}"));
            self.names_caller = true;
        }
        self.callers.drain(..self.callers.len().min(position + 1));
    }
}

fn drafts<'a>(stacks: impl IntoIterator<Item = (StackId, &'a Stack)>) -> BTreeMap<StackId, Draft> {
    let mut drafts: BTreeMap<StackId, Draft> = stacks
        .into_iter()
        .map(|(id, stack)| {
            let draft = Draft {
                text: label(stack),
                callers: callers(stack),
                names_caller: false,
            };
            (id, draft)
        })
        .collect();
    for _ in 0..MAX_CALLERS {
        let mut alike: BTreeMap<String, Vec<StackId>> = BTreeMap::new();
        for (id, draft) in &drafts {
            alike.entry(draft.text.clone()).or_default().push(*id);
        }
        for ids in alike.into_values().filter(|ids| ids.len() > 1) {
            let callers = |id: &StackId| drafts[id].callers.as_slice();
            let deepest = ids.iter().map(|id| callers(id).len()).max();
            let differs = (0..deepest.unwrap_or_default()).find(|position| {
                let first = callers(&ids[0]).get(*position);
                ids.iter().any(|id| callers(id).get(*position) != first)
            });
            let Some(position) = differs else { continue };
            for id in &ids {
                if let Some(draft) = drafts.get_mut(id) {
                    draft.name_caller(position);
                }
            }
        }
    }
    drafts
}

/// The lines of Python that called the first one that isn't ttnn's, innermost first.
fn callers(stack: &Stack) -> Vec<String> {
    let python = stack
        .frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python && !is_ttnn_python(frame));
    python.skip(1).map(frame_text).collect()
}

/// A stack in a form that is the same in each trace: its [`label`], and the callers in the user's own
/// code.
pub(super) fn call_chain(stack: &Stack) -> Vec<String> {
    let mut chain = vec![label(stack)];
    let callers = callers(stack);
    if callers.is_empty() {
        let native = stack.frames.iter().filter(|frame| {
            frame.kind == FrameKind::Native && !is_in(frame, &TTNN) && !is_in(frame, &RUNTIME)
        });
        chain.extend(native.skip(1).map(frame_text));
    }
    chain.extend(callers);
    chain
}

/// The text of one frame: the innermost line of Python that isn't ttnn's; else the innermost function of
/// the user's own code; else the outermost function of ttnn's, such as `ttnn::empty`; else the innermost
/// function that has a name; else the reason why there is none.
fn label(stack: &Stack) -> String {
    let of_kind = |kind| stack.frames.iter().filter(move |frame| frame.kind == kind);
    let named = |frame: &&Frame| frame.function.is_some();
    let native = || of_kind(FrameKind::Native);
    let found = of_kind(FrameKind::Python)
        .find(|frame| !is_ttnn_python(frame))
        .or_else(|| native().find(|frame| !is_in(frame, &TTNN) && !is_in(frame, &RUNTIME)))
        .or_else(|| native().filter(named).rfind(|frame| is_in(frame, &TTNN)))
        .or_else(|| stack.frames.iter().find(named));
    if let Some(frame) = found {
        return frame_text(frame);
    }
    match &stack.broken {
        Some(why) => format!("stack unknown: {why}"),
        None => "stack unknown".to_owned(),
    }
}

/// Prefixes of the names of the files with ttnn's and TT-Metal's code.
const TTNN: [&str; 6] = [
    "libtt_metal.",
    "libtt_stl.",
    "libtt-umd.",
    "libtracy.",
    "_ttnn.",
    "_ttnncpp.",
];

/// Prefixes of the names of the files that run any program: their frames don't show which program it is.
const RUNTIME: [&str; 7] = [
    "python",
    "libpython",
    "libstdc++.",
    "libc++.",
    "libc.",
    "libpthread.",
    "ld-linux",
];

fn is_in(frame: &Frame, prefixes: &[&str]) -> bool {
    let file = frame.module.as_deref().map(file_name).unwrap_or_default();
    prefixes.iter().any(|prefix| file.starts_with(prefix))
}

/// Whether a frame is in the Python package `ttnn`, as `pip` installs it or in a source tree (`ttnn/ttnn`).
fn is_ttnn_python(frame: &Frame) -> bool {
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
fn frame_text(frame: &Frame) -> String {
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

/// A function with the class or the namespace around it.
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

    fn label_of(frames: &[Frame]) -> String {
        label(&Stack {
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
    fn a_label_is_the_innermost_line_of_python_that_is_not_ttnn() {
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
            assert_eq!(label_of(&frames), "model.py:25 in Attention.forward");
        }
    }

    #[test]
    fn without_python_it_is_the_innermost_function_of_the_users_code() {
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
        assert_eq!(label_of(&frames), "Trainer::step (trainer)");
        assert_eq!(
            label_of(&[metal(), native(None, "/opt/trainer")]),
            "0x1234 (trainer)"
        );
    }

    #[test]
    fn without_the_users_code_it_is_the_function_of_ttnns_that_was_called() {
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
        assert_eq!(label_of(&frames), "ttnn::empty (_ttnncpp.so)");
        assert_eq!(
            label_of(&frames[3..]),
            "_PyEval_EvalFrameDefault (libpython3.10.so.1.0)"
        );
    }

    #[test]
    fn callers_of_one_helper_have_different_labels() {
        let helper = || python("zeros", "/model/util.py", 7);
        let dispatch = || python("<lambda>", "/model/util.py", 9);
        let of_layer = |line| python("forward", "/model/layer.py", line);
        let main = |line| python("<module>", "/model/main.py", line);
        let ttnn = || python("__call__", "/venv/site-packages/ttnn/decorators.py", 1);
        let stacks = [
            vec![ttnn(), helper(), dispatch(), of_layer(20), main(1)],
            vec![ttnn(), helper(), dispatch(), of_layer(20), main(2)],
            vec![ttnn(), helper(), dispatch(), of_layer(30), main(1)],
            // The same lines of Python by another way through C++.
            vec![metal(), ttnn(), helper(), dispatch(), of_layer(30), main(1)],
            vec![ttnn(), main(5)],
        ]
        .map(|frames| Stack {
            frames,
            broken: None,
        });
        let ids = (0..).map(StackId);
        let labels = labels(ids.zip(&stacks));
        let texts: Vec<&str> = labels.values().map(String::as_str).collect();
        assert_eq!(
            texts,
            [
                "util.py:7 in zeros, from layer.py:20 in forward, from main.py:1 in <module>",
                "util.py:7 in zeros, from layer.py:20 in forward, from main.py:2 in <module>",
                "util.py:7 in zeros, from layer.py:30 in forward",
                "util.py:7 in zeros, from layer.py:30 in forward",
                "main.py:5 in <module>",
            ]
        );
    }

    #[test]
    fn without_frames_it_is_the_reason() {
        let broken = Stack {
            frames: vec![],
            broken: Some("it was not read".to_owned()),
        };
        assert_eq!(label(&broken), "stack unknown: it was not read");
        assert_eq!(label(&Stack::default()), "stack unknown");
    }
}
