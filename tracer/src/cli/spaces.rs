//! Which addresses the allocators of traced processes can give: asked where an event first names one,
//! and again where one has refused. That takes less than a millisecond, and no longer in a large process.

use std::collections::{BTreeMap, HashMap};

use super::reading::Subject;
use crate::{
    baseline::BankMap,
    ledger::{AllocatorPointer, BankRange, Buffer, BufferType, Event, EventKind},
};

/// So often an allocator is asked that doesn't answer: each attempt costs time.
const ATTEMPTS: u32 = 5;

/// What an allocator has answered.
pub struct Learnt {
    pub allocator: AllocatorPointer,
    pub ranges: Vec<(BufferType, BankRange)>,
    /// Blocks aren't what the library's code says of them: what was recorded of their lengths so far is
    /// to be forgotten.
    pub lengths_are_wrong: bool,
}

/// What is known of an allocator.
#[derive(Clone, Copy, Default)]
struct Known {
    /// What it has answered is to be relied on.
    answered: bool,
    answered_once: bool,
    /// Since the last answer.
    attempts: u32,
}

/// Whom to ask.
#[derive(Default)]
pub struct Spaces {
    /// By process: it may have loaded several copies of the library.
    subjects: HashMap<u32, Vec<Subject>>,
    known: HashMap<(u32, AllocatorPointer), Known>,
    /// Processes whose blocks have proven to be what the library's code says of them, or not to be.
    proven: HashMap<u32, bool>,
}

impl Spaces {
    /// A process has a library.
    pub fn want(&mut self, subject: Subject) {
        let subjects = self.subjects.entry(subject.file.pid).or_default();
        let is_known = |known: &Subject| known.file.file == subject.file.file;
        if !subjects.iter().any(is_known) {
            subjects.push(subject);
        }
    }

    /// A process has ended or executed a program.
    pub fn forget(&mut self, pid: u32) {
        self.subjects.remove(&pid);
        self.known.retain(|(of, _), _| *of != pid);
        self.proven.remove(&pid);
    }

    /// Asks where an event gives a reason to. Takes back what the event tells of a block, if that isn't to
    /// be trusted.
    pub fn look(&mut self, event: &mut Event) -> Option<Learnt> {
        let pid = event.pid;
        match &mut event.kind {
            EventKind::Allocate(buffer) => {
                let learnt = self.ask(pid, buffer, false);
                if self.proven.get(&pid) == Some(&false) {
                    buffer.bytes_per_bank = None;
                }
                learnt
            }
            // What there is may have changed: an allocator can be made to give less.
            EventKind::Failed(buffer) => self.ask(pid, buffer, true),
            EventKind::BulkFree(allocator) => {
                self.known.remove(&(pid, *allocator));
                None
            }
            _ => None,
        }
    }

    fn ask(&mut self, pid: u32, buffer: &Buffer, again: bool) -> Option<Learnt> {
        let &Buffer {
            allocator,
            buffer_type,
            ..
        } = buffer;
        let subjects = self.subjects.get(&pid)?;
        let known = self.known.entry((pid, allocator)).or_default();
        if known.answered && !again || known.attempts == ATTEMPTS {
            return None;
        }
        known.attempts += 1;
        let (subject, maps) = maps_of(subjects, allocator)?;
        let is_new = !known.answered_once;
        *known = Known {
            answered: true,
            answered_once: true,
            attempts: 0,
        };
        if is_new {
            // What it gives may have been another's, as with sub-devices.
            for ((of, other), known) in &mut self.known {
                known.answered &= *of != pid || *other == allocator;
            }
        }
        let mut lengths_are_wrong = false;
        if !self.proven.contains_key(&pid)
            && let Some(told) = subject.blocks_are_as_told(allocator, buffer_type)
        {
            self.proven.insert(pid, told);
            lengths_are_wrong = !told;
        }
        Some(Learnt {
            allocator,
            ranges: ranges(maps),
            lengths_are_wrong,
        })
    }

    /// What the allocators of those say that still run, at the end of a trace.
    pub fn look_again(&self) -> Vec<(u32, Learnt)> {
        let known = self.known.iter().filter(|(_, known)| known.answered_once);
        let learnt = known.filter_map(|((pid, allocator), _)| {
            let (_, maps) = maps_of(self.subjects.get(pid)?, *allocator)?;
            let learnt = Learnt {
                allocator: *allocator,
                ranges: ranges(maps),
                lengths_are_wrong: false,
            };
            Some((*pid, learnt))
        });
        learnt.collect()
    }
}

fn maps_of(
    subjects: &[Subject],
    allocator: AllocatorPointer,
) -> Option<(&Subject, BTreeMap<BufferType, BankMap>)> {
    let mut subjects = subjects.iter();
    subjects.find_map(|subject| Some((subject, subject.bank_maps(allocator)?)))
}

fn ranges(maps: BTreeMap<BufferType, BankMap>) -> Vec<(BufferType, BankRange)> {
    let maps = maps.into_iter();
    maps.map(|(buffer_type, map)| (buffer_type, map.range))
        .collect()
}
