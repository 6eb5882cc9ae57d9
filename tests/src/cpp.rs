//! The small C++ target (`tests/target`): a `libtt_metal.so` of our own, and a program on it that
//! does what a test tells it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::{Process, WorkDir, target_dir, workspace};

/// Which release of TT-Metal the library is shaped after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// ttnn 0.77.0: the fields of a buffer lie in `Buffer`.
    One,
    /// ttnn 0.81.1: they lie in a `BufferImpl` behind a pointer.
    Two,
}

/// What is peculiar about the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Plain,
    /// Without `.symtab`; `.dynsym` is there.
    Stripped,
    /// None of TT-Metal's symbols is exported, and there is no `.symtab`.
    Hidden,
    /// The accessor of one field reads another field than the constructor writes.
    Disagree,
    /// The accessor of one field calls a function that can't be looked into. The constructor still
    /// shows where the field lies.
    Opaque,
    /// The accessor and the constructor agree on a place for the page size that isn't it at run time.
    Crossed,
    /// `Device::id()` does so, and nothing else shows where a chip's id lies.
    Unseen,
}

impl Generation {
    /// What its directory is called.
    fn name(self) -> &'static str {
        match self {
            Self::One => "gen1",
            Self::Two => "gen2",
        }
    }

    /// The directory with the library and the programs, built if they aren't yet.
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

    /// The program that loads the library when told to.
    pub fn late(self, dir: &WorkDir, variant: Variant) -> Command {
        dir.command(self.dir(variant).join("late"))
    }

    /// The accessor that [`Variant::Disagree`] and [`Variant::Opaque`] are about.
    pub fn bent_accessor(self) -> &'static str {
        match self {
            Self::One => "Buffer::page_size",
            Self::Two => "Buffer::size",
        }
    }
}

/// The library as a user's own build makes it.
pub struct UserBuild {
    compiler: &'static str,
    flags: &'static [&'static str],
    out: PathBuf,
}

impl UserBuild {
    /// Builds the library of both generations with that compiler and those flags, unless that was
    /// done before.
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

    /// Where the fields lie, by the compiler's own word: paths as `tt-memtrace check` writes them,
    /// by name.
    pub fn layout(&self, generation: Generation) -> BTreeMap<String, String> {
        let told = Command::new(self.dir(generation).join("layout"))
            .output()
            .expect("it was built");
        let lines = String::from_utf8(told.stdout).expect("UTF-8");
        let fields = lines.lines().filter_map(|line| line.split_once(' '));
        fields
            .map(|(name, path)| (name.to_owned(), path.to_owned()))
            .collect()
    }

    /// The program with this library in the place of the one that it was linked against.
    pub fn target(&self, dir: &WorkDir, generation: Generation) -> Command {
        let program = dir.path().join("target");
        let plain = generation.dir(Variant::Plain);
        std::fs::copy(plain.join("target"), &program).expect("one's own directory");
        let session = generation.session(Variant::Plain);
        std::fs::copy(session, dir.path().join("libsession.so")).expect("one's own directory");
        std::fs::copy(self.library(generation), dir.path().join("libtt_metal.so"))
            .expect("one's own directory");
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

    /// Runs it alone, with these words behind the command `mesh`.
    pub fn with_mesh(dir: &WorkDir, generation: Generation, words: &str) -> Self {
        let mut target = Self::from(Process::spawn(&mut generation.target(dir, Variant::Plain)));
        target.obey(&format!("mesh {words}"));
        target
    }

    /// Sends a command and gives the answer, whatever it is.
    pub fn ask(&mut self, command: &str) -> Value {
        self.process.send(command);
        let line = self.process.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in: {line}"))
    }

    /// Sends a command that must succeed, and gives the answer.
    #[track_caller]
    pub fn obey(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// Sends a command that must fail, and gives the exception's text.
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

    /// Its own pid: under `tt-memtrace run` that is not the child's.
    pub fn pid(&mut self) -> u32 {
        let answer = self.obey("pid");
        u32::try_from(crate::unsigned(&answer, "pid")).expect("a pid is a u32")
    }

    /// Shows that it is alive and unharmed: it allocates, lists and frees.
    #[track_caller]
    pub fn expect_unharmed(&mut self) {
        let before = self.obey("live");
        let allocated = self.obey("alloc DRAM 4096 4096");
        self.obey(&format!("free {}", allocated["id"]));
        assert_eq!(self.obey("live"), before);
    }

    /// Ends it by the end of its stdin.
    pub fn finish(self) -> crate::Finished {
        self.process.finish()
    }
}

impl From<Process> for Cpp {
    fn from(process: Process) -> Self {
        Self { process }
    }
}
