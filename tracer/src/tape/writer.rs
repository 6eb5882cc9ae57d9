//! The file that a tape is written to.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    sync::{Mutex, OnceLock},
};

use serde::Serialize;
use tracer_common::{Header, POINT_FORK};

use super::FETCHED;

/// `PID_MAX_LIMIT` of 64-bit Linux (`include/linux/threads.h`).
const PID_MAX_LIMIT: u32 = 4 << 20;

static TAPE: OnceLock<Option<Mutex<BufWriter<File>>>> = OnceLock::new();

/// Writes an entry if `TT_MEMTRACE_TAPE` is set. Panics on failure: only developers record fixtures.
fn entry(kind: u8, bytes: &[u8]) {
    let tape = TAPE.get_or_init(|| {
        let path = std::env::var_os("TT_MEMTRACE_TAPE")?;
        let file = File::create(path).expect("a place for the tape");
        Some(Mutex::new(BufWriter::new(file)))
    });
    if let Some(tape) = tape {
        let mut tape = tape.lock().expect("no panic while it was written");
        let len = u32::try_from(bytes.len()).expect("a short entry");
        let written = tape
            .write_all(&[kind])
            .and_then(|()| tape.write_all(&len.to_le_bytes()))
            .and_then(|()| tape.write_all(bytes))
            .and_then(|()| {
                if kind == FETCHED {
                    tape.flush()
                } else {
                    Ok(())
                }
            });
        written.expect("room for the tape");
    }
}

/// Writes an entry whose bytes are JSON.
pub(super) fn json(kind: u8, value: &impl Serialize) {
    entry(kind, &serde_json::to_vec(value).expect("plain data"));
}

/// A pid or thread id as it stands on a tape.
pub(super) fn moved(id: u32) -> u32 {
    id + PID_MAX_LIMIT
}

/// Writes a record.
pub(super) fn record(kind: u8, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    // tracer_common::Header: time, pid, tid, point.
    move_id(&mut bytes, 8);
    move_id(&mut bytes, 12);
    if word(&bytes, 16) == POINT_FORK {
        // The child.
        move_id(&mut bytes, size_of::<Header>());
    }
    entry(kind, &bytes);
}

fn move_id(bytes: &mut [u8], at: usize) {
    let id = moved(word(bytes, at));
    bytes[at..at + 4].copy_from_slice(&id.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes[at..].first_chunk().expect("a whole record");
    u32::from_le_bytes(*word)
}

/// Writes that everything was fetched that waited.
pub(super) fn fetched() {
    entry(FETCHED, &[]);
}
