//! The libraries of released wheels, under `target/releases/VERSION/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{progress::Step, sh, ttnn};

/// Copies a member of a zip file. Exit code 3 means that there is no such member.
const EXTRACT: &str = "
import shutil, sys, zipfile
wheel, member, to = sys.argv[1:]
with zipfile.ZipFile(wheel) as z:
    if member not in z.namelist():
        sys.exit(3)
    with z.open(member) as f, open(to, 'wb') as t:
        shutil.copyfileobj(f, t)
";
const MEMBER: &str = "ttnn/build/lib/libtt_metal.so";

/// The directory for the results of a release.
pub(super) fn directory(version: &str) -> PathBuf {
    sh::target_dir().join("releases").join(version)
}

/// A Python with pip, in an environment made of `base`, which may have no pip itself.
pub(super) fn with_pip(step: &Step, base: &Path) -> Result<PathBuf> {
    let venv = sh::target_dir().join("xtask/pip");
    let python = venv.join("bin/python");
    if sh::output(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        step.run(
            Command::new(base)
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        )?;
    }
    Ok(python)
}

/// All releases of ttnn that PyPI has for this Python, newest first.
pub(super) fn released(step: &Step, python: &Path) -> Result<Vec<String>> {
    let text = step
        .output(
            Command::new(python)
                .args(["-m", "pip", "index", "versions", "ttnn"])
                .arg("--disable-pip-version-check"),
        )
        .context("can't ask PyPI for the releases of ttnn")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Available versions: "))
        .with_context(|| format!("`pip index versions ttnn` names no versions: {text}"))?;
    let mut versions: Vec<String> = line
        .split(',')
        .map(|version| version.trim().to_owned())
        .collect();
    for version in &versions {
        ttnn::check_version(version)?;
    }
    versions.sort_by_key(|version| numbers(version));
    versions.reverse();
    Ok(versions)
}

/// A key to sort versions by: 0.9 comes before 0.10.
pub(super) fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// Fetches the library of a release; `None` if its wheel has none. The wheel is removed afterwards.
pub(super) fn fetch(step: &Step, python: &Path, version: &str) -> Result<Option<PathBuf>> {
    ttnn::check_version(version)?;
    let dir = directory(version);
    let library = dir.join("libtt_metal.so");
    // Written last, so that the rest is complete if it exists. The tests check for it, too.
    let stamp = dir.join("stamp.json");
    if stamp.exists() {
        return Ok(library.exists().then_some(library));
    }
    let wheels = dir.join("wheel");
    if wheels.exists() {
        fs::remove_dir_all(&wheels).with_context(|| format!("remove {}", wheels.display()))?;
    }
    fs::create_dir_all(&wheels).with_context(|| format!("make {}", wheels.display()))?;
    step.run(
        Command::new(python)
            .args(["-m", "pip", "download", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--no-cache-dir", "--no-deps"])
            .args(["--only-binary", ":all:", "--dest"])
            .arg(&wheels)
            .arg(format!("ttnn=={version}")),
    )
    .with_context(|| format!("can't download ttnn {version} from PyPI"))?;
    let wheel = fs::read_dir(&wheels)
        .with_context(|| format!("read {}", wheels.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", wheels.display()))?;
    let mut extract = Command::new(python);
    extract
        .args(["-c", EXTRACT])
        .arg(&wheel)
        .arg(MEMBER)
        .arg(&library);
    let found = match extract.status() {
        Ok(status) if status.code() == Some(3) => false,
        Ok(status) if status.success() => true,
        other => anyhow::bail!("can't read {} ({other:?})", wheel.display()),
    };
    fs::remove_dir_all(&wheels).with_context(|| format!("remove {}", wheels.display()))?;
    fs::write(&stamp, format!("{{\"ttnn\":\"{version}\"}}"))
        .with_context(|| format!("write {}", stamp.display()))?;
    Ok(found.then_some(library))
}
