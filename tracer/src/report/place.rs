//! A stack in a few words: the one line of code that a person looks for.

use std::collections::BTreeMap;

use crate::{
    cpp_name::qualified,
    stack::{Frame, FrameKind, Stack, StackId},
};

/// So many callers are named at most to tell places apart.
const MOST_CALLERS: usize = 2;

/// A stack in words.
struct Known {
    text: String,
    /// Those that the text doesn't name, innermost first.
    callers: Vec<String>,
    names_caller: bool,
}

/// Each stack's [place]; of those that would read the same, such as all that one helper allocates, also
/// the innermost caller that tells them apart.
pub fn places<'a>(
    stacks: impl IntoIterator<Item = (StackId, &'a Stack)>,
) -> BTreeMap<StackId, String> {
    let known = told_apart(stacks).into_iter();
    known.map(|(id, known)| (id, known.text)).collect()
}

/// The same with a caller each: where only a few of a process's stacks are named, none of the others shows
/// that one place is that of a helper.
pub fn places_with_callers<'a>(
    stacks: impl IntoIterator<Item = (StackId, &'a Stack)>,
) -> BTreeMap<StackId, String> {
    let mut places = told_apart(stacks);
    for known in places.values_mut().filter(|known| !known.names_caller) {
        known.name_caller(0);
    }
    let places = places.into_iter();
    places.map(|(id, known)| (id, known.text)).collect()
}

impl Known {
    fn name_caller(&mut self, at: usize) {
        if let Some(caller) = self.callers.get(at) {
            self.text.push_str(&format!(", from {caller}"));
            self.names_caller = true;
        }
        self.callers.drain(..self.callers.len().min(at + 1));
    }
}

fn told_apart<'a>(
    stacks: impl IntoIterator<Item = (StackId, &'a Stack)>,
) -> BTreeMap<StackId, Known> {
    let mut places: BTreeMap<StackId, Known> = stacks
        .into_iter()
        .map(|(id, stack)| {
            let known = Known {
                text: place(stack),
                callers: callers(stack),
                names_caller: false,
            };
            (id, known)
        })
        .collect();
    for _ in 0..MOST_CALLERS {
        let mut alike: BTreeMap<String, Vec<StackId>> = BTreeMap::new();
        for (id, known) in &places {
            alike.entry(known.text.clone()).or_default().push(*id);
        }
        for ids in alike.into_values().filter(|ids| ids.len() > 1) {
            let callers = |id: &StackId| places[id].callers.as_slice();
            let deepest = ids.iter().map(|id| callers(id).len()).max();
            let differs = (0..deepest.unwrap_or_default()).find(|at| {
                let first = callers(&ids[0]).get(*at);
                ids.iter().any(|id| callers(id).get(*at) != first)
            });
            let Some(at) = differs else { continue };
            for id in &ids {
                if let Some(known) = places.get_mut(id) {
                    known.name_caller(at);
                }
            }
        }
    }
    places
}

/// The lines of Python that came to the place, innermost first.
fn callers(stack: &Stack) -> Vec<String> {
    let python = stack
        .frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python && !is_ttnns_python(frame));
    python.skip(1).map(words).collect()
}

/// All that a person reads of a stack, the same in each trace: its [place], and the callers that are a
/// person's own.
pub fn chain(stack: &Stack) -> Vec<String> {
    let mut chain = vec![place(stack)];
    let callers = callers(stack);
    if callers.is_empty() {
        let native = stack.frames.iter().filter(|frame| {
            frame.kind == FrameKind::Native && !is_in(frame, &TTNN) && !is_in(frame, &RUNTIME)
        });
        chain.extend(native.skip(1).map(words));
    }
    chain.extend(callers);
    chain
}

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
    fn what_one_helper_allocates_is_told_apart_by_who_called_it() {
        let helper = || python("zeros", "/model/util.py", 7);
        let dispatch = || python("<lambda>", "/model/util.py", 9);
        let of_layer = |line| python("forward", "/model/layer.py", line);
        let main = |line| python("<module>", "/model/main.py", line);
        let ttnns = || python("__call__", "/venv/site-packages/ttnn/decorators.py", 1);
        let stacks = [
            vec![ttnns(), helper(), dispatch(), of_layer(20), main(1)],
            vec![ttnns(), helper(), dispatch(), of_layer(20), main(2)],
            vec![ttnns(), helper(), dispatch(), of_layer(30), main(1)],
            // The same by another way through C++.
            vec![
                metal(),
                ttnns(),
                helper(),
                dispatch(),
                of_layer(30),
                main(1),
            ],
            vec![ttnns(), main(5)],
        ]
        .map(|frames| Stack {
            frames,
            broken: None,
        });
        let ids = (0..).map(StackId);
        let places = places(ids.zip(&stacks));
        let texts: Vec<&str> = places.values().map(String::as_str).collect();
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
    fn without_frames_it_is_why() {
        let broken = Stack {
            frames: vec![],
            broken: Some("it was not read".to_owned()),
        };
        assert_eq!(place(&broken), "stack unknown: it was not read");
        assert_eq!(place(&Stack::default()), "stack unknown");
    }
}
