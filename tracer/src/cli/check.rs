//! `tt-memtrace check`.

use std::{
    fs,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::anyhow;

use super::{
    args::Check,
    failure::{Failure, Kind},
};
use crate::{
    abi::{self, Abi},
    check::{CheckReport, LibraryCheck, text},
    files,
    probe::Requirements,
    target,
};

/// Looks at the host and at a library, and prints what was found.
///
/// # Errors
/// When tracing can't work, after the report was printed; or when there is no such process or file.
pub(super) fn check(options: &Check) -> Result<ExitCode, Failure> {
    let host = Requirements::check();
    let (library, library_failure) = match library(options)? {
        None => (None, None),
        Some((library, failure)) => (Some(library), failure),
    };
    let failure = host.require().err().map(Failure::from).or(library_failure);
    let report = CheckReport {
        ok: failure.is_none(),
        host,
        library,
    };
    if options.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(Kind::Output, error))?;
        print(&format!("{text}\n"));
    } else {
        print(&text(&report));
    }
    Ok(failure.map_or(ExitCode::SUCCESS, |failure| failure.code()))
}

fn library(options: &Check) -> Result<Option<(LibraryCheck, Option<Failure>)>, Failure> {
    let (path, release, data) = match (options.pid, &options.library) {
        (Some(pid), _) => {
            let file = target::libraries(pid)?.into_iter().next().ok_or_else(|| {
                Failure::new(
                    Kind::NoLibrary,
                    anyhow!(
                        "process {pid} has no file called {}* mapped",
                        target::LIBRARY
                    ),
                )
            })?;
            (
                file.path.display().to_string(),
                file.release(),
                file.read()?,
            )
        }
        (None, Some(path)) => {
            let data = fs::read(path).map_err(|error| {
                Failure::new(
                    Kind::Target,
                    anyhow!(error).context(format!("can't read {}", path.display())),
                )
            })?;
            let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            (
                path.display().to_string(),
                target::wheel_release(&absolute),
                data,
            )
        }
        (None, None) => return Ok(None),
    };
    if let Some(to) = &options.excerpt {
        let text = abi::excerpt(&data)?;
        files::write_whole(to, |file| file.write_all(text.as_bytes()))?;
    }
    let mut check = LibraryCheck::new(path, release);
    let failure = match Abi::derive(&data) {
        Err(error) => {
            check.problem = Some(error.to_string());
            Some(error.into())
        }
        Ok(abi) => {
            check.describe(&abi);
            None
        }
    };
    Ok(Some((check, failure)))
}

/// Prints to standard output. A reader that went away has seen enough; the exit code says the rest.
fn print(text: &str) {
    io::stdout().lock().write_all(text.as_bytes()).ok();
}
