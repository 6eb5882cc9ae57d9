//! Real CPythons: their stacks, read from outside, compared with their own reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use procfs::process::{MMapPath, Process};
use serde::Deserialize;

use crate::{
    python::{CodeObject, InterpreterSymbols, Python, PythonError, RawFrame, layout::Layout},
    target::ProcessMemory,
};

/// A thread as `fixtures/threads.py` reports it.
#[derive(Deserialize)]
struct ReportedThread {
    name: String,
    /// File, line and function, the innermost first.
    frames: Vec<(String, Option<u32>, String)>,
}

/// A CPython that runs `fixtures/threads.py`.
struct Running {
    child: Child,
    symbols: InterpreterSymbols,
    /// By `threading.get_ident`.
    threads: BTreeMap<u64, ReportedThread>,
}

impl Running {
    fn start(python: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/python/fixtures/threads.py");
        let mut child = Command::new(python)
            .arg("-I")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let threads: BTreeMap<String, ReportedThread> = serde_json::from_str(&line).expect("JSON");
        let threads = threads.into_iter();
        Self {
            symbols: symbols(child.id()).expect("an interpreter"),
            threads: threads
                .map(|(id, thread)| (id.parse().expect("a number"), thread))
                .collect(),
            child,
        }
    }

    fn memory(&self) -> ProcessMemory {
        ProcessMemory::new(self.child.id())
    }

    fn verify(&self) -> Result<Python, PythonError> {
        Python::verify(&self.memory(), &self.symbols, None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The symbols of the interpreter that a process runs, in its executable or in a library.
fn symbols(pid: u32) -> Option<InterpreterSymbols> {
    let maps = Process::new(pid.try_into().ok()?).ok()?.maps().ok()?;
    maps.into_iter()
        .filter(|map| map.offset == 0)
        .find_map(|map| {
            let MMapPath::Path(path) = &map.pathname else {
                return None;
            };
            let name = path.file_name()?.to_str()?;
            if !name.contains("python") {
                return None;
            }
            InterpreterSymbols::read(&fs::read(path).ok()?, map.address.0).ok()
        })
}

/// The CPythons of this machine, on the path and of pyenv. Some have the interpreter in a library, others in the
/// executable.
fn pythons() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    directories.push("/usr/bin".into());
    if let Some(home) = env::home_dir()
        && let Ok(versions) = fs::read_dir(home.join(".pyenv/versions"))
    {
        directories.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    let named = |directory: PathBuf| {
        let name = |minor: u8| directory.join(format!("python3.{minor}"));
        (10..=13).map(name).collect::<Vec<_>>()
    };
    let is_program = |path: &PathBuf| {
        // pyenv's shims are scripts.
        fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
    };
    let found: BTreeSet<PathBuf> = directories
        .into_iter()
        .flat_map(named)
        .filter(is_program)
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    // `cargo xtask` runs ttnn with one of these: see README.md.
    assert!(
        found
            .iter()
            .any(|path| path.ends_with("python3.10") || path.ends_with("python3.12")),
        "CPython 3.10 or 3.12 is needed; found: {found:?}"
    );
    found.into_iter().collect()
}

fn running() -> Vec<(PathBuf, Running)> {
    let start = |path: PathBuf| (path.clone(), Running::start(&path));
    pythons().into_iter().map(start).collect()
}

#[test]
fn stacks_are_those_that_cpython_reports() {
    for (path, running) in running() {
        let memory = running.memory();
        let python = running.verify().expect("a layout that holds");
        let minor = format!("python3.{}", python.version.series().1);
        assert!(
            path.ends_with(minor),
            "{}: {}",
            path.display(),
            python.version
        );
        for (id, thread) in &running.threads {
            let what = format!("{}, {}", path.display(), thread.name);
            let blocks = python.walk.stack(&memory, *id, 1_000).expect("readable");
            let blocks = blocks.unwrap_or_else(|| panic!("{what}: no frames"));
            assert!(blocks.is_whole, "{what}");
            let seen: Vec<_> = python
                .layout
                .frames(&blocks.bytes)
                .iter()
                .filter_map(|frame| {
                    let code =
                        CodeObject::read(&memory, &python, frame.code).expect("a code object");
                    let frame = code.frame(frame).expect("an instruction of it")?;
                    Some((frame.file?, frame.line, frame.function?))
                })
                .collect();
            assert_eq!(seen, thread.frames, "{what}");
        }
    }
}

#[test]
fn a_boundary_is_a_frame_that_c_code_called() {
    for (path, running) in running() {
        let python = running.verify().expect("a layout that holds");
        let frames = |name: &str| -> Vec<RawFrame> {
            let (id, _) = running
                .threads
                .iter()
                .find(|(_, thread)| thread.name == name)
                .expect("a thread of the script");
            let blocks = python.walk.stack(&running.memory(), *id, 1_000);
            let blocks = blocks.expect("readable").expect("frames");
            python.layout.frames(&blocks.bytes)
        };
        let boundaries = |name| -> Vec<bool> {
            let frames = frames(name).into_iter();
            frames.map(|frame| frame.is_boundary).collect()
        };
        let is_3_10 = python.version.series() == (3, 10);
        // blocked, innermost, inner, outer: all but `outer` are called from Python.
        let called = boundaries("outer");
        assert_eq!(called[..3], [is_3_10; 3], "{}", path.display());
        // blocked, <lambda>. `map` calls the latter.
        let called = boundaries("through_c");
        assert_eq!(called[..2], [is_3_10, true], "{}", path.display());
        for thread in running.threads.values() {
            let boundaries = boundaries(&thread.name);
            assert_eq!(boundaries.last(), Some(&true), "{}", path.display());
        }
    }
}

#[test]
fn threads_are_identified_by_their_fs_bases() {
    let (_, running) = running().swap_remove(0);
    let (memory, symbols) = (running.memory(), &running.symbols);
    let verify = |bases: &[u64]| {
        let bases = bases.iter().copied().collect();
        Python::verify(&memory, symbols, Some(&bases))
    };
    let bases: Vec<u64> = running.threads.keys().copied().collect();
    assert!(verify(&bases).is_ok());
    assert!(verify(&bases[..1]).is_ok());
    assert!(matches!(verify(&[]), Err(PythonError::NoThreadInPython)));
    let foreign: Vec<u64> = bases.iter().map(|base| base + 64).collect();
    assert!(matches!(
        verify(&foreign),
        Err(PythonError::NoThreadInPython)
    ));
}

#[test]
fn a_layout_that_does_not_hold_is_refused() {
    for (path, running) in running() {
        let memory = running.memory();
        let python = running.verify().expect("a layout that holds");
        let holds = |layout: Layout| {
            Python::with_layout(&memory, &running.symbols, python.version, layout, None).is_ok()
        };
        assert!(holds(python.layout.clone()), "{}", path.display());
        let series = [(3, 10), (3, 11), (3, 12)].into_iter();
        for series in series.filter(|series| *series != python.version.series()) {
            let other = Layout::of_series(series).expect("a known series");
            assert!(!holds(other), "{}: {series:?}", path.display());
        }
        for (name, change) in CHANGES {
            for by in [-8_i16, 8] {
                let mut layout = python.layout.clone();
                change(&mut layout, by);
                // A field at 0 can't be moved back.
                let is_same = layout == python.layout;
                assert!(
                    is_same || !holds(layout),
                    "{}: {name} {by:+}",
                    path.display()
                );
            }
        }
    }
}

/// Moves a field by so many bytes.
type Change = fn(&mut Layout, i16);

/// A wrong offset of any of these fields is noticed.
const CHANGES: [(&str, Change); 12] = [
    ("threads", |layout, by| {
        shift(&mut layout.interpreter.threads, by);
    }),
    ("interpreter", |layout, by| {
        shift(&mut layout.thread.interpreter, by);
    }),
    ("thread id", |layout, by| shift(&mut layout.thread.id, by)),
    // Only forwards. One word back is the link to the thread before. The first thread has none, so the list would
    // have one thread.
    ("next", |layout, by| {
        shift(&mut layout.thread.next, by.abs());
    }),
    ("frame", |layout, by| shift(&mut layout.thread.frame[0], by)),
    ("previous", |layout, by| {
        shift(&mut layout.frame.previous, by);
    }),
    ("code", |layout, by| shift(&mut layout.frame.code, by)),
    ("interpreters", |layout, by| {
        shift(&mut layout.interpreters, by * 2);
    }),
    ("line table", |layout, by| {
        shift(&mut layout.code.line_table, by);
    }),
    ("state of text", |layout, by| {
        shift(&mut layout.text.state, by);
    }),
    ("length of text", |layout, by| {
        shift(&mut layout.text.length, by);
    }),
    ("position", |layout, by| {
        use crate::python::layout::Position::{Index, Pointer};
        match &mut layout.frame.position {
            // By two words: the next field of 3.10, f_lineno, is 0 here.
            Index(at) | Pointer(at) => shift(at, by * 2),
        }
    }),
];

fn shift(offset: &mut u16, by: i16) {
    *offset = offset.saturating_add_signed(by);
}

#[test]
fn other_files_are_not_cpython() {
    let own = fs::read("/proc/self/exe").expect("one's own program");
    assert!(matches!(
        InterpreterSymbols::read(&own, 0),
        Err(PythonError::NotCPython { .. })
    ));
    assert!(matches!(
        InterpreterSymbols::read(b"#!/bin/sh", 0),
        Err(PythonError::NotElf(_))
    ));
    assert!(matches!(
        InterpreterSymbols::read(&own[..5_000], 0),
        Err(PythonError::NotElf(_) | PythonError::NotCPython { .. })
    ));
}
