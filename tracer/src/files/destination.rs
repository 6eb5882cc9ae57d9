//! What a path leads to.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::error::{MAX_LINKS, WriteError};

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A regular file, existing or not, with symbolic links followed.
    File(PathBuf),
    /// One of this process's own open files, such as `/dev/stdout` leads to.
    Descriptor(i32),
    /// A character device or a FIFO.
    Special(PathBuf),
}

impl Destination {
    /// Follows symbolic links, also one whose target doesn't exist yet, and classifies the last target.
    pub(super) fn resolve(path: &Path) -> Result<Self, WriteError> {
        let given = || path.to_owned();
        if path.as_os_str().is_empty() {
            return Err(WriteError::Empty);
        }
        let mut at = given();
        for _ in 0..MAX_LINKS {
            if let Some(number) = own_descriptor(&at) {
                return Ok(Self::Descriptor(number));
            }
            let metadata = match fs::symlink_metadata(&at) {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == ErrorKind::NotFound => return new_file(path, at),
                Err(e) if e.kind() == ErrorKind::NotADirectory => {
                    return Err(WriteError::NotADirectory {
                        path: given(),
                        directory: directory_of(&at).to_owned(),
                    });
                }
                Err(e) => return Err(WriteError::from_io(path, e)),
            };
            let kind = metadata.file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&at).map_err(|e| WriteError::from_io(path, e))?;
                at = directory_of(&at).join(target);
            } else if kind.is_dir() {
                return Err(WriteError::IsDirectory { path: given() });
            } else if kind.is_file() {
                return Ok(Self::File(at));
            } else if kind.is_fifo() || kind.is_char_device() {
                return Ok(Self::Special(at));
            } else {
                let what = if kind.is_socket() {
                    "socket"
                } else {
                    "block device"
                };
                return Err(WriteError::NotAFile {
                    path: given(),
                    what,
                });
            }
        }
        Err(WriteError::TooManyLinks { path: given() })
    }
}

/// The destination where nothing exists yet, if a file can be created there.
fn new_file(path: &Path, at: PathBuf) -> Result<Destination, WriteError> {
    let given = path.to_owned();
    let names_directory = at.as_os_str().as_bytes().ends_with(b"/") || at.file_name().is_none();
    let directory = directory_of(&at).to_owned();
    match fs::metadata(&directory) {
        Ok(metadata) if !metadata.is_dir() => Err(WriteError::NotADirectory {
            path: given,
            directory,
        }),
        Ok(_) if names_directory => Err(WriteError::NoDirectory {
            path: given,
            directory: at,
        }),
        Ok(_) => Ok(Destination::File(at)),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(WriteError::NoDirectory {
            path: given,
            directory,
        }),
        Err(e) => Err(WriteError::from_io(path, e)),
    }
}

/// The descriptor's number in a path such as `/proc/self/fd/1`, to which `/dev/stdout` leads.
fn own_descriptor(path: &Path) -> Option<i32> {
    let number = path.file_name().and_then(OsStr::to_str)?.parse().ok()?;
    let directory = fs::canonicalize(directory_of(path)).ok()?;
    let own = fs::canonicalize("/proc/self/fd").ok()?;
    (directory == own && path.symlink_metadata().is_ok()).then_some(number)
}

/// The directory that holds `file`.
pub(super) fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}
