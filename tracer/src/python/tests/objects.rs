//! Implausible objects and processes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    memory::{Noise, Pieces},
    model::{TYPES, layout},
};
use crate::{
    properties::property_config,
    python::{
        CodeObject, InterpreterSymbols, Layout, Python, PythonError, Version, Walk, description,
        objects::{Types, bytes, text},
    },
    target::{ReadMemory, Unreadable},
};

/// A compact `str` of 3.12 at 0x5000.
fn text_object(length: u64, kind: u32, is_ascii: bool, characters: &[u8]) -> Pieces {
    let mut memory = Pieces::default();
    memory.put_word(0x5000, 8, TYPES.text);
    memory.put_word(0x5000, 16, length);
    let state = kind << 2 | 1 << 5 | u32::from(is_ascii) << 6;
    memory.put(0x5000, 32, &state.to_le_bytes());
    memory.put(0x5000, if is_ascii { 40 } else { 56 }, characters);
    memory
}

fn read(memory: &Pieces) -> Result<String, PythonError> {
    text(memory, &TYPES, layout().text, 0x5000)
}

#[test]
fn text_is_read_in_each_width() {
    let is = |memory: Pieces, expected: &str| {
        assert_eq!(read(&memory).expect("text"), expected);
    };
    is(text_object(3, 1, true, b"run"), "run");
    is(text_object(0, 1, true, b""), "");
    is(text_object(2, 1, false, &[0xe9, 0x61]), "éa");
    is(text_object(2, 2, false, &[0x3b, 0x04, 0x61, 0]), "лa");
    is(text_object(1, 4, false, &[0, 0, 2, 0]), "𠀀");
    // A byte of a file name that isn't UTF-8 (PEP 383).
    is(text_object(1, 2, false, &[0xff, 0xdc]), "\u{fffd}");
}

#[test]
fn implausible_text_is_refused() {
    let refused = |memory: Pieces| read(&memory).expect_err("no text").to_string();
    assert!(refused(text_object(4097, 1, true, b"")).contains("too long"));
    assert!(refused(text_object(1025, 4, false, b"")).contains("too long"));
    assert!(refused(text_object(u64::MAX, 4, false, b"")).contains("too long"));
    assert!(refused(text_object(1, 1, true, &[0x80])).contains("ASCII"));
    assert!(refused(text_object(1, 3, false, &[0; 8])).contains("no known kind"));
    assert!(refused(text_object(1, 0, false, &[0; 8])).contains("no known kind"));
    let mut elsewhere = text_object(1, 1, true, b"a");
    elsewhere.put(0x5000, 32, &4_u32.to_le_bytes());
    assert!(refused(elsewhere).contains("elsewhere"));
    let mut other = text_object(1, 1, true, b"a");
    other.put_word(0x5000, 8, TYPES.bytes);
    assert!(matches!(
        read(&other),
        Err(PythonError::NotA {
            expected: "str",
            ..
        })
    ));
}

#[test]
fn bytes_have_a_limit() {
    let mut memory = Pieces::default();
    memory.put_word(0x5000, 8, TYPES.bytes);
    memory.put_word(0x5000, 16, 3);
    memory.put(0x5000, 32, &[1, 2, 3]);
    assert_eq!(bytes(&memory, &TYPES, 0x5000, 3).expect("bytes"), [1, 2, 3]);
    assert!(bytes(&memory, &TYPES, 0x5000, 2).is_err());
}

#[test]
fn a_circular_list_of_threads_is_refused() {
    let walk = Walk::new(&layout(), 0x1000);
    let mut memory = Pieces::default();
    memory.put_word(0x1000, 0, 0x2000);
    memory.put_word(0x2000, walk.thread_id, 7);
    memory.put_word(0x2000, walk.next, 0x2000);
    assert!(matches!(
        walk.threads(&memory),
        Err(PythonError::Endless { what: "threads" })
    ));
}

#[test]
fn a_circular_stack_ends_at_the_limit() {
    let walk = Walk::new(&layout(), 0x1000);
    let mut memory = Pieces::default();
    memory.put(0x3000, 0, &[0; 80]);
    memory.put_word(0x3000, 8, 0x3000);
    let blocks = walk.blocks(&memory, 0x3000, 5).expect("mapped");
    assert_eq!((blocks.bytes.len(), blocks.is_whole), (5 * 72, false));
}

#[test]
fn of_two_states_with_one_thread_id_the_one_in_python_code_is_taken() {
    let walk = Walk::new(&layout(), 0x1000);
    let mut memory = Pieces::default();
    memory.put_word(0x1000, 0, 0x2000);
    for (state, next, frame) in [(0x2000, 0x4000, 0), (0x4000, 0, 0x6000)] {
        memory.put_word(state, 8, next);
        memory.put_word(state, 56, state + 0x1000);
        memory.put_word(state, 136, 7);
        memory.put_word(state + 0x1000, 0, frame);
    }
    memory.put(0x6000, 0, &[0; 72]);
    let blocks = walk.stack(&memory, 7, 5).expect("mapped").expect("a frame");
    assert_eq!((blocks.bytes.len(), blocks.is_whole), (72, true));
    assert_eq!(walk.stack(&memory, 8, 5).expect("mapped"), None);
}

fn symbols(version: Option<u64>) -> InterpreterSymbols {
    InterpreterSymbols {
        runtime: 0x9_0000,
        version,
        is_3_10_or_newer: false,
        code_type: TYPES.code,
        frame_type: TYPES.frame,
        text_type: TYPES.text,
        bytes_type: TYPES.bytes,
    }
}

#[test]
fn unknown_versions_are_refused() {
    let refused = |version: u32| {
        let mut memory = Pieces::default();
        memory.put(0x8000, 0, &version.to_le_bytes());
        let error = Python::verify(&memory, &symbols(Some(0x8000)), None);
        error.expect_err("nothing there").to_string()
    };
    assert!(refused(0x030e_00f0).contains("3.14.0 isn't supported"));
    assert!(refused(0x030c_00a7).contains("3.12.0a7 isn't supported"));
    assert!(!refused(0x030c_00c1).contains("3.12.0rc1 isn't supported"));
    let older = Python::verify(&Pieces::default(), &symbols(None), None);
    assert!(matches!(older, Err(PythonError::TooOld)));
}

#[test]
fn a_wrong_description_is_refused() {
    let version = Version(0x030d_00f0);
    let refused = |cookie: &[u8; 8], version_word: u32, is_free_threaded: u8| {
        let mut bytes = [0; description::LEN];
        bytes[..8].copy_from_slice(cookie);
        bytes[8..12].copy_from_slice(&version_word.to_le_bytes());
        bytes[16] = is_free_threaded;
        let layout = Layout::described(&bytes, version);
        layout.expect_err("an empty description").to_string()
    };
    assert!(refused(b"ydebugpy", version.0, 0).contains("isn't there"));
    assert!(refused(b"xdebugpy", 0x030d_01f0, 0).contains("another version"));
    assert!(refused(b"xdebugpy", version.0, 1).contains("free-threaded"));
    assert!(refused(b"xdebugpy", version.0, 0).contains("shape"));
}

/// Objects of one type with random content.
#[derive(Debug)]
struct Typed {
    content: Noise,
    type_address: u64,
}

impl ReadMemory for Typed {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        self.content.read(address, bytes)?;
        if address & 0xff == 8 && bytes.len() == 8 {
            bytes.copy_from_slice(&self.type_address.to_le_bytes());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(property_config(200))]

    #[test]
    fn random_memory_is_refused(memory in Noise::any()) {
        let symbols = InterpreterSymbols {
            is_3_10_or_newer: true,
            ..symbols(None)
        };
        prop_assert!(Python::verify(&memory, &symbols, Some(&BTreeSet::new())).is_err());
    }
}

proptest! {
    #![proptest_config(property_config(500))]

    #[test]
    fn a_random_code_object_is_refused(content in Noise::any()) {
        let layout = layout();
        let python = Python {
            version: Version(0x030c_00f0),
            walk: Walk::new(&layout, 0),
            layout,
            types: Types {
                text: TYPES.code,
                bytes: TYPES.code,
                ..TYPES
            },
        };
        let memory = Typed { content, type_address: TYPES.code };
        prop_assert!(CodeObject::read(&memory, &python, 0x7000).is_err());
    }
}
