//! The TT-Metal libraries of a host: each file is looked at once, however many processes have it
//! mapped, and each copy is a file of its own.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use anyhow::anyhow;

use super::{
    failure::{Failure, Kind},
    session::Clock,
};
use crate::{
    abi::{self, Abi},
    ledger::Nanoseconds,
    probe::{AttachedProbes, Kernel, Scope},
    report::Library,
    stream::Stream,
    target::{FileId, MappedFile},
};

/// Every library file that was met.
#[derive(Default)]
pub struct Libraries {
    known: HashMap<FileId, Result<Known, Refused>>,
}

/// A library's file and what was derived from it.
pub struct Code {
    pub abi: Abi,
    pub file: abi::Library,
}

/// A library that can be traced.
struct Known {
    library: Library,
    code: Arc<Code>,
    /// Where probes go in the file, and the capture program of each.
    points: Vec<(u64, u32)>,
    /// Since when which processes have probes; `None` stands for all.
    probed: HashMap<Option<u32>, Nanoseconds>,
    probes: AttachedProbes,
}

/// Why a library can't be traced.
#[derive(Clone)]
struct Refused {
    kind: Kind,
    text: String,
}

/// What [`Libraries::trace`] has done.
pub struct Tracing<'a> {
    pub library: &'a Library,
    pub code: &'a Arc<Code>,
    pub probes: usize,
    /// Since when they are on.
    pub since: Nanoseconds,
}

impl Libraries {
    /// Puts probes on a library, for those whom `scope` names, unless they are on already.
    ///
    /// # Errors
    /// When it can't be read or traced. Nothing was touched then. Of the same library the answer
    /// stays the same.
    pub fn trace(
        &mut self,
        kernel: &mut Kernel,
        stream: &mut Stream,
        file: &MappedFile,
        scope: Scope,
        clock: Clock,
    ) -> Result<Tracing<'_>, Failure> {
        let entry = match self.known.entry(file.file) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                // What can't be read may be readable in another process.
                let data = file.read()?;
                let known = Known::derive(kernel, stream, file, data).map_err(|failure| Refused {
                    kind: failure.kind,
                    text: failure.to_string(),
                });
                unknown.insert(known)
            }
        };
        let known = entry
            .as_mut()
            .map_err(|refused| Failure::new(refused.kind, anyhow!(refused.text.clone())))?;
        let of = match scope {
            Scope::All => None,
            Scope::Process(pid) => Some(pid),
        };
        let since = match known.probed.get(&of) {
            Some(since) => *since,
            None => {
                let probes =
                    kernel.attach(&file.open_path(), scope, known.points.iter().copied())?;
                known.probes.append(probes);
                let now = clock.now();
                known.probed.insert(of, now);
                now
            }
        };
        Ok(Tracing {
            library: &known.library,
            code: &known.code,
            probes: known.points.len(),
            since,
        })
    }

    /// The library that a capture program is of, where its probes are in all processes.
    pub fn of_point(&self, point: u32) -> Option<Tracing<'_>> {
        let mut known = self.known.values().flatten();
        let known = known.find(|known| known.points.iter().any(|(_, of)| *of == point))?;
        Some(Tracing {
            library: &known.library,
            code: &known.code,
            probes: known.points.len(),
            since: *known.probed.get(&None)?,
        })
    }

    /// Whether any library has probes.
    pub fn any(&self) -> bool {
        self.known
            .values()
            .flatten()
            .any(|known| !known.probed.is_empty())
    }

    /// All probes, for whoever takes them off.
    pub fn into_probes(self) -> AttachedProbes {
        let mut all = AttachedProbes::default();
        for known in self.known.into_values().flatten() {
            all.append(known.probes);
        }
        all
    }
}

impl Known {
    fn derive(
        kernel: &mut Kernel,
        stream: &mut Stream,
        mapped: &MappedFile,
        data: Vec<u8>,
    ) -> Result<Self, Failure> {
        let path = mapped.path.display().to_string();
        let parsed = abi::Library::parse(data)
            .and_then(|file| Ok((Abi::of(file.image())?, file)))
            .map_err(|error| {
                Failure::new(
                    Kind::Library,
                    anyhow!(error).context(format!("{path} can't be traced")),
                )
            });
        let (abi, file) = parsed?;
        let planned = stream.add(&abi)?;
        kernel.install(planned.iter().map(|(_, capture)| capture))?;
        Ok(Self {
            library: Library {
                path,
                build_id: abi.build_id.clone(),
                release: mapped.release(),
                fields: abi
                    .fields
                    .all()
                    .into_iter()
                    .map(|(name, root, field)| (name.to_owned(), field.path.text(root)))
                    .collect(),
            },
            points: planned
                .iter()
                .map(|(file_offset, capture)| (*file_offset, capture.point))
                .collect(),
            code: Arc::new(Code { abi, file }),
            probed: HashMap::new(),
            probes: AttachedProbes::default(),
        })
    }
}
