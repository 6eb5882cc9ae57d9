use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{TargetError, process::process};

/// What the file name of a TT-Metal library begins with.
pub(crate) const LIBRARY: &str = "libtt_metal.so";

/// What `/proc/PID/maps` puts behind the path of a file that was removed or replaced.
const DELETED: &str = " (deleted)";

/// Identifies a file whatever it is called and wherever it is mounted: by its inode, which is also what
/// the kernel puts probes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileId {
    Inode {
        /// Major and minor number.
        device: (i32, i32),
        inode: u64,
    },
    /// A file in an overlay, such as a container's: several overlays show the same file of an image,
    /// each under a device of its own. The inode number is that of the underlying file
    /// (`Documentation/filesystems/overlayfs.rst`, "Inode properties"). Underlying files on different
    /// devices may have the same number; size and modification time tell them apart.
    Overlay {
        inode: u64,
        size: u64,
        /// In nanoseconds since 1970.
        modified: i128,
    },
}

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappedFile {
    pub pid: u32,
    /// The path as the process sees it.
    pub path: PathBuf,
    /// The same path as the kernel spells it (it may end in ` (deleted)`).
    listed: PathBuf,
    pub file: FileId,
    /// Where its first byte is mapped.
    pub start: u64,
    /// The range of that mapping, as `/proc/PID/map_files` names it.
    range: (u64, u64),
}

impl FileId {
    fn from_map(map: &MemoryMap) -> Self {
        Self::Inode {
            device: map.dev,
            inode: map.inode,
        }
    }

    /// The identity of a file in an overlay; `None` for any other file.
    fn in_overlay(path: &Path) -> Option<Self> {
        /// `OVERLAYFS_SUPER_MAGIC`, `include/uapi/linux/magic.h`.
        const OVERLAY: i64 = 0x794c_7630;
        if rustix::fs::statfs(path).ok()?.f_type != OVERLAY {
            return None;
        }
        let metadata = fs::metadata(path).ok()?;
        Some(Self::Overlay {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        })
    }
}

impl MappedFile {
    /// The file of a mapping that begins with the file's first byte.
    fn from_first_map(pid: u32, map: &MemoryMap) -> Option<Self> {
        (map.offset == 0)
            .then(|| Self::from_map(pid, map))
            .flatten()
    }

    /// The file of a mapping; `None` if no file backs it.
    fn from_map(pid: u32, map: &MemoryMap) -> Option<Self> {
        let MMapPath::Path(listed) = &map.pathname else {
            return None;
        };
        if map.inode == 0 {
            return None;
        }
        Some(Self {
            pid,
            path: without_deleted(listed),
            listed: listed.clone(),
            file: FileId::from_map(map),
            start: map.address.0,
            range: map.address,
        })
    }

    /// Identifies the file by its overlay, if it lies in one.
    fn with_overlay(mut self) -> Self {
        if let Some(file) = FileId::in_overlay(&self.open_path()) {
            self.file = file;
        }
        self
    }

    /// A path by which the tracer can open the very file that is mapped, whatever mount namespace the
    /// target lives in, even if the file has been removed or replaced since.
    pub(crate) fn open_path(&self) -> PathBuf {
        let by_mapping = PathBuf::from(format!(
            "/proc/{}/map_files/{:x}-{:x}",
            self.pid, self.range.0, self.range.1
        ));
        if fs::metadata(&by_mapping).is_ok() {
            return by_mapping;
        }
        // `map_files` needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        let relative = self.listed.strip_prefix("/").unwrap_or(&self.listed);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(relative)
    }

    /// The release of the ttnn wheel that the file comes from, if it comes from one.
    pub(crate) fn release(&self) -> Option<String> {
        let root = Path::new("/proc").join(self.pid.to_string()).join("root");
        wheel_release(&root.join(self.path.strip_prefix("/").unwrap_or(&self.path)))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn read(&self) -> Result<Vec<u8>, TargetError> {
        let path = self.open_path();
        fs::read(&path).map_err(|source: io::Error| TargetError::File {
            pid: self.pid,
            path,
            source,
        })
    }
}

/// The release of the ttnn wheel that a file comes from, if it comes from one: pip installs `ttnn-0.81.1.dist-info` beside
/// the package.
pub(crate) fn wheel_release(library: &Path) -> Option<String> {
    let packages = library
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| name == "site-packages"))?;
    fs::read_dir(packages).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        Some(
            name.to_str()?
                .strip_prefix("ttnn-")?
                .strip_suffix(".dist-info")?
                .to_owned(),
        )
    })
}

pub(super) fn maps(pid: u32) -> Result<Vec<MemoryMap>, TargetError> {
    let maps = process(pid)?
        .maps()
        .map_err(|source| TargetError::unreadable(pid, source))?;
    Ok(maps.into_iter().collect())
}

/// The TT-Metal libraries that a process has mapped, each once.
///
/// # Errors
/// When there is no such process or it may not be looked at.
pub(crate) fn libraries(pid: u32) -> Result<Vec<MappedFile>, TargetError> {
    let mut found: Vec<MappedFile> = Vec::new();
    let maps = maps(pid)?;
    for file in maps
        .iter()
        .filter_map(|map| MappedFile::from_first_map(pid, map))
    {
        let named = file
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(LIBRARY));
        // A tool that only reads the file has no executable mapping of it.
        let runs = maps.iter().any(|map| {
            FileId::from_map(map) == file.file && map.perms.contains(MMPermissions::EXECUTE)
        });
        if named && runs && !found.iter().any(|other| other.file == file.file) {
            found.push(file);
        }
    }
    Ok(found.into_iter().map(MappedFile::with_overlay).collect())
}

/// Part of a file that a process has mapped for execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappedCode {
    pub start: u64,
    pub end: u64,
    /// The offset in the file of what is mapped at `start`.
    pub file_offset: u64,
    /// Where the file's first byte is mapped; `None` if it isn't.
    pub first_byte: Option<u64>,
    /// The path as the process sees it.
    pub path: PathBuf,
    pub file: FileId,
    opened_by: MappedFile,
}

impl MappedCode {
    /// Opens the very file that is mapped, even if it has been replaced since.
    ///
    /// # Errors
    /// When it can't be read, or the process has ended.
    pub(crate) fn open(&self) -> io::Result<fs::File> {
        fs::File::open(self.opened_by.open_path())
    }
}

/// All code that a process has mapped from files.
///
/// # Errors
/// Like [`libraries`].
pub(crate) fn code(pid: u32) -> Result<Vec<MappedCode>, TargetError> {
    let maps = maps(pid)?;
    let code = maps
        .iter()
        .filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    Ok(code
        .filter_map(|map| {
            let file = MappedFile::from_map(pid, map)?;
            Some(MappedCode {
                start: map.address.0,
                end: map.address.1,
                file_offset: map.offset,
                first_byte: maps
                    .iter()
                    .find(|first| first.offset == 0 && FileId::from_map(first) == file.file)
                    .map(|first| first.address.0),
                path: file.path.clone(),
                file: file.file,
                opened_by: file,
            })
        })
        .collect())
}

/// Removes the suffix that the kernel adds to the path of a removed file.
fn without_deleted(listed: &Path) -> PathBuf {
    listed
        .to_str()
        .and_then(|path| path.strip_suffix(DELETED))
        .map_or_else(|| listed.to_owned(), PathBuf::from)
}

/// Whether a process has a TT-Metal library mapped.
///
/// # Errors
/// Like [`libraries`].
pub(crate) fn is_loaded(pid: u32) -> Result<bool, TargetError> {
    Ok(!libraries(pid)?.is_empty())
}

/// The dynamic linker of a process: the file that the kernel mapped beside the program
/// (`AT_BASE`). `None` for a statically linked program.
///
/// # Errors
/// Like [`libraries`].
pub(crate) fn dynamic_linker(pid: u32) -> Result<Option<MappedFile>, TargetError> {
    const AT_BASE: u64 = 7;
    let auxiliary = process(pid)?
        .auxv()
        .map_err(|source| TargetError::unreadable(pid, source))?;
    let Some(base) = auxiliary.get(&AT_BASE).filter(|base| **base != 0) else {
        return Ok(None);
    };
    Ok(maps(pid)?
        .iter()
        .filter_map(|map| MappedFile::from_first_map(pid, map))
        .find(|file| file.start == *base)
        .map(MappedFile::with_overlay))
}

#[cfg(test)]
impl MappedFile {
    /// A file that no process of this machine has mapped. Each path is a file of its own.
    pub(crate) fn made_up(pid: u32, path: PathBuf) -> Self {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

        let inode = BuildHasherDefault::<DefaultHasher>::default().hash_one(&path);
        Self {
            pid,
            listed: path.clone(),
            path,
            file: FileId::Inode {
                device: (0, 0),
                inode,
            },
            start: 0,
            range: (0, 0),
        }
    }
}
