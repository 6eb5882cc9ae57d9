use std::{
    fs, io,
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{TargetError, process};

/// What the file name of a TT-Metal library begins with.
pub const LIBRARY: &str = "libtt_metal.so";

/// What `/proc/PID/maps` puts behind the path of a file that was removed or replaced.
const DELETED: &str = " (deleted)";

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    pub pid: u32,
    /// The path as the process sees it.
    pub path: PathBuf,
    /// The same path as the kernel spells it (it may end in ` (deleted)`).
    listed: PathBuf,
    /// Device and inode, which tell files apart whatever they are called.
    pub file: ((i32, i32), u64),
    /// Where its first byte is mapped.
    pub start: u64,
    /// The range of that mapping, as `/proc/PID/map_files` names it.
    range: (u64, u64),
}

impl MappedFile {
    fn new(pid: u32, map: &MemoryMap) -> Option<Self> {
        let MMapPath::Path(listed) = &map.pathname else {
            return None;
        };
        if map.offset != 0 || map.inode == 0 {
            return None;
        }
        let path = listed
            .to_str()
            .and_then(|path| path.strip_suffix(DELETED))
            .map_or_else(|| listed.clone(), PathBuf::from);
        Some(Self {
            pid,
            path,
            listed: listed.clone(),
            file: (map.dev, map.inode),
            start: map.address.0,
            range: map.address,
        })
    }

    /// A path by which this process can open the very file that is mapped, whatever mount namespace
    /// the target lives in, and though it may have been removed or replaced since.
    pub fn open_path(&self) -> PathBuf {
        let by_mapping = PathBuf::from(format!(
            "/proc/{}/map_files/{:x}-{:x}",
            self.pid, self.range.0, self.range.1
        ));
        if fs::metadata(&by_mapping).is_ok() {
            return by_mapping;
        }
        // `map_files` wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        let relative = self.listed.strip_prefix("/").unwrap_or(&self.listed);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(relative)
    }

    /// The release of the ttnn wheel that the file is part of, where it is part of one.
    pub fn release(&self) -> Option<String> {
        let root = Path::new("/proc").join(self.pid.to_string()).join("root");
        wheel_release(&root.join(self.path.strip_prefix("/").unwrap_or(&self.path)))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self) -> Result<Vec<u8>, TargetError> {
        let path = self.open_path();
        fs::read(&path).map_err(|source: io::Error| TargetError::File {
            pid: self.pid,
            path,
            source,
        })
    }
}

/// The release of the ttnn wheel that a file is part of: pip installs `ttnn-0.81.1.dist-info` beside
/// the package.
pub fn wheel_release(library: &Path) -> Option<String> {
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

fn maps(pid: u32) -> Result<Vec<MemoryMap>, TargetError> {
    let maps = process(pid)?
        .maps()
        .map_err(|source| TargetError::unreadable(pid, source))?;
    Ok(maps.into_iter().collect())
}

/// The TT-Metal libraries that a process has mapped, each once.
///
/// # Errors
/// When there is no such process or it may not be looked at.
pub fn libraries(pid: u32) -> Result<Vec<MappedFile>, TargetError> {
    let mut found: Vec<MappedFile> = Vec::new();
    let maps = maps(pid)?;
    for file in maps.iter().filter_map(|map| MappedFile::new(pid, map)) {
        let named = file
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(LIBRARY));
        // Mapped for running, not just read by some tool.
        let runs = maps.iter().any(|map| {
            (map.dev, map.inode) == file.file && map.perms.contains(MMPermissions::EXECUTE)
        });
        if named && runs && !found.iter().any(|other| other.file == file.file) {
            found.push(file);
        }
    }
    Ok(found)
}

/// Whether a process has a TT-Metal library mapped.
///
/// # Errors
/// Like [`libraries`].
pub fn is_loaded(pid: u32) -> Result<bool, TargetError> {
    Ok(!libraries(pid)?.is_empty())
}

/// The dynamic linker of a process: the file that the kernel mapped beside the program
/// (`AT_BASE`). `None` for a statically linked program.
///
/// # Errors
/// Like [`libraries`].
pub fn dynamic_linker(pid: u32) -> Result<Option<MappedFile>, TargetError> {
    const AT_BASE: u64 = 7;
    let auxiliary = process(pid)?
        .auxv()
        .map_err(|source| TargetError::unreadable(pid, source))?;
    let Some(base) = auxiliary.get(&AT_BASE).filter(|base| **base != 0) else {
        return Ok(None);
    };
    Ok(maps(pid)?
        .iter()
        .filter_map(|map| MappedFile::new(pid, map))
        .find(|file| file.start == *base))
}
