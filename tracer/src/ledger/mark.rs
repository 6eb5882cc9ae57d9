//! Moments that somebody marked, and what one process has done since each.

use std::collections::{BTreeMap, HashMap};

use super::{Birth, Device, DeviceAccount, Kin, LiveBuffer, Memory, Nanoseconds, Tally};

/// A moment in the stream of events: what came before it belongs before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// From 1 on.
    pub number: u32,
    /// What somebody called it.
    pub name: Option<String>,
    pub at: Nanoseconds,
}

/// What one process must remember of the marks.
///
/// A mark copies each account, which doesn't depend on how many buffers are live. A birth is told from
/// those after a mark by its place among the process's allocations. Only what crosses a mark is remembered,
/// once it ends: by the marks between which it was born and ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// Those since the process is known, in order.
    notes: Vec<Note>,
    crossed: HashMap<(Span, Kin), Tally>,
}

/// A process at a mark.
#[derive(Clone, Debug)]
struct Note {
    mark: u32,
    /// How many allocations it had made.
    allocations: u64,
    memory: BTreeMap<Device, Memory>,
    had_ended: bool,
}

/// After how many of the process's marks a buffer was born and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    /// `None`: it was there before the tracer came, and so before all marks.
    born: Option<usize>,
    ended: usize,
}

impl Marks {
    pub fn note(
        &mut self,
        mark: u32,
        allocations: u64,
        devices: &BTreeMap<Device, DeviceAccount>,
        had_ended: bool,
    ) {
        let devices = devices.iter();
        self.notes.push(Note {
            mark,
            allocations,
            memory: devices
                .map(|(device, account)| (*device, account.memory))
                .collect(),
            had_ended,
        });
    }

    /// A live owning buffer has ended.
    pub fn end(&mut self, live: &LiveBuffer) {
        let born = self.born(live);
        let ended = self.notes.len();
        if born < Some(ended) {
            let buffer = &live.buffer;
            let kin = (buffer.device, buffer.buffer_type, live.source());
            let span = Span { born, ended };
            let tally = self.crossed.entry((span, kin)).or_default();
            tally.add(buffer.size);
        }
    }

    fn born(&self, live: &LiveBuffer) -> Option<usize> {
        match live.birth {
            Birth::Traced { allocations, .. } => {
                let before = |note: &Note| note.allocations < allocations;
                Some(self.notes.partition_point(before))
            }
            Birth::BeforeAttach => None,
        }
    }

    /// `None` if the process had ended by then.
    pub fn since(&self, mark: u32) -> Option<Since<'_>> {
        let noted = self.notes.partition_point(|note| note.mark <= mark);
        let note = noted.checked_sub(1).map(|last| &self.notes[last]);
        let is_over = note.is_some_and(|note| note.had_ended);
        (!is_over).then_some(Since {
            marks: self,
            noted,
            memory: note.map(|note| &note.memory),
        })
    }
}

/// What a process has done since a mark. If it came later: all that it has done.
#[derive(Clone, Copy, Debug)]
pub struct Since<'a> {
    marks: &'a Marks,
    noted: usize,
    memory: Option<&'a BTreeMap<Device, Memory>>,
}

impl Since<'_> {
    /// A device's accounts as they were then.
    pub fn memory(&self, device: Device) -> Memory {
        let memory = self.memory.and_then(|memory| memory.get(&device));
        memory.copied().unwrap_or_default()
    }

    /// Whether an owning buffer was allocated since. One from before the tracer came never was.
    pub fn is_new(&self, live: &LiveBuffer) -> bool {
        self.marks.born(live) >= Some(self.noted)
    }

    /// The owning buffers that were live then and have ended since.
    pub fn gone(&self) -> BTreeMap<Kin, Tally> {
        let mut gone: BTreeMap<Kin, Tally> = BTreeMap::new();
        for ((span, kin), tally) in &self.marks.crossed {
            if span.born < Some(self.noted) && span.ended >= self.noted {
                *gone.entry(*kin).or_default() += *tally;
            }
        }
        gone
    }
}
