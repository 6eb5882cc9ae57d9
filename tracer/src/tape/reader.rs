//! What stands on a tape, for a test that plays it.

use std::collections::VecDeque;

use super::{FETCHED, IDENTITY, INTERPRETER, LIBRARY, RECORD, STACK, STARTED};
use crate::{
    session::tests::player::{Batch, PlayedProcesses},
    target::Identity,
};

/// What stands on a tape.
#[derive(Default)]
pub(crate) struct Tape {
    pub started_ns: u64,
    pub batches: VecDeque<Batch>,
    /// The first process that was introduced: the command.
    pub command: u32,
    pub processes: PlayedProcesses,
}

impl Tape {
    pub(crate) fn read(mut bytes: &[u8]) -> Self {
        let mut tape = Self::default();
        let mut batch = Batch::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            let (len, rest) = rest.split_first_chunk().expect("a length");
            let (entry, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            bytes = rest;
            match kind {
                RECORD => batch.records.push(entry.to_vec()),
                STACK => batch.stacks.push(entry.to_vec()),
                FETCHED => {
                    if !batch.records.is_empty() || !batch.stacks.is_empty() {
                        tape.batches.push_back(std::mem::take(&mut batch));
                    }
                }
                STARTED => tape.started_ns = json(entry),
                IDENTITY => {
                    let (pid, comm, command_line) = json(entry);
                    if tape.processes.identities.is_empty() {
                        tape.command = pid;
                    }
                    let identity = Identity {
                        pid,
                        comm,
                        command_line,
                    };
                    // The last name: a process is introduced before it has executed its program, too.
                    tape.processes.identities.insert(pid, identity);
                }
                LIBRARY => {
                    let (pid, path) = json(entry);
                    tape.processes.libraries.insert(pid, path);
                }
                INTERPRETER => {
                    let (pid, python) = json(entry);
                    tape.processes.interpreters.insert(pid, python);
                }
                other => panic!("an entry of kind {other}"),
            }
        }
        tape
    }
}

fn json<T: serde::de::DeserializeOwned>(entry: &[u8]) -> T {
    serde_json::from_slice(entry).expect("the JSON of a tape")
}
