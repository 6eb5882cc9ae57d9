//! One trace, from the first probe to the summary.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use rustix::time::{ClockId, clock_gettime};

use super::{
    failure::{Failure, Kind},
    host,
    output::Output,
};
use crate::{
    abi::Abi,
    ledger::{Event, EventKind, Exit, Ledger, Nanoseconds},
    probe::{AttachedProbes, Kernel, ProbePoint},
    report::{Attached, Facts, Library, ProcessFacts, Summary, Tool},
    stream::{Decoded, Stream},
    target::{self, Identity, MappedFile},
};

/// How often records are fetched: they don't ask for it, since waking a reader for each would cost
/// the target more than all the rest.
pub const FETCH: Duration = Duration::from_millis(10);

/// Undecodable records that are told one by one; the rest is only counted.
const MOST_TOLD: u64 = 5;

/// A trace that is going on.
pub struct Session {
    pub kernel: Kernel,
    pub output: Output,
    stream: Stream,
    ledger: Ledger,
    started_at: SystemTime,
    started_ns: u64,
    /// Records that the kernel side had no room for, as far as the ledger knows.
    lost: u64,
    undecodable: u64,
    processes: BTreeMap<u32, ProcessFacts>,
    traced: Vec<(MappedFile, AttachedProbes)>,
    /// How the last thread to end of each process did.
    exits: HashMap<u32, Option<Exit>>,
}

impl Session {
    /// Loads the kernel's side. Nothing is recorded yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(ring_bytes: u32, output: Output) -> Result<Self, Failure> {
        let kernel = Kernel::load(ring_bytes)?;
        let started_ns = monotonic_ns();
        Ok(Self {
            kernel,
            output,
            stream: Stream::new(started_ns),
            ledger: Ledger::new(),
            started_at: SystemTime::now(),
            started_ns,
            lost: 0,
            undecodable: 0,
            processes: BTreeMap::new(),
            traced: Vec::new(),
            exits: HashMap::new(),
        })
    }

    fn now(&self) -> Nanoseconds {
        Nanoseconds(monotonic_ns().saturating_sub(self.started_ns))
    }

    /// Takes a process into the summary, whether or not it ever loads a library.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn introduce(&mut self, pid: u32, attached: Attached) -> Result<(), Failure> {
        let Identity {
            pid,
            comm,
            command_line,
        } = Identity::of(pid)?;
        let library = self.processes.remove(&pid).and_then(|known| known.library);
        self.processes.insert(
            pid,
            ProcessFacts {
                pid,
                comm,
                command_line,
                attached,
                library,
            },
        );
        Ok(())
    }

    /// Puts probes on each TT-Metal library of a process that has none yet, and tells whether there
    /// is any with probes.
    ///
    /// # Errors
    /// When a library can't be read or traced. The process isn't touched then.
    pub fn trace_libraries(&mut self, pid: u32) -> Result<bool, Failure> {
        let mut any = false;
        for file in target::libraries(pid)? {
            let is_this = |(traced, _): &(MappedFile, AttachedProbes)| {
                traced.pid == pid && traced.file == file.file
            };
            if !self.traced.iter().any(is_this) {
                self.trace(file)?;
            }
            any = true;
        }
        Ok(any)
    }

    fn trace(&mut self, file: MappedFile) -> Result<(), Failure> {
        let pid = file.pid;
        let path = file.path.display().to_string();
        let abi = Abi::derive(&file.read()?).map_err(|error| {
            Failure::new(
                Kind::Library,
                anyhow!(error).context(format!("{path} can't be traced")),
            )
        })?;
        let points: Vec<ProbePoint> = self
            .stream
            .add(&abi, file.start.wrapping_sub(abi.first_address))?
            .into_iter()
            .map(|(file_offset, capture)| ProbePoint {
                file_offset,
                capture,
            })
            .collect();
        let probes = self.kernel.attach(&file.open_path(), pid, &points)?;
        let library = Library {
            path,
            build_id: abi.build_id.clone(),
            release: file.release(),
            fields: abi
                .fields
                .all()
                .into_iter()
                .map(|(name, root, field)| (name.to_owned(), field.path.text(root)))
                .collect(),
        };
        let facts = self
            .processes
            .entry(pid)
            .or_insert_with(|| ProcessFacts::unknown(pid));
        let named = library
            .release
            .as_deref()
            .map(|release| format!("ttnn {release}, "))
            .unwrap_or_default();
        let build_id = library
            .build_id
            .as_deref()
            .map_or("without build id", |id| id.get(..12).unwrap_or(id));
        self.output.say(&format!(
            "tracing {} (pid {pid}): {named}{} {build_id}, {} probes",
            facts.comm,
            target::LIBRARY,
            probes.count(),
        ));
        facts.library.get_or_insert(library);
        self.traced.push((file, probes));
        Ok(())
    }

    /// Fetches all records that wait, brings them into the ledger, and returns what is not about
    /// memory.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub fn fetch(&mut self) -> Result<Vec<Decoded>, Failure> {
        let Self {
            kernel,
            stream,
            ledger,
            output,
            undecodable,
            exits,
            ..
        } = self;
        let mut controls = Vec::new();
        let mut unread = 0;
        let mut last = None;
        kernel.drain(|record| match stream.decode(record) {
            Ok(Decoded::Memory(event)) => {
                last = Some((event.pid, event.tid));
                let outcome = ledger.apply(&event);
                output.event(&event, &outcome);
            }
            Ok(Decoded::ThreadExit { pid, exit }) => {
                exits.insert(pid, exit);
            }
            Ok(control) => controls.push(control),
            Err(error) => {
                unread += 1;
                if *undecodable + unread <= MOST_TOLD {
                    tracing::warn!("a record can't be read and counts as lost: {error}");
                }
            }
        });
        self.undecodable += unread;
        let lost = self.kernel.lost()?;
        let newly = lost.saturating_sub(self.lost) + unread;
        self.lost = lost;
        if newly > 0 {
            let (pid, tid) = last.unwrap_or_default();
            self.apply(pid, tid, EventKind::Lost(newly));
        }
        Ok(controls)
    }

    fn apply(&mut self, pid: u32, tid: u32, kind: EventKind) {
        let event = Event {
            pid,
            tid,
            time: self.now(),
            kind,
        };
        let outcome = self.ledger.apply(&event);
        self.output.event(&event, &outcome);
    }

    /// Notes the end of a process, after everything that it did. `known`: how it ended, where the
    /// caller knows better than the kernel's side.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub fn ended(&mut self, pid: u32, known: Option<Exit>) -> Result<(), Failure> {
        self.fetch()?;
        let exit = known.or_else(|| self.exits.get(&pid).copied().flatten());
        self.apply(pid, pid, EventKind::Exit(exit));
        Ok(())
    }

    /// Whether any library has probes.
    pub fn traces_anything(&self) -> bool {
        !self.traced.is_empty()
    }

    /// Stops recording, writes and shows the summary, and takes the probes off.
    ///
    /// # Errors
    /// When a result can't be written; the probes are off then all the same.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.kernel.record(false)?;
        self.fetch()?;
        let facts = Facts {
            tool: Tool {
                name: "tt-memtrace".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            host: host::describe(),
            started_at: self.started_at,
            duration: Duration::from_nanos(self.now().0),
            processes: self.processes.into_values().collect(),
        };
        self.output.finish(&Summary::new(&self.ledger, &facts))
    }
}

/// `CLOCK_MONOTONIC`, which the kernel side stamps records with (`bpf_ktime_get_ns`).
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}
