use std::path::Path;

use procfs::process::all_processes;

use super::{Candidate, Identity, TargetError, mapping};

/// The processes that `name` may mean, but for the tracer itself: those with that command name
/// (`comm`), and those whose program, or the script that their interpreter runs, is a file of that
/// name. So both `python3` and `workload.py` find `python3 workload.py`.
///
/// # Errors
/// When `/proc` can't be read.
pub(super) fn candidates(name: &str) -> Result<Vec<Candidate>, TargetError> {
    let own = std::process::id();
    let processes = all_processes().map_err(|source| TargetError::unreadable(own, source))?;
    let mut found = Vec::new();
    for process in processes.flatten() {
        let pid = process.pid().unsigned_abs();
        if pid == own {
            continue;
        }
        // A process that can't be read has ended.
        let Ok(identity) = Identity::from_pid(pid) else {
            continue;
        };
        let exe = process.exe().ok();
        if is_called(&identity, exe.as_deref(), name) {
            found.push(Candidate {
                has_library: mapping::is_loaded(pid).ok(),
                identity,
            });
        }
    }
    Ok(found)
}

/// The one process that `name` means.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) fn find_by_name(name: &str) -> Result<u32, TargetError> {
    let candidates = candidates(name)?;
    match candidates.as_slice() {
        [] => Err(TargetError::NoneNamed {
            name: name.to_owned(),
        }),
        [one] => Ok(one.identity.pid),
        _ => Err(TargetError::Ambiguous {
            name: name.to_owned(),
            candidates,
        }),
    }
}

fn is_called(identity: &Identity, exe: Option<&Path>, name: &str) -> bool {
    let is_file = |path: &Path| path.file_name().is_some_and(|file| file == name);
    let mut arguments = identity.command_line.iter();
    let program = arguments.next();
    let script = arguments.find(|argument| !argument.starts_with('-'));
    // A tracer's own command line has the name, too.
    let is_tracer = exe.is_some_and(|exe| {
        exe.file_name()
            == std::env::current_exe()
                .ok()
                .as_deref()
                .and_then(Path::file_name)
    });
    identity.comm == name
        || exe.is_some_and(is_file)
        || program.is_some_and(|program| is_file(Path::new(program)))
        || (!is_tracer && script.is_some_and(|script| is_file(Path::new(script))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(comm: &str, command_line: &[&str]) -> Identity {
        Identity {
            pid: 1,
            comm: comm.into(),
            command_line: command_line.iter().map(|s| (*s).into()).collect(),
        }
    }

    #[test]
    fn a_name_may_mean_a_command_a_program_or_a_script() {
        let process = identity(
            "python3",
            &["/venv/bin/python", "-u", "/home/me/train.py", "model.py"],
        );
        let exe = Path::new("/usr/bin/python3.10");
        for name in ["python3", "python", "python3.10", "train.py"] {
            assert!(is_called(&process, Some(exe), name), "{name}");
        }
        for name in ["model.py", "train", "me", ""] {
            assert!(!is_called(&process, Some(exe), name), "{name}");
        }
    }
}
