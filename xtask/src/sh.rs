//! Runs other programs, as root where needed.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::progress::Step;

/// The top of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The workspace's target directory, or `CARGO_TARGET_DIR`.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("read /proc/self")?.uid() == 0)
}

/// A command that runs `program` as root: by sudo if this process isn't root.
///
/// sudo doesn't pass on variables that are set on the command: use `env` for them.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    ensure!(
        on_path("sudo").is_some(),
        "`{program}` needs root here and there is no sudo: run this command as root"
    );
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Makes the user the owner of the files in `dirs` that a program under sudo has left there.
pub(crate) fn give_back(dirs: &[PathBuf]) -> Result<()> {
    if is_root()? {
        return Ok(());
    }
    let own = fs::metadata("/proc/self").context("read /proc/self")?;
    let present = dirs.iter().filter(|dir| dir.exists());
    output(
        as_root("chown")?
            .arg("-R")
            .arg(format!("{}:{}", own.uid(), own.gid()))
            .args(present),
    )
    .map(drop)
}

/// The first file of that name in PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// A cargo command without the environment of the `cargo run` that started xtask.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in env::vars_os() {
        let n = name.to_string_lossy();
        // cargo puts the toolchain's own libraries into LD_LIBRARY_PATH, which are wrong for another rustc.
        if n.starts_with("CARGO_PKG_")
            || n.starts_with("CARGO_MANIFEST_")
            || matches!(
                &*n,
                "CARGO" | "RUSTC" | "RUST_RECURSION_COUNT" | "LD_LIBRARY_PATH"
            )
        {
            command.env_remove(&name);
        }
    }
    command.current_dir(root());
    command
}

/// The compiler that builds this workspace.
pub(crate) fn toolchain_rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(root());
    command
}

/// A command's stdout, trimmed. The error of a failed command has its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .output()
        .with_context(|| format!("can't start `{shown}`"))?;
    ensure!(
        output.status.success(),
        "`{shown}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let stdout =
        String::from_utf8(output.stdout).with_context(|| format!("output of `{shown}`"))?;
    Ok(stdout.trim().to_owned())
}

/// A command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$\\".contains(c))
            {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Installs those of Debian's `packages` that are missing.
pub(crate) fn apt_install(step: &Step, packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if on_path("apt-get").is_none() {
        bail!(
            "missing: {}. This system has no apt-get: install what these Debian packages contain, and \
             run this again",
            missing.join(", ")
        );
    }
    step.say(&format!("apt-get install {}", missing.join(" ")));
    // apt waits for dpkg's lock, but not for the lock on the package lists, which another apt may hold on a machine
    // that has just started.
    for attempt in 0.. {
        match step.run(apt_get()?.args(["update"])) {
            Ok(()) => break,
            Err(error) if attempt == 10 => {
                step.say(&format!("continuing with old package lists: {error:#}"));
                break;
            }
            Err(_) => thread::sleep(Duration::from_secs(6)),
        }
    }
    step.run(
        apt_get()?
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(|| format!("can't install Debian's {}", missing.join(", ")))
}

fn apt_get() -> Result<Command> {
    let mut command = as_root("env")?;
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    Ok(command)
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// FNV-1a with 64 bits, to notice changes of a file.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
