//! The TT-Metal libraries of a host: each file is derived once, however many processes have it mapped,
//! and each copy is a file of its own.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{Kernel, Processes, SessionError, TracedLibrary};
use crate::{
    abi::{AbiError, DerivedLibrary},
    clock::Clock,
    ledger::Nanoseconds,
    probe::{LinkScope, Probe},
    stream::{Planned, Stream},
    target::{FileId, MappedFile},
};

/// Every library file that a process has.
#[derive(Default)]
pub(crate) struct Libraries {
    files: HashMap<FileId, Result<ProbedLibrary, Arc<SessionError>>>,
    /// Libraries that are being derived in threads of their own, before anything asks for them.
    ahead: HashMap<FileId, JoinHandle<Option<Derived>>>,
}

type Derived = Result<DerivedLibrary, AbiError>;

/// A library that can be traced.
struct ProbedLibrary {
    library: TracedLibrary,
    derived: Arc<DerivedLibrary>,
    /// Why the L1 use of its programs can't be derived, until that was reported.
    no_programs: Option<String>,
    /// Where probes go in the file.
    points: Vec<Probe>,
    /// Since when the library has probes for which processes.
    probed: HashMap<LinkScope, Nanoseconds>,
}

/// What is known of a library that has probes.
pub(crate) struct Probed<'a> {
    pub library: &'a TracedLibrary,
    pub derived: &'a Arc<DerivedLibrary>,
    /// Why the L1 use of its programs can't be derived. Taken once, so that it is reported once.
    pub no_programs: Option<String>,
    /// How many probes it has.
    pub probes: usize,
    /// Whether some of them are on functions of programs.
    pub programs: bool,
    /// Since when they are on.
    pub since: Nanoseconds,
}

impl Libraries {
    /// Begins to derive the libraries of these processes, in threads of their own.
    pub(crate) fn derive_ahead(pids: &BTreeSet<u32>, processes: &impl Processes) -> Self {
        let mut libraries = Self::default();
        let mapped = pids.iter().filter_map(|pid| processes.libraries(*pid).ok());
        for file in mapped.flatten() {
            let processes = processes.clone();
            libraries.ahead.entry(file.file).or_insert_with(|| {
                // What can't be read is an error when it is needed.
                thread::spawn(move || processes.derive(&file).ok())
            });
        }
        libraries
    }

    /// Puts probes on a library for the processes that `scope` names, unless they are on already.
    ///
    /// # Errors
    /// When it can't be read or traced. Nothing was touched then, and the same library is refused again.
    pub(crate) fn probe(
        &mut self,
        kernel: &mut impl Kernel,
        processes: &impl Processes,
        stream: &mut Stream,
        file: &MappedFile,
        scope: LinkScope,
        clock: Clock,
    ) -> Result<Probed<'_>, SessionError> {
        let entry = match self.files.entry(file.file) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let ahead = self.ahead.remove(&file.file);
                let derived = match ahead.and_then(|thread| thread.join().ok().flatten()) {
                    Some(derived) => derived,
                    // What can't be read may be readable in another process.
                    None => processes.derive(file)?,
                };
                let library = ProbedLibrary::new(kernel, stream, file, derived);
                unknown.insert(library.map_err(Arc::new))
            }
        };
        let library = entry
            .as_mut()
            .map_err(|error| SessionError::Refused(Arc::clone(error)))?;
        let since = match library.probed.get(&scope) {
            Some(since) => *since,
            None => {
                kernel.attach(&file.open_path(), scope, &library.points)?;
                let since = clock.at(kernel.now_ns());
                library.probed.insert(scope, since);
                since
            }
        };
        let no_programs = library.no_programs.take();
        Ok(library.describe(no_programs, since))
    }

    /// The library that a probe point belongs to, where it has probes for all processes.
    pub(crate) fn of_point(&self, point: u32) -> Option<Probed<'_>> {
        let mut libraries = self.files.values().flatten();
        let library =
            libraries.find(|library| library.points.iter().any(|probe| probe.point == point))?;
        let since = *library.probed.get(&LinkScope::AllProcesses)?;
        Some(library.describe(None, since))
    }

    /// Whether any library has probes.
    pub(crate) fn any(&self) -> bool {
        let mut libraries = self.files.values().flatten();
        libraries.any(|library| !library.probed.is_empty())
    }
}

impl ProbedLibrary {
    fn new(
        kernel: &mut impl Kernel,
        stream: &mut Stream,
        mapped: &MappedFile,
        derived: Derived,
    ) -> Result<Self, SessionError> {
        let path = mapped.path.display().to_string();
        let derived = match derived {
            Ok(derived) => derived,
            Err(source) => return Err(SessionError::Library { path, source }),
        };
        let abi = &derived.abi;
        let programs = abi.programs.as_ref().ok().and_then(Option::as_ref);
        let Planned { captures, lists } =
            stream.add(abi, programs.filter(|_| kernel.sends_lists()))?;
        kernel.install(&mut captures.iter().map(|(_, capture)| capture))?;
        if let Some((number, lists)) = &lists {
            kernel.install_lists(*number, lists)?;
        }
        let fields = abi.fields.all().into_iter();
        let points = captures.iter().map(|(file_offset, capture)| Probe {
            file_offset: *file_offset,
            point: capture.point,
            lists: capture.lists_when != tracer_common::lists::NONE,
        });
        Ok(Self {
            library: TracedLibrary {
                path,
                build_id: abi.build_id.clone(),
                release: mapped.release(),
                fields: fields
                    .map(|(name, root, field)| (name.to_owned(), field.path.text(root)))
                    .collect(),
            },
            points: points.collect(),
            no_programs: abi.programs.as_ref().err().cloned(),
            derived: Arc::new(derived),
            probed: HashMap::new(),
        })
    }

    fn describe(&self, no_programs: Option<String>, since: Nanoseconds) -> Probed<'_> {
        Probed {
            library: &self.library,
            derived: &self.derived,
            no_programs,
            probes: self.points.len(),
            programs: self.points.iter().any(|probe| probe.lists),
            since,
        }
    }
}
