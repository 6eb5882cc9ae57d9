//! A kernel side and a machine that a test makes up, or that play a tape.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc::UnboundedSender;
use tracer_common::{Capture, Lists};

use crate::{
    abi::{AbiError, DerivedLibrary},
    ledger::Exit,
    probe::{LinkScope, Probe, ProbeError, Recording, Reporting},
    python::Python,
    session::{Item, Kernel, Processes, Request, Sink},
    stream,
    target::{Identity, MappedFile, TargetError},
};

/// What is fetched at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub records: Vec<Vec<u8>>,
    pub stacks: Vec<Vec<u8>>,
    /// Records lost by then.
    pub lost: u64,
}

impl Batch {
    /// As `lost`: that can't be read, as if the kernel side had failed.
    pub(crate) const FAILS: u64 = u64::MAX;
}

/// What a session asked of the kernel side and of the machine, in order.
pub(crate) type Calls = Arc<Mutex<Vec<String>>>;

/// A kernel side that has sent these batches. When all are fetched, the command ends.
pub(crate) struct PlayedKernel {
    pub batches: VecDeque<Batch>,
    pub requests: UnboundedSender<Request>,
    pub calls: Calls,
    /// Processes that the kernel side may have stopped.
    pub held: Vec<u32>,
    lost: u64,
    stacks: Vec<Vec<u8>>,
    /// The time of the last record that was taken.
    now_ns: u64,
}

impl PlayedKernel {
    pub(crate) fn new(batches: VecDeque<Batch>, started_ns: u64, calls: Calls) -> (Self, Requests) {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        let kernel = Self {
            batches,
            requests,
            calls,
            held: Vec::new(),
            lost: 0,
            stacks: Vec::new(),
            now_ns: started_ns,
        };
        (kernel, receiver)
    }

    fn call(&self, text: impl Into<String>) {
        self.calls.lock().expect("no panic").push(text.into());
    }
}

pub(crate) type Requests = tokio::sync::mpsc::UnboundedReceiver<Request>;

impl Kernel for PlayedKernel {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        if let Some(batch) = self.batches.pop_front() {
            self.lost = batch.lost;
            self.stacks = batch.stacks;
            // All of them, also where the session has seen enough for now: this is what was taken at once.
            for record in batch.records {
                self.now_ns = self
                    .now_ns
                    .max(stream::time_ns(&record).unwrap_or_default());
                each(&record);
            }
        }
        if self.batches.is_empty() {
            // Nobody may listen any more.
            self.requests
                .send(Request::CommandEnded(Some(Exit::Code(0))))
                .ok();
        }
    }

    fn drain_stacks(&mut self, each: &mut dyn FnMut(&[u8]) -> bool) {
        for record in std::mem::take(&mut self.stacks) {
            each(&record);
        }
    }

    async fn attention(&mut self) -> Result<(), ProbeError> {
        if self.batches.is_empty() {
            future::pending::<()>().await;
        }
        Ok(())
    }

    fn lost(&mut self) -> Result<u64, ProbeError> {
        match self.lost {
            Batch::FAILS => Err(ProbeError::Wait(io::Error::other("as this test wants"))),
            lost => Ok(lost),
        }
    }

    fn unfollowed(&mut self) -> Result<u64, ProbeError> {
        Ok(0)
    }

    fn stacks_skipped(&mut self) -> Result<u64, ProbeError> {
        Ok(0)
    }

    fn record(&mut self, what: Recording) -> Result<(), ProbeError> {
        self.call(format!("record {what:?}"));
        Ok(())
    }

    fn report(&mut self, whose: Reporting) -> Result<(), ProbeError> {
        self.call(format!("report {whose:?}"));
        Ok(())
    }

    fn watch(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.call(format!("watch {pid}"));
        Ok(())
    }

    fn let_go(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.call(format!("let go {pid}"));
        Ok(())
    }

    fn let_all_go(&mut self, stopped: &mut Vec<u32>) -> Result<(), ProbeError> {
        self.call("let all go");
        stopped.append(&mut self.held);
        Ok(())
    }

    fn sends_lists(&self) -> bool {
        true
    }

    fn install(&mut self, _: &mut dyn Iterator<Item = &Capture>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn install_lists(&mut self, _: u32, _: &Lists) -> Result<(), ProbeError> {
        Ok(())
    }

    fn attach(&mut self, _: &Path, scope: LinkScope, probes: &[Probe]) -> Result<(), ProbeError> {
        self.call(format!("{} probes on {scope:?}", probes.len()));
        Ok(())
    }

    fn attach_linker(&mut self, _: &Path, _: u64, _: LinkScope) -> Result<(), ProbeError> {
        Ok(())
    }

    fn walk_python(&mut self, _: u32, _: &Python) -> Result<(), ProbeError> {
        Ok(())
    }

    fn set_followers(&mut self, _: u32, _: u64, _: u32) -> Result<(), ProbeError> {
        Ok(())
    }
}

/// The processes of a machine: those that were there when a tape was made, all of which have ended, or those
/// that a test makes up.
#[derive(Clone, Default)]
pub(crate) struct PlayedProcesses {
    pub identities: HashMap<u32, Identity>,
    /// By pid: the path of its library.
    pub libraries: HashMap<u32, PathBuf>,
    pub interpreters: HashMap<u32, Python>,
    pub alive: BTreeSet<u32>,
    /// The excerpt that stands for every library; without one, no library can be traced.
    pub excerpt: Option<&'static str>,
    pub calls: Calls,
}

impl Processes for PlayedProcesses {
    fn identity(&self, pid: u32) -> Result<Identity, TargetError> {
        let identity = self.identities.get(&pid).cloned();
        identity.ok_or(TargetError::NoSuchProcess { pid })
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.alive.contains(&pid)
    }

    fn all(&self) -> Result<Vec<u32>, TargetError> {
        Ok(self.alive.iter().copied().collect())
    }

    fn libraries(&self, pid: u32) -> Result<Vec<MappedFile>, TargetError> {
        let path = self.libraries.get(&pid).into_iter();
        Ok(path
            .map(|path| MappedFile::made_up(pid, path.clone()))
            .collect())
    }

    fn dynamic_linker(&self, _: u32) -> Result<Option<MappedFile>, TargetError> {
        Ok(None)
    }

    fn derive(&self, _: &MappedFile) -> Result<Result<DerivedLibrary, AbiError>, TargetError> {
        Ok(match self.excerpt {
            Some(excerpt) => Ok(DerivedLibrary::from_excerpt(excerpt)),
            None => DerivedLibrary::derive(b"no library".to_vec()),
        })
    }

    fn interpreter(&self, pid: u32) -> Option<Python> {
        self.interpreters.get(&pid).cloned()
    }

    fn is_stopping(&self, _: u32) -> bool {
        true
    }

    fn resume(&self, pid: u32) {
        let text = format!("resume {pid}");
        self.calls.lock().expect("no panic").push(text);
    }
}

/// Keeps all items.
#[derive(Default)]
pub(crate) struct Items(pub Vec<Item>);

impl Sink for Items {
    fn take(&mut self, item: Item) {
        self.0.push(item);
    }

    fn flush(&mut self) {}
}
