//! `cargo xtask ebpf`: the in-kernel programs, from `tracer-ebpf` to `tracer/bpf/tracer.bpf.o`.
//!
//! The object is committed, so that `cargo build` needs only stable Rust. The build is reproducible, and CI checks that
//! it produces the committed object bit for bit.
//!
//! The compiler is Debian's `rustc-web`: its package `libstd-rust-web-dev-bpf` has a compiled `core`
//! for `bpfel-unknown-none`, so the build needs neither a nightly nor `-Zbuild-std`. The linker is
//! `bpf-linker`, built against that compiler's LLVM. rustup's toolchain stays the default one.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    progress::{Progress, Step},
    sh,
};

const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
/// `RUSTC_BOOTSTRAP`: aya-ebpf and our own crate use one unstable feature, asm_experimental_arch. A stable compiler
/// then allows it, in these two crates only.
const BOOTSTRAP: &str = "aya_ebpf,tracer";
/// The layout of `pt_regs` that aya-ebpf uses.
const BPF_ARCH: &str = "--cfg=bpf_target_arch=\"x86_64\"";

/// Build the in-kernel programs into tracer/bpf/tracer.bpf.o.
///
/// Installs what is missing: Debian's rustc-web and libstd-rust-web-dev-bpf (by apt, as root or with
/// sudo) and bpf-linker (into ~/.local/share/tt-memtrace-bpf, half a minute). Commit the object
/// together with the source it was built from.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rebuild elsewhere, and fail if the result isn't byte for byte the committed object.
    #[arg(long)]
    check: bool,
}

impl Options {
    /// `--check`.
    pub(crate) fn check() -> Self {
        Self { check: true }
    }
}

pub(crate) fn main(progress: &Progress, options: &Options) -> Result<()> {
    let tools = progress.step("eBPF tools", Tools::set_up)?;
    let object = sh::root().join("tracer/bpf/tracer.bpf.o");
    if options.check {
        progress.step("check the committed eBPF object", |step| {
            check(step, &tools, &object)
        })
    } else {
        progress.step("build the eBPF object", |step| {
            let built = tools.build(step, &sh::target_dir().join("ebpf"))?;
            let dir = object.parent().context("the object's folder")?;
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            // An unchanged file is not written, since cargo would rebuild what embeds it.
            if fs::read(&object).is_ok_and(|old| old == built) {
                step.say(&format!("{} is up to date", object.display()));
            } else {
                fs::write(&object, &built)
                    .with_context(|| format!("write {}", object.display()))?;
                step.say(&format!("{}: {} bytes", object.display(), built.len()));
            }
            Ok(())
        })
    }
}

/// Runs clippy on the in-kernel programs, which compile only for the BPF target: with Debian's compiler, like
/// the build.
pub(crate) fn lint(progress: &Progress) -> Result<()> {
    progress.step("eBPF lints", |step| {
        install_compiler(step)?;
        if !Path::new(DEBIAN_CLIPPY).exists() {
            sh::apt_install(step, &["rust-web-clippy"])?;
        }
        step.run(
            // What `cargo clippy` does, which would use the clippy of rustup's toolchain.
            sh::cargo()
                .args(["check", "--package", "tracer-ebpf", "--bin", "tracer"])
                .args(["--release", "--locked", "--target", TARGET, "--target-dir"])
                .arg(sh::target_dir().join("ebpf-lints"))
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY)
                .env_remove("RUSTC_WRAPPER")
                .env_remove("RUSTFLAGS")
                .env("RUSTC_BOOTSTRAP", BOOTSTRAP)
                .env(
                    "CARGO_ENCODED_RUSTFLAGS",
                    [BPF_ARCH, "--deny=warnings"].join("\x1f"),
                ),
        )
    })
}

fn check(step: &Step, tools: &Tools, object: &Path) -> Result<()> {
    let committed = fs::read(object).with_context(|| {
        format!(
            "{} is missing: run `cargo xtask ebpf` and commit it",
            object.display()
        )
    })?;
    let dir = sh::target_dir().join("ebpf-check");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    let fresh = tools.build(step, &dir)?;
    if fresh != committed {
        let kept = dir.join("tracer.bpf.o");
        fs::write(&kept, &fresh).with_context(|| format!("write {}", kept.display()))?;
        bail!(
            "{} ({} bytes) is not what the source builds to (now in {}, {} bytes).\n\
             Run `cargo xtask ebpf` and commit the object with the source. If the source has not \
             changed, Debian's compiler has; here it is {}.",
            object.display(),
            committed.len(),
            kept.display(),
            fresh.len(),
            tools.version
        );
    }
    step.say(&format!("{} bytes, identical", fresh.len()));
    Ok(())
}

/// The compiler and the linker.
struct Tools {
    /// First line of `rustc -vV`.
    version: String,
    /// The compiler's release, which is in the path of core's sources that the object contains.
    release: String,
    /// The folder with `bpf-linker`.
    bin: PathBuf,
}

impl Tools {
    fn set_up(step: &Step) -> Result<Self> {
        install_compiler(step)?;
        let verbose = sh::output(debian_rustc().arg("-vV"))?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`{DEBIAN_RUSTC} -vV` names no {name}"))
        };
        let bin = linker(step, field("LLVM version")?)?;
        Ok(Self {
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            release: field("release")?.to_owned(),
            bin,
        })
    }

    /// Builds the object in `dir` and returns it.
    fn build(&self, step: &Step, dir: &Path) -> Result<Vec<u8>> {
        let root = fs::canonicalize(sh::root()).context("find the workspace")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = &fs::canonicalize(dir)?;
        // Build everything but proc macros anew: earlier results contain old paths if the sources lay elsewhere.
        let stale = dir.join(TARGET);
        if stale.exists() {
            fs::remove_dir_all(&stale).with_context(|| format!("remove {}", stale.display()))?;
        }
        let mut path = self.bin.clone().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        step.run(
            sh::cargo()
                .args(["build", "--package", "tracer-ebpf", "--bin", "tracer"])
                .args(["--release", "--locked", "--target", TARGET, "--target-dir"])
                .arg(dir)
                .env("PATH", path)
                .env("RUSTC", DEBIAN_RUSTC)
                .env_remove("RUSTC_WRAPPER")
                .env_remove("RUSTFLAGS")
                .env("RUSTC_BOOTSTRAP", BOOTSTRAP)
                .env(
                    "CARGO_ENCODED_RUSTFLAGS",
                    self.flags(&root, dir)?.join("\x1f"),
                ),
        )?;
        strip(step, &dir.join(TARGET).join("release/tracer"), dir)
    }

    fn flags(&self, root: &Path, dir: &Path) -> Result<Vec<String>> {
        let registry = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(env::home_dir()?.join(".cargo")))
            .context("no home directory: set CARGO_HOME")?
            .join("registry/src");
        let sysroot = sh::output(debian_rustc().args(["--print", "sysroot"]))?;
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        Ok(vec![
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            BPF_ARCH.to_owned(),
            // The object's line information contains paths of source files. Of several matching prefixes the last
            // one applies.
            remap(root, "/src"),
            remap(&registry, "/cargo"),
            remap(dir, "/target"),
            // The path of core's sources if Debian's rust-web-src is installed. Without that package the object
            // contains their path in Debian's build.
            remap(
                &Path::new(&sysroot).join("lib/rustlib/src/rust"),
                &format!("/usr/src/rustc-{}", self.release),
            ),
        ])
    }
}

/// Debian's compiler, without the libraries of the toolchain that runs xtask.
fn debian_rustc() -> Command {
    let mut command = Command::new(DEBIAN_RUSTC);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

fn install_compiler(step: &Step) -> Result<()> {
    if has_bpf_core() {
        return Ok(());
    }
    sh::apt_install(step, &["rustc-web", "libstd-rust-web-dev-bpf"]).context(
        "the eBPF object is built with Debian 12's rustc-web; on another system build it in a \
         debian:12 container",
    )?;
    ensure!(
        has_bpf_core(),
        "{DEBIAN_RUSTC} has no core for {TARGET}: is it Debian's rustc-web?"
    );
    Ok(())
}

fn has_bpf_core() -> bool {
    let Ok(dir) = sh::output(debian_rustc().args(["--print", "target-libdir", "--target", TARGET]))
    else {
        return false;
    };
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// Builds `bpf-linker` against the LLVM of that version if it is missing, and returns its folder.
fn linker(step: &Step, llvm: &str) -> Result<PathBuf> {
    // 22.1.8 → libLLVM.so.22.1
    let mut parts = llvm.split('.');
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
        bail!("rustc reports the LLVM version {llvm:?}, which has no minor number");
    };
    let library = shared_library(&format!("libLLVM.so.{major}.{minor}"))?;

    let prefix = env::home_dir()
        .context("no home directory: set HOME")?
        .join(".local/share/tt-memtrace-bpf");
    let bin = prefix.join("bin");
    let link = prefix.join("llvm/lib/libLLVM.so");
    let installed =
        sh::output(Command::new(bin.join("bpf-linker")).arg("--version")).is_ok_and(|version| {
            version
                .split_whitespace()
                .any(|word| word == LINKER_VERSION)
        });
    if installed && fs::read_link(&link).is_ok_and(|to| to == library) {
        return Ok(bin);
    }
    step.say(&format!(
        "building bpf-linker {LINKER_VERSION} against LLVM {llvm}, into {}",
        prefix.display()
    ));
    let dir = link.parent().context("the link's folder")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    symlink(&library, &link).with_context(|| format!("make {}", link.display()))?;
    // bpf-linker's build script looks for libLLVM.so in $LLVM_PREFIX/lib: no llvm-dev is needed.
    step.run(
        sh::cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION])
            .args(["--locked", "--force", "--no-default-features", "--features"])
            .arg(format!("llvm-{major}"))
            .arg("--root")
            .arg(&prefix)
            .env("LLVM_PREFIX", prefix.join("llvm"))
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(bin)
}

/// Where the dynamic linker finds a library.
fn shared_library(name: &str) -> Result<PathBuf> {
    let ldconfig = if Path::new("/sbin/ldconfig").exists() {
        "/sbin/ldconfig"
    } else {
        "ldconfig"
    };
    let cache = sh::output(Command::new(ldconfig).arg("-p"))?;
    cache
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(name))
        .find_map(|line| Some(PathBuf::from(line.split("=> ").nth(1)?)))
        .with_context(|| format!("{name} is not among `ldconfig -p`'s libraries"))
}

/// The object without debug sections; its BTF stays.
fn strip(step: &Step, object: &Path, dir: &Path) -> Result<Vec<u8>> {
    // rust-objcopy comes with every rustup toolchain, but finds its libLLVM only through LD_LIBRARY_PATH.
    let print = |what| sh::output(sh::toolchain_rustc().args(["--print", what]));
    let sysroot = PathBuf::from(print("sysroot")?);
    let objcopy = sysroot
        .join("lib/rustlib")
        .join(print("host-tuple")?)
        .join("bin/rust-objcopy");
    ensure!(
        objcopy.exists(),
        "{} is missing: use rustup's toolchain",
        objcopy.display()
    );
    let stripped = dir.join("stripped.o");
    step.run(
        Command::new(objcopy)
            .env("LD_LIBRARY_PATH", sysroot.join("lib"))
            .arg("--strip-debug")
            .arg(object)
            .arg(&stripped),
    )?;
    fs::read(&stripped).with_context(|| format!("read {}", stripped.display()))
}
