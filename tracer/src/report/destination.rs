//! Where results are written: a file that appears whole or not at all, or something that can only
//! be written to as it comes (a terminal, a pipe, `/dev/null`).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use tempfile::NamedTempFile;
use thiserror::Error;

use super::Summary;

/// The mode of a new file, before the umask.
const NEW_FILE: u32 = 0o644;

/// As many symbolic links as the kernel follows, `path_resolution(7)`.
const MOST_LINKS: usize = 40;

/// Why a result cannot be written, and what to do.
#[derive(Debug, Error)]
pub enum WriteError {
    /// No path at all.
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
    #[error("{} cannot be: {} is not a directory; choose another path", .path.display(), .directory.display())]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
        /// What is not a directory.
        directory: PathBuf,
    },
    /// A block device or a socket.
    #[error("{} is a {what}, which is nothing to write a summary to; name a file, or `-` for standard output", .path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A chain of symbolic links without an end.
    #[error("{} leads through more than {MOST_LINKS} symbolic links; remove the loop or choose another path", .path.display())]
    TooManyLinks {
        /// The path as given.
        path: PathBuf,
    },
    /// The file exists and may not be written.
    #[error("{} may not be overwritten by this user; choose another path, or make it writable (chmod u+w)", .path.display())]
    FileNotWritable {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory may not be written. A file that appears whole or not at all is first written
    /// beside its place, so the directory has to be writable even where the file is.
    #[error("no file can be made in the directory {} for {}; choose a path in a directory that this user can write, or `-` for standard output", .directory.display(), .path.display())]
    DirectoryNotWritable {
        /// The path as given.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The place is on a read-only file system.
    #[error("{} is on a read-only file system; choose a path elsewhere, such as /tmp, or `-` for standard output", .path.display())]
    ReadOnly {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk is full, or the user's quota.
    #[error("no space left to write {}; make room or choose a path elsewhere", .path.display())]
    NoSpace {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot write {}; check the path and what it is on, or choose another", .path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A stream, such as standard output, did not take the summary.
    #[error("the summary could not be written to its end; is the reader still there?")]
    Stream {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What a path turned out to lead to.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A regular file, there or not, with symbolic links followed.
    File(PathBuf),
    /// One of this process's own open files, such as `/dev/stdout` leads to.
    Descriptor(i32),
    /// A character device or a FIFO.
    Special(PathBuf),
}

/// Says whether [`write_json`] to `path` would find a place. Changes nothing there, and does not
/// wait for the reader of a FIFO.
///
/// # Errors
/// As [`write_json`], as far as can be told before.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    match resolve(path)? {
        Place::File(file) => {
            if file.exists() {
                OpenOptions::new()
                    .append(true)
                    .open(&file)
                    .map_err(|e| not_writable(path, e))?;
            }
            beside(path, &file).map(drop)
        }
        Place::Descriptor(_) => Ok(()),
        Place::Special(special) => {
            access(&special, Access::WRITE_OK).map_err(|e| not_writable(path, e.into()))
        }
    }
}

/// Writes the summary to `path` as indented JSON.
///
/// A file appears whole or not at all, and a file that was there stays as it was until then; it
/// keeps its mode, a new one has 0644 less the umask. Symbolic links are followed. A terminal, a
/// FIFO, `/dev/null`, `/dev/stdout` and the like are written to directly; a FIFO waits for its
/// reader.
///
/// # Errors
/// If `path` is not something to write to or does not take it all.
pub fn write_json(path: &Path, summary: &Summary) -> Result<(), WriteError> {
    let io = |source| io_error(path, source);
    match resolve(path)? {
        Place::File(file) => {
            let mut temporary = beside(path, &file)?;
            let mut writer = BufWriter::new(temporary.as_file_mut());
            put_json(&mut writer, summary).map_err(io)?;
            drop(writer);
            if let Ok(old) = fs::metadata(&file) {
                // The owner first: a change of owner may take bits from the mode.
                let _only_root_can = fchown(temporary.as_file(), Some(old.uid()), Some(old.gid()));
                let mode = Permissions::from_mode(old.mode() & 0o777);
                temporary.as_file().set_permissions(mode).map_err(io)?;
            }
            temporary.as_file().sync_all().map_err(io)?;
            temporary.persist(&file).map_err(|e| io(e.error))?;
            Ok(())
        }
        other @ (Place::Descriptor(_) | Place::Special(_)) => {
            let mut writer = BufWriter::new(open_directly(path, &other)?);
            put_json(&mut writer, summary).map_err(io)
        }
    }
}

/// Writes the summary to a stream, such as standard output, as indented JSON.
///
/// # Errors
/// If the stream does not take it all.
pub fn write_json_to(writer: &mut impl Write, summary: &Summary) -> Result<(), WriteError> {
    put_json(writer, summary).map_err(|source| WriteError::Stream { source })
}

/// Opens `path` for lines that are written as they come, so not whole or not at all: a file that
/// was there is emptied. Otherwise the same paths are good as for [`write_json`].
///
/// # Errors
/// If `path` is not something to write to.
pub fn open_lines(path: &Path) -> Result<BufWriter<Box<dyn Write + Send>>, WriteError> {
    let writer: Box<dyn Write + Send> = match resolve(path)? {
        Place::File(file) => Box::new(File::create(&file).map_err(|e| match file.parent() {
            Some(directory) if !file.exists() => directory_not_writable(path, directory, e),
            _ => not_writable(path, e),
        })?),
        other @ (Place::Descriptor(_) | Place::Special(_)) => open_directly(path, &other)?,
    };
    Ok(BufWriter::new(writer))
}

fn put_json(writer: &mut impl Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *writer, summary)?;
    writer.write_all(b"\n")?;
    writer.flush()
}

fn open_directly(path: &Path, place: &Place) -> Result<Box<dyn Write + Send>, WriteError> {
    Ok(match place {
        // To open /dev/stdout anew would begin at the start of a file that it leads to, and not
        // work at all for a socket.
        Place::Descriptor(1) => Box::new(io::stdout()),
        Place::Descriptor(2) => Box::new(io::stderr()),
        Place::Descriptor(number) => {
            let open = OpenOptions::new()
                .append(true)
                .open(format!("/proc/self/fd/{number}"));
            Box::new(open.map_err(|e| not_writable(path, e))?)
        }
        Place::Special(file) | Place::File(file) => {
            let open = OpenOptions::new().write(true).open(file);
            Box::new(open.map_err(|e| not_writable(path, e))?)
        }
    })
}

/// A new file in the directory of `file`, gone again unless it takes that one's place.
fn beside(path: &Path, file: &Path) -> Result<NamedTempFile, WriteError> {
    let directory = directory_of(file);
    tempfile::Builder::new()
        .prefix(".tt-memtrace-")
        .permissions(Permissions::from_mode(NEW_FILE))
        .tempfile_in(directory)
        .map_err(|e| directory_not_writable(path, directory, e))
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Follows symbolic links, also one that leads to nothing yet, and sees what is at their end.
fn resolve(path: &Path) -> Result<Place, WriteError> {
    let given = || path.to_owned();
    if path.as_os_str().is_empty() {
        return Err(WriteError::Empty);
    }
    let mut at = given();
    for _ in 0..MOST_LINKS {
        if let Some(number) = own_descriptor(&at) {
            return Ok(Place::Descriptor(number));
        }
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == ErrorKind::NotFound => return missing(path, at),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                return Err(WriteError::NotADirectory {
                    path: given(),
                    directory: directory_of(&at).to_owned(),
                });
            }
            Err(e) => return Err(io_error(path, e)),
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&at).map_err(|e| io_error(path, e))?;
            at = directory_of(&at).join(target);
        } else if kind.is_dir() {
            return Err(WriteError::IsDirectory { path: given() });
        } else if kind.is_file() {
            return Ok(Place::File(at));
        } else if kind.is_fifo() || kind.is_char_device() {
            return Ok(Place::Special(at));
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

/// Nothing is at the path's end; is it where a file can come to be?
fn missing(path: &Path, at: PathBuf) -> Result<Place, WriteError> {
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
        Ok(_) => Ok(Place::File(at)),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(WriteError::NoDirectory {
            path: given,
            directory,
        }),
        Err(e) => Err(io_error(path, e)),
    }
}

/// The number in a path such as `/proc/self/fd/1`, to which `/dev/stdout` leads.
fn own_descriptor(path: &Path) -> Option<i32> {
    let number = path.file_name().and_then(OsStr::to_str)?.parse().ok()?;
    let directory = fs::canonicalize(directory_of(path)).ok()?;
    let own = fs::canonicalize("/proc/self/fd").ok()?;
    (directory == own && path.symlink_metadata().is_ok()).then_some(number)
}

fn directory_not_writable(path: &Path, directory: &Path, source: io::Error) -> WriteError {
    match source.kind() {
        ErrorKind::PermissionDenied => WriteError::DirectoryNotWritable {
            path: path.to_owned(),
            directory: directory.to_owned(),
            source,
        },
        _ => io_error(path, source),
    }
}

fn not_writable(path: &Path, source: io::Error) -> WriteError {
    match source.kind() {
        ErrorKind::PermissionDenied => WriteError::FileNotWritable {
            path: path.to_owned(),
            source,
        },
        _ => io_error(path, source),
    }
}

fn io_error(path: &Path, source: io::Error) -> WriteError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::ReadOnlyFilesystem => WriteError::ReadOnly { path, source },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => WriteError::NoSpace { path, source },
        _ => WriteError::Io { path, source },
    }
}
