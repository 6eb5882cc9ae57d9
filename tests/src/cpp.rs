//! The small C++ target (`tests/target`): a `libtt_metal.so` of our own, and a program that uses it and obeys a
//! test's commands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::{Process, Tracer, WorkDir, target_dir, workspace};

/// The release of TT-Metal whose classes and functions the library copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// ttnn 0.77.0: the fields of a buffer lie in `Buffer`.
    One,
    /// ttnn 0.81.1: they lie in a `BufferImpl` behind a pointer.
    Two,
}

/// How the library differs from the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Plain,
    /// Without `.symtab`; `.dynsym` is there.
    Stripped,
    /// None of TT-Metal's symbols is exported, and there is no `.symtab`.
    Hidden,
    /// The accessor of one field reads another field than the constructor writes.
    Disagree,
    /// The accessor of one field calls a function whose code can't be followed. The constructor still
    /// shows where the field lies.
    Opaque,
    /// The accessor and the constructor agree on an offset for the page size that holds something else at run time.
    Crossed,
    /// `Device::id()` calls such a function, and no other code shows where a chip's id lies.
    Unseen,
}

impl Generation {
    /// The name of its directory.
    fn name(self) -> &'static str {
        match self {
            Self::One => "gen1",
            Self::Two => "gen2",
        }
    }

    /// The directory with the library and the programs. The first call builds them.
    pub fn dir(self, variant: Variant) -> PathBuf {
        let variant = match variant {
            Variant::Plain => "",
            Variant::Stripped => "stripped",
            Variant::Hidden => "hidden",
            Variant::Disagree => "disagree",
            Variant::Opaque => "opaque",
            Variant::Crossed => "crossed",
            Variant::Unseen => "unseen",
        };
        build().join(self.name()).join(variant)
    }

    /// The library itself.
    pub fn library(self, variant: Variant) -> PathBuf {
        self.dir(variant).join("libtt_metal.so")
    }

    /// What [`Cpp::load`] loads: the program's commands, and with them the library.
    pub fn session(self, variant: Variant) -> PathBuf {
        match variant {
            Variant::Hidden => self.library(variant),
            _ => self.dir(variant).join("libsession.so"),
        }
    }

    /// The program that is linked against the library.
    pub fn target(self, dir: &WorkDir, variant: Variant) -> Command {
        dir.command(self.dir(variant).join("target"))
    }

    /// The program that loads the library at a command.
    pub fn late(self, dir: &WorkDir, variant: Variant) -> Command {
        dir.command(self.dir(variant).join("late"))
    }

    /// The accessor that [`Variant::Disagree`] and [`Variant::Opaque`] change.
    pub fn changed_accessor(self) -> &'static str {
        match self {
            Self::One => "Buffer::page_size",
            Self::Two => "Buffer::size",
        }
    }
}

/// The library, built with the compiler and the flags of a user's own build.
pub struct UserBuild {
    compiler: &'static str,
    flags: &'static [&'static str],
    out: PathBuf,
}

impl UserBuild {
    /// Builds the library of both generations with that compiler and those flags, unless it is built already.
    pub fn new(compiler: &'static str, flags: &'static [&'static str]) -> Self {
        let script = workspace().join("tests/target/build-as");
        let out = target_dir()
            .join("cpp-target/as")
            .join(format!("{compiler}{}", flags.concat()));
        std::fs::create_dir_all(&out).expect("the target directory is ours");
        let built = Command::new(&script)
            .arg(&out)
            .arg(compiler)
            .args(flags)
            .output()
            .unwrap_or_else(|error| panic!("can't start {}: {error}", script.display()));
        assert!(
            built.status.success(),
            "{} needs clang++ and g++: {}",
            script.display(),
            String::from_utf8_lossy(&built.stderr)
        );
        Self {
            compiler,
            flags,
            out,
        }
    }

    fn dir(&self, generation: Generation) -> PathBuf {
        self.out.join(generation.name())
    }

    pub fn library(&self, generation: Generation) -> PathBuf {
        self.dir(generation).join("libtt_metal.so")
    }

    /// Where the compiler put each field: by name, the path as `tt-memtrace check` writes it.
    pub fn layout(&self, generation: Generation) -> BTreeMap<String, String> {
        let printed = Command::new(self.dir(generation).join("layout"))
            .output()
            .expect("it was built");
        let lines = String::from_utf8(printed.stdout).expect("UTF-8");
        let fields = lines.lines().filter_map(|line| line.split_once(' '));
        fields
            .map(|(name, path)| (name.to_owned(), path.to_owned()))
            .collect()
    }

    /// The program, with this library instead of the one that it was linked against.
    pub fn target(&self, dir: &WorkDir, generation: Generation) -> Command {
        let program = dir.path().join("target");
        let plain = generation.dir(Variant::Plain);
        std::fs::copy(plain.join("target"), &program).expect("the test's own directory");
        let session = generation.session(Variant::Plain);
        std::fs::copy(session, dir.path().join("libsession.so")).expect("the test's own directory");
        std::fs::copy(self.library(generation), dir.path().join("libtt_metal.so"))
            .expect("the test's own directory");
        dir.command(program)
    }
}

impl fmt::Display for UserBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.compiler, self.flags.join(" "))
    }
}

fn build() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = target_dir().join("cpp-target");
        let script = workspace().join("tests/target/build");
        let built = Command::new(&script)
            .arg(&out)
            .output()
            .unwrap_or_else(|error| panic!("can't start {}: {error}", script.display()));
        assert!(
            built.status.success(),
            "{} needs clang++ or g++, and strip: {}",
            script.display(),
            String::from_utf8_lossy(&built.stderr)
        );
        out
    })
}

/// The running program, alone or under `tt-memtrace run`.
pub struct Cpp {
    pub process: Process,
}

impl Cpp {
    /// Runs it alone, with a mesh of that many chips open.
    pub fn alone(dir: &WorkDir, generation: Generation, chips: u32) -> Self {
        Self::with_mesh(dir, generation, &chips.to_string())
    }

    /// Runs it alone, and opens a mesh with these arguments of the command `mesh`.
    pub fn with_mesh(dir: &WorkDir, generation: Generation, arguments: &str) -> Self {
        let mut target = Self::from(Process::spawn(&mut generation.target(dir, Variant::Plain)));
        target.obey(&format!("mesh {arguments}"));
        target
    }

    /// Runs it under `tt-memtrace run` with these options, with a mesh of that many chips open.
    pub fn traced(dir: &WorkDir, generation: Generation, chips: u32, options: &[&str]) -> Self {
        let target = generation.target(dir, Variant::Plain);
        let tracer = Tracer::run(dir).arguments(options).traced(&target);
        let mut target = Self::from(tracer.start());
        target.obey(&format!("mesh {chips}"));
        target
    }

    /// Sends a command and returns the answer, also if it is a failure.
    pub fn ask(&mut self, command: &str) -> Value {
        self.process.send(command);
        crate::parsed(&self.process.line())
    }

    /// Sends a command that must succeed, and returns the answer.
    #[track_caller]
    pub fn obey(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// Sends a command that must fail, and returns the exception's text.
    #[track_caller]
    pub fn refuse(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], false, "{command}: {answer}");
        crate::text(&answer, "error").to_owned()
    }

    /// Loads the library into the program that wasn't linked against it.
    pub fn load(&mut self, generation: Generation, variant: Variant) {
        let session = generation.session(variant);
        self.obey(&format!("load {}", session.display()));
    }

    /// The target's own pid. Under `tt-memtrace run`, `self.process` is the tracer.
    pub fn pid(&mut self) -> u32 {
        let answer = self.obey("pid");
        crate::pid(&answer, "pid")
    }

    /// Panics unless the target still allocates, lists and frees.
    #[track_caller]
    pub fn expect_unharmed(&mut self) {
        let before = self.obey("live");
        let allocated = self.obey("alloc DRAM 4096 4096");
        self.obey(&format!("free {}", allocated["id"]));
        assert_eq!(self.obey("live"), before);
    }

    /// Closes its stdin, which ends it.
    pub fn finish(self) -> crate::Finished {
        self.process.finish()
    }
}

impl From<Process> for Cpp {
    fn from(process: Process) -> Self {
        Self { process }
    }
}
