//! Why a result can't be written.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// As many symbolic links as the kernel follows, `path_resolution(7)`.
pub(super) const MAX_LINKS: usize = 40;

/// Why a result can't be written, and what the user can do.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// The path has no characters.
    #[error("the path is empty; name a file, or `-` for standard output")]
    Empty,
    /// The path names a directory.
    #[error("{} is a directory; name a file in it, such as {}", .path.display(), .path.join("summary.json").display())]
    IsDirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The directory that would hold the file does not exist.
    #[error("there is no directory {} to write {} in; create it (mkdir -p) or choose another path", .directory.display(), .path.display())]
    NoDirectory {
        /// The path as given.
        path: PathBuf,
        /// The directory that is missing.
        directory: PathBuf,
    },
    /// Part of the path is a file where a directory has to be.
    #[error("{} can't exist: {} is not a directory; choose another path", .path.display(), .directory.display())]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
        /// The part of the path that is not a directory.
        directory: PathBuf,
    },
    /// The path leads to a block device or a socket.
    #[error("{} is a {what}, which results can't be written to; name a file, or `-` for standard output", .path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// The kind of file.
        what: &'static str,
    },
    /// The chain of symbolic links is too long, or has no end.
    #[error("{} leads through more than {MAX_LINKS} symbolic links; remove the loop or choose another path", .path.display())]
    TooManyLinks {
        /// The path as given.
        path: PathBuf,
    },
    /// The file exists and this user may not write it.
    #[error("{} may not be overwritten by this user; choose another path, or make it writable (chmod u+w)", .path.display())]
    FileNotWritable {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// This user may not write the directory. A file that appears whole or not at all is first written
    /// to a temporary file beside it, so the directory has to be writable even if the file is.
    #[error("no file can be created in the directory {} for {}; choose a path in a directory that this user can write, or `-` for standard output", .directory.display(), .path.display())]
    DirectoryNotWritable {
        /// The path as given.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path is on a read-only file system.
    #[error("{} is on a read-only file system; choose a path elsewhere, such as /tmp, or `-` for standard output", .path.display())]
    ReadOnly {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk is full, or the user's quota is used up.
    #[error("no space left to write {}; free some space or choose a path elsewhere", .path.display())]
    NoSpace {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other error of the kernel.
    #[error("cannot write {}; check the path and its file system, or choose another", .path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A stream, such as standard output, did not take the whole result.
    #[error("the result could not be written to its end; is the reader still there?")]
    Stream {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl WriteError {
    /// From an error of creating a file in `directory`.
    pub(super) fn in_directory(path: &Path, directory: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::PermissionDenied => Self::DirectoryNotWritable {
                path: path.to_owned(),
                directory: directory.to_owned(),
                source,
            },
            _ => Self::from_io(path, source),
        }
    }

    /// From an error of opening an existing file.
    pub(super) fn opening(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::PermissionDenied => Self::FileNotWritable {
                path: path.to_owned(),
                source,
            },
            _ => Self::from_io(path, source),
        }
    }

    /// From any other error of the kernel.
    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            _ => Self::Io { path, source },
        }
    }
}
