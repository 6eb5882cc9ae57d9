//! The TT-Metal libraries of a host: each file is looked at once, however many processes have it
//! mapped, and each copy is a file of its own.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::anyhow;

use super::{
    clock::Clock,
    failure::{Failure, Kind},
};
use crate::{
    abi::{self, Abi, AbiError},
    ledger::Nanoseconds,
    probe::{AttachedProbes, Kernel, Probe, Scope},
    report::Library,
    stream::{Planned, Stream},
    target::{self, FileId, MappedFile},
};

/// Every library file that was met.
#[derive(Default)]
pub struct Libraries {
    known: HashMap<FileId, Result<Known, Refused>>,
    /// What is derived in threads of its own, for whoever comes to need it.
    ahead: HashMap<FileId, JoinHandle<Option<Derived>>>,
}

/// What a library's file says.
type Derived = Result<(Abi, abi::Library), AbiError>;

/// A library's file and what was derived from it.
pub struct Code {
    pub abi: Abi,
    pub file: abi::Library,
}

/// A library that can be traced.
struct Known {
    library: Library,
    no_programs: Option<String>,
    code: Arc<Code>,
    /// Where probes go in the file.
    points: Vec<Probe>,
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
    /// Why what its programs take of L1 can't be told; told once.
    pub no_programs: Option<String>,
    pub code: &'a Arc<Code>,
    pub probes: usize,
    /// Whether some of them tell of programs.
    pub programs: bool,
    /// Since when they are on.
    pub since: Nanoseconds,
}

impl Libraries {
    /// Begins to derive what these processes have loaded: it takes as long as the kernel's side takes to
    /// load.
    pub fn of(pids: &BTreeSet<u32>) -> Self {
        let mut libraries = Self::default();
        let mapped = pids.iter().filter_map(|pid| target::libraries(*pid).ok());
        for file in mapped.flatten() {
            libraries.ahead.entry(file.file).or_insert_with(|| {
                // What can't be read is told when it is needed.
                thread::spawn(move || Some(derive(file.read().ok()?)))
            });
        }
        libraries
    }

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
                let ahead = self.ahead.remove(&file.file);
                let derived = match ahead.and_then(|thread| thread.join().ok().flatten()) {
                    Some(derived) => derived,
                    // What can't be read may be readable in another process.
                    None => derive(file.read()?),
                };
                let known = Known::new(kernel, stream, file, derived).map_err(|failure| Refused {
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
            no_programs: known.no_programs.take(),
            code: &known.code,
            probes: known.points.len(),
            programs: known.points.iter().any(|probe| probe.lists),
            since,
        })
    }

    /// The library that a capture program is of, where its probes are in all processes.
    pub fn of_point(&self, point: u32) -> Option<Tracing<'_>> {
        let mut known = self.known.values().flatten();
        let known = known.find(|known| known.points.iter().any(|probe| probe.point == point))?;
        Some(Tracing {
            library: &known.library,
            no_programs: None,
            code: &known.code,
            probes: known.points.len(),
            programs: known.points.iter().any(|probe| probe.lists),
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

fn derive(data: Vec<u8>) -> Derived {
    let file = abi::Library::parse(data)?;
    Ok((Abi::of(file.image())?, file))
}

impl Known {
    fn new(
        kernel: &mut Kernel,
        stream: &mut Stream,
        mapped: &MappedFile,
        derived: Derived,
    ) -> Result<Self, Failure> {
        let path = mapped.path.display().to_string();
        let (abi, file) = derived.map_err(|error| {
            Failure::new(
                Kind::Library,
                anyhow!(error).context(format!("{path} can't be traced")),
            )
        })?;
        let programs = abi.programs.as_ref().ok().and_then(Option::as_ref);
        let Planned { captures, lists } =
            stream.add(&abi, programs.filter(|_| kernel.sends_lists()))?;
        kernel.install(captures.iter().map(|(_, capture)| capture))?;
        if let Some((number, lists)) = &lists {
            kernel.install_lists(*number, lists)?;
        }
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
            points: captures
                .iter()
                .map(|(file_offset, capture)| Probe {
                    file_offset: *file_offset,
                    point: capture.point,
                    lists: capture.lists_when != tracer_common::lists::NONE,
                })
                .collect(),
            no_programs: abi.programs.as_ref().err().cloned(),
            code: Arc::new(Code { abi, file }),
            probed: HashMap::new(),
            probes: AttachedProbes::default(),
        })
    }
}
