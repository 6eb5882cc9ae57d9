//! The stacks of all traced processes: from the kernel's records to frames with names.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io::{Read as _, Seek as _},
    path::PathBuf,
};

use object::read::ReadCache;
use tracer_common::PythonWalk;

use super::{
    args,
    python::{PythonStackId, PythonStacks, is_interpreter},
};
use crate::{
    ledger::{Device, DeviceKind, Event, EventKind, ProgramEvent},
    python::PythonError,
    stack::{Frame, FrameKind, NativeFrame, Stack, StackId, merge},
    stream::{StackKey, StackPart, StackRecord, StackState},
    target::{self, FileId, MappedCode},
    unwind::{self, Broken, Code, Codes, Mapping, NativeStackId, Symbols, Unwinder},
};

/// Halves of stacks whose event hasn't come; their events were lost.
const MOST_PENDING: usize = 100_000;

/// The stacks of every process. A stack's id is one of the whole trace.
pub struct Stacks {
    wanted: args::Stacks,
    processes: Vec<ProcessStacks>,
    /// Of those that run, where they stand among all.
    running: HashMap<u32, usize>,
    pending: HashMap<StackKey, Halves>,
    /// The last buffer that each thread made on a mesh.
    meshes: HashMap<u32, OnMesh>,
    ids: HashMap<(usize, Halves), StackId>,
    known: Vec<(usize, Halves)>,
    files: Files,
}

/// Both halves of a stack, as far as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Halves {
    python: Option<PythonStackId>,
    native: Option<NativeStackId>,
}

/// A buffer on a mesh, and the members that have theirs already.
struct OnMesh {
    pid: u32,
    address: u64,
    stack: Option<StackId>,
    members: HashSet<Device>,
}

/// Those of one program in one process.
struct ProcessStacks {
    pid: u32,
    unwinder: Unwinder,
    python: PythonStacks,
    is_mapped: bool,
}

/// The files of code that any process has mapped.
#[derive(Default)]
struct Files {
    ids: HashMap<FileId, usize>,
    modules: Vec<Module>,
}

/// A file of code, open for as long as it may be wanted.
struct Module {
    path: PathBuf,
    file: File,
    of_interpreter: bool,
    /// Read when the first stack leads through it; `None` if that can't be done.
    code: OnceCell<Option<Code>>,
    /// Read when the first stack is named that leads through it.
    symbols: OnceCell<Symbols>,
}

impl Stacks {
    pub fn new(wanted: args::Stacks) -> Self {
        Self {
            wanted,
            processes: Vec::new(),
            running: HashMap::new(),
            pending: HashMap::new(),
            meshes: HashMap::new(),
            ids: HashMap::new(),
            known: Vec::new(),
            files: Files::default(),
        }
    }

    /// Takes in what a stack record brings.
    pub fn take(&mut self, record: &StackRecord<'_>) {
        if self.pending.len() > MOST_PENDING {
            self.pending.clear();
        }
        let number = self.number(record.pid);
        let Self {
            processes,
            files,
            pending,
            ..
        } = self;
        let process = &mut processes[number];
        match &record.part {
            StackPart::Python { frames, more } => {
                let python = process.python.stack(frames, *more);
                pending.entry(record.key).or_default().python = python;
            }
            StackPart::Code(code) => process.python.code(code),
            StackPart::Native(snapshot) => {
                if !process.is_mapped {
                    process.map(files);
                }
                let mut native = process.unwinder.unwind(files, snapshot);
                if process.is_out_of_date(native) {
                    process.map(files);
                    native = process.unwinder.unwind(files, snapshot);
                }
                pending.entry(record.key).or_default().native = Some(native);
            }
        }
    }

    /// The stack of an event, once its records were taken in.
    pub fn of(&mut self, event: &Event, state: StackState) -> Option<StackId> {
        let stack = match state {
            StackState::Sent(key) => self.intern(event.pid, key),
            StackState::OfMesh => return self.of_mesh(event),
            StackState::None | StackState::Skipped => None,
        };
        if let EventKind::Allocate(buffer) = event.kind
            && buffer.device.kind == DeviceKind::Mesh
        {
            let on_mesh = OnMesh {
                pid: event.pid,
                address: buffer.address,
                stack,
                members: HashSet::new(),
            };
            self.meshes.insert(event.tid, on_mesh);
        }
        stack
    }

    /// The stack of a program's event, likewise.
    pub fn of_program(&mut self, event: &ProgramEvent, state: StackState) -> Option<StackId> {
        match state {
            StackState::Sent(key) => self.intern(event.pid, key),
            StackState::OfMesh | StackState::None | StackState::Skipped => None,
        }
    }

    /// That of the mesh's buffer, if this can be its member: each has one.
    fn of_mesh(&mut self, event: &Event) -> Option<StackId> {
        let EventKind::Create(buffer) = event.kind else {
            return None;
        };
        let mesh = self.meshes.get_mut(&event.tid)?;
        let is_member = mesh.pid == event.pid
            && mesh.address == buffer.address
            && buffer.device.kind == DeviceKind::Chip
            && mesh.members.insert(buffer.device);
        mesh.stack.filter(|_| is_member)
    }

    fn intern(&mut self, pid: u32, key: StackKey) -> Option<StackId> {
        let halves = self.pending.remove(&key)?;
        let next = StackId(self.known.len() as u32);
        let number = self.number(pid);
        if let Some(python) = halves.python {
            self.processes[number].python.settle(python);
        }
        let id = *self.ids.entry((number, halves)).or_insert(next);
        if id == next {
            self.known.push((number, halves));
        }
        Some(id)
    }

    fn number(&mut self, pid: u32) -> usize {
        *self.running.entry(pid).or_insert_with(|| {
            self.processes.push(ProcessStacks::new(pid));
            self.processes.len() - 1
        })
    }

    /// Looks at what a process has mapped now, and at its Python interpreter, if it has one; says how to
    /// walk its frames, if that wasn't known yet.
    ///
    /// # Errors
    /// When the interpreter can't be understood.
    pub fn open(&mut self, pid: u32) -> Result<Option<PythonWalk>, PythonError> {
        if self.wanted == args::Stacks::None {
            return Ok(None);
        }
        let number = self.number(pid);
        let process = &mut self.processes[number];
        let mapped = process.map(&mut self.files);
        process.python.find(&mapped)
    }

    /// The processes whose interpreter may be understood by now.
    pub fn want_a_look(&self) -> Vec<u32> {
        let running = self.running.values().map(|number| &self.processes[*number]);
        running
            .filter(|process| process.python.wants_a_look())
            .map(|process| process.pid)
            .collect()
    }

    /// A process has ended, or executed a program: what it had mapped is gone.
    pub fn close(&mut self, pid: u32) {
        if let Some(number) = self.running.remove(&pid) {
            self.processes[number].unwinder.forget();
        }
    }

    /// All stacks, with names, by the pids of their processes.
    pub fn resolve(self) -> HashMap<u32, BTreeMap<StackId, Stack>> {
        let mut all: HashMap<u32, BTreeMap<StackId, Stack>> = HashMap::new();
        for (id, (number, halves)) in (0..).map(StackId).zip(&self.known) {
            let process = &self.processes[*number];
            let stack = process.resolve(*halves, &self.files);
            all.entry(process.pid).or_default().insert(id, stack);
        }
        all
    }

    /// These stacks, with names.
    pub fn named(&self, ids: &BTreeSet<StackId>) -> BTreeMap<StackId, Stack> {
        let ids = ids.iter();
        ids.filter_map(|id| {
            let (number, halves) = self.known.get(id.0 as usize)?;
            let stack = self.processes[*number].resolve(*halves, &self.files);
            Some((*id, stack))
        })
        .collect()
    }
}

impl ProcessStacks {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            unwinder: Unwinder::default(),
            python: PythonStacks::of(pid),
            is_mapped: false,
        }
    }

    /// Looks at what the process has mapped now.
    fn map(&mut self, files: &mut Files) -> Vec<MappedCode> {
        // Whoever has ended has nothing mapped any more; what it had is known, or never will be.
        let Ok(mapped) = target::code(self.pid) else {
            return Vec::new();
        };
        // Of one that is about to end there is nothing any more, either.
        if mapped.is_empty() {
            return mapped;
        }
        self.is_mapped = true;
        let mappings = mapped.iter().filter_map(|part| {
            Some(Mapping {
                start: part.start,
                end: part.end,
                file_offset: part.file_offset,
                code: files.number(part)?,
            })
        });
        self.unwinder.map(mappings.collect());
        mapped
    }

    /// Whether a stack ended at code that may have been mapped since we looked.
    fn is_out_of_date(&self, native: NativeStackId) -> bool {
        let stack = self.unwinder.stack(native);
        let broken = stack.and_then(|stack| stack.broken);
        matches!(broken, Some(Broken::NoCode(_)))
    }

    fn resolve(&self, halves: Halves, files: &Files) -> Stack {
        let native = halves.native.and_then(|native| self.unwinder.stack(native));
        let mut broken = native.and_then(|native| native.broken.map(|why| why.to_string()));
        let frames = native.map(|native| {
            let frames = native.frames.iter().enumerate();
            let frames = frames.map(|(depth, frame)| named(*frame, depth == 0, files));
            frames.collect()
        });
        let python = halves.python.and_then(|python| self.python.frames(python));
        if python.is_some_and(|python| python.more) {
            broken.get_or_insert_with(|| "there are more Python frames than are kept".to_owned());
        }
        let groups = python.map(|python| python.groups.as_slice());
        merge(
            frames.unwrap_or_default(),
            groups.unwrap_or_default(),
            broken,
        )
    }
}

/// A native frame with its names.
fn named(frame: unwind::NativeFrame, is_innermost: bool, files: &Files) -> NativeFrame {
    let unwind::NativeFrame { at, place } = frame;
    let function = place.and_then(|(code, address)| {
        let name = files.modules.get(code)?.symbols().name(address)?;
        Some(Symbols::demangled(name))
    });
    let module = place.and_then(|(code, _)| files.modules.get(code));
    NativeFrame {
        of_interpreter: module.is_some_and(|module| module.of_interpreter),
        frame: Frame {
            kind: FrameKind::Native,
            function,
            file: None,
            line: None,
            module: module.map(|module| module.path.display().to_string()),
            // Of a return address, the byte before is what counted.
            offset: Some(place.map_or(at, |(_, address)| address + u64::from(!is_innermost))),
        },
    }
}

impl Files {
    /// Where the file of a part of a process's code stands; `None` if it can't be opened.
    fn number(&mut self, part: &MappedCode) -> Option<usize> {
        if let Some(number) = self.ids.get(&part.file) {
            return Some(*number);
        }
        self.modules.push(Module {
            path: part.path.clone(),
            file: part.open().ok()?,
            of_interpreter: is_interpreter(part),
            code: OnceCell::new(),
            symbols: OnceCell::new(),
        });
        let number = self.modules.len() - 1;
        self.ids.insert(part.file, number);
        Some(number)
    }
}

impl Codes for Files {
    fn code(&mut self, number: usize) -> Option<&mut Code> {
        let Module { file, code, .. } = self.modules.get_mut(number)?;
        code.get_or_init(|| Code::read(&ReadCache::new(&*file)).ok());
        code.get_mut()?.as_mut()
    }
}

impl Module {
    fn read_symbols(&self) -> Option<Symbols> {
        // All at once: symbols are many, and each would be a system call or two.
        let mut data = Vec::new();
        (&self.file).rewind().ok()?;
        (&self.file).read_to_end(&mut data).ok()?;
        Symbols::read(data.as_slice()).ok()
    }

    fn symbols(&self) -> &Symbols {
        let read = || self.read_symbols().unwrap_or_default();
        self.symbols.get_or_init(read)
    }
}
