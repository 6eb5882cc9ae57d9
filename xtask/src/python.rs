//! Finds a suitable Python.

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command};

use anyhow::anyhow;

use crate::sh;

/// The CPythons that ttnn has wheels for.
const FOR_TTNN: [&str; 2] = ["3.10", "3.12"];

/// A CPython that ttnn has wheels for, from PATH or pyenv's versions.
pub(crate) fn for_ttnn() -> Option<PathBuf> {
    let versions: Vec<String> = FOR_TTNN.iter().map(|v| v.replace('.', ", ")).collect();
    let condition = format!(
        "platform.python_implementation() == 'CPython' and sys.version_info[:2] in [({})]",
        versions.join("), (")
    );
    find(&condition)
}

/// The error where there is none.
pub(crate) fn none_for_ttnn() -> anyhow::Error {
    let versions = FOR_TTNN.join(" or ");
    anyhow!(
        "no CPython {versions} with venv on PATH or in ~/.pyenv/versions, and ttnn has wheels for \
         no other: install one, for instance with `pyenv install {}`",
        FOR_TTNN[0]
    )
}

/// Any Python 3 that can make a virtual environment.
pub(crate) fn any() -> Option<PathBuf> {
    find("sys.version_info >= (3, 8)")
}

/// The first Python that can make a virtual environment and fulfils the condition. Each candidate is run to find
/// out: pyenv has shims for versions that aren't active, and Debian's python has no `ensurepip` without its venv
/// package.
fn find(condition: &str) -> Option<PathBuf> {
    let code = format!("import ensurepip, platform, sys, venv; sys.exit(not ({condition}))");
    let on_path = FOR_TTNN
        .iter()
        .filter_map(|version| sh::on_path(&format!("python{version}")))
        .chain(sh::on_path("python3"));
    let mut candidates: Vec<PathBuf> = on_path.collect();
    if let Some(home) = env::home_dir()
        && let Ok(versions) = fs::read_dir(home.join(".pyenv/versions"))
    {
        // Sorted, so that a machine always uses the same one.
        let versions: BTreeSet<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
        candidates.extend(versions.into_iter().map(|dir| dir.join("bin/python")));
    }
    candidates
        .into_iter()
        .find(|python| sh::output(Command::new(python).args(["-c", &code])).is_ok())
}
