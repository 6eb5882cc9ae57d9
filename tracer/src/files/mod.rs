//! Output files: a file that appears whole or not at all, or a destination that can only be written to
//! as the output comes (a terminal, a pipe, `/dev/null`).
//!
//! * [`check_writable`] finds out before a trace begins whether its result can be written.
//! * [`write_whole`] writes a file that appears whole or not at all, [`write_stream`] a stream.
//! * [`open_lines`] opens a file for lines that are written as they come.

mod destination;
mod error;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{Access, access};
use tempfile::NamedTempFile;

use destination::{Destination, directory_of};
pub(crate) use error::WriteError;

/// The mode of a new file, before the umask.
const NEW_FILE_MODE: u32 = 0o644;

/// Checks whether [`write_whole`] could write to `path`. Changes nothing there, and does not wait for
/// the reader of a FIFO.
///
/// # Errors
/// The errors of [`write_whole`], as far as they show before anything is written.
pub(crate) fn check_writable(path: &Path) -> Result<(), WriteError> {
    match Destination::resolve(path)? {
        Destination::File(file) => {
            if file.exists() {
                OpenOptions::new()
                    .append(true)
                    .open(&file)
                    .map_err(|e| WriteError::opening(path, e))?;
            }
            temporary_beside(path, &file).map(drop)
        }
        Destination::Descriptor(_) => Ok(()),
        Destination::Special(special) => {
            access(&special, Access::WRITE_OK).map_err(|e| WriteError::opening(path, e.into()))
        }
    }
}

/// Writes to `path` what `write` puts out.
///
/// A file appears whole or not at all, and an existing file stays as it is until then. An existing file
/// keeps its mode, a new one gets 0644 less the umask. Symbolic links are followed. A terminal, a FIFO,
/// `/dev/null`, `/dev/stdout` and the like are written to directly; opening a FIFO waits for its reader.
///
/// # Errors
/// If `path` can't be written to, does not take everything, or `write` fails.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    let io = |source| WriteError::from_io(path, source);
    match Destination::resolve(path)? {
        Destination::File(file) => {
            let mut temporary = temporary_beside(path, &file)?;
            buffered(temporary.as_file_mut(), write).map_err(io)?;
            if let Ok(old) = fs::metadata(&file) {
                // The owner first: a change of owner may clear bits of the mode.
                let _only_root_can = fchown(temporary.as_file(), Some(old.uid()), Some(old.gid()));
                let mode = Permissions::from_mode(old.mode() & 0o777);
                temporary.as_file().set_permissions(mode).map_err(io)?;
            }
            temporary.as_file().sync_all().map_err(io)?;
            temporary.persist(&file).map_err(|e| io(e.error))?;
            Ok(())
        }
        other @ (Destination::Descriptor(_) | Destination::Special(_)) => {
            buffered(open_directly(path, &other)?, write).map_err(io)
        }
    }
}

/// Writes to a stream, such as standard output, what `write` puts out.
///
/// # Errors
/// If the stream does not take everything, or `write` fails.
pub(crate) fn write_stream(
    stream: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    write(stream)
        .and_then(|()| stream.flush())
        .map_err(|source| WriteError::Stream { source })
}

/// Opens `path` for lines that are written as they come: an existing file is emptied at once. Accepts
/// the same paths as [`write_whole`].
///
/// # Errors
/// If `path` can't be written to.
pub(crate) fn open_lines(path: &Path) -> Result<BufWriter<Box<dyn Write + Send>>, WriteError> {
    let writer: Box<dyn Write + Send> = match Destination::resolve(path)? {
        Destination::File(file) => {
            Box::new(File::create(&file).map_err(|e| match file.parent() {
                Some(directory) if !file.exists() => WriteError::in_directory(path, directory, e),
                _ => WriteError::opening(path, e),
            })?)
        }
        other @ (Destination::Descriptor(_) | Destination::Special(_)) => {
            open_directly(path, &other)?
        }
    };
    Ok(BufWriter::new(writer))
}

fn buffered(
    file: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush()
}

fn open_directly(
    path: &Path,
    destination: &Destination,
) -> Result<Box<dyn Write + Send>, WriteError> {
    Ok(match destination {
        // Opening /dev/stdout anew would begin at the start of a file that it leads to, and would fail
        // for a socket.
        Destination::Descriptor(1) => Box::new(io::stdout()),
        Destination::Descriptor(2) => Box::new(io::stderr()),
        Destination::Descriptor(number) => {
            let open = OpenOptions::new()
                .append(true)
                .open(format!("/proc/self/fd/{number}"));
            Box::new(open.map_err(|e| WriteError::opening(path, e))?)
        }
        Destination::Special(file) | Destination::File(file) => {
            let open = OpenOptions::new().write(true).open(file);
            Box::new(open.map_err(|e| WriteError::opening(path, e))?)
        }
    })
}

/// A new file in the directory of `file`. It is removed again unless it replaces `file`.
fn temporary_beside(path: &Path, file: &Path) -> Result<NamedTempFile, WriteError> {
    let directory = directory_of(file);
    tempfile::Builder::new()
        .prefix(".tt-memtrace-")
        .permissions(Permissions::from_mode(NEW_FILE_MODE))
        .tempfile_in(directory)
        .map_err(|e| WriteError::in_directory(path, directory, e))
}
