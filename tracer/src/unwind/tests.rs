//! This test program's own stack, unwound like a target's.

use std::{arch::asm, collections::HashMap, hint::black_box};

use super::*;
use crate::{
    replay::ReadMemory as _,
    target::{self, ProcessMemory},
};

/// The files of code of a process, read whole.
#[derive(Default)]
struct Files(Vec<(Code, Symbols)>);

impl Codes for Files {
    fn code(&mut self, number: usize) -> Option<&mut Code> {
        self.0.get_mut(number).map(|(code, _)| code)
    }
}

/// What stands on this thread's stack, as far as it is mapped, but at most 64 KiB.
struct Taken {
    ip: u64,
    sp: u64,
    bp: u64,
    bytes: Vec<u8>,
}

impl Taken {
    fn snapshot(&self, len: usize) -> Snapshot<'_> {
        let Self { ip, sp, bp, bytes } = self;
        Snapshot {
            ip: *ip,
            sp: *sp,
            bp: *bp,
            bytes: &bytes[..len.min(bytes.len())],
        }
    }
}

#[inline(never)]
fn innermost() -> Taken {
    let (ip, sp, bp): (u64, u64, u64);
    // SAFETY: it only copies registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp);
    }
    let memory = ProcessMemory::of(std::process::id());
    let mut bytes = Vec::new();
    let mut word = [0; 8];
    while bytes.len() < 64 << 10 && memory.read(sp + bytes.len() as u64, &mut word).is_ok() {
        bytes.extend(word);
    }
    Taken { ip, sp, bp, bytes }
}

#[inline(never)]
fn middle(depth: u32) -> Taken {
    let taken = match depth {
        0 => innermost(),
        depth => middle(depth - 1),
    };
    // Something is left to do, so that this is no jump.
    black_box(taken)
}

#[inline(never)]
fn outermost(depth: u32) -> Taken {
    black_box(middle(depth))
}

/// An unwinder that knows what this process has mapped.
fn own() -> (Unwinder, Files) {
    let mapped = target::code(std::process::id()).unwrap();
    let (mut files, mut numbers) = (Files::default(), HashMap::new());
    let mut mappings = Vec::new();
    for part in mapped {
        let number = *numbers.entry(part.file).or_insert_with(|| {
            let data = std::fs::read(&part.path).unwrap();
            let code = Code::read(data.as_slice()).unwrap();
            let symbols = Symbols::read(data.as_slice()).unwrap();
            files.0.push((code, symbols));
            files.0.len() - 1
        });
        mappings.push(Mapping {
            start: part.start,
            end: part.end,
            file_offset: part.file_offset,
            code: number,
        });
    }
    let mut unwinder = Unwinder::default();
    unwinder.map(mappings);
    (unwinder, files)
}

fn names(unwinder: &Unwinder, files: &Files, id: NativeStackId) -> Vec<String> {
    let frames = unwinder.stack(id).unwrap().frames.iter();
    let named = frames.map(|frame| {
        let (code, address) = frame.place.unwrap();
        let name = files.0[code].1.name(address);
        name.map_or_else(String::new, Symbols::demangled)
    });
    named.collect()
}

#[test]
fn a_whole_stack_leads_through_each_function_to_the_outermost() {
    let taken = outermost(3);
    let (mut unwinder, mut files) = own();
    let id = unwinder.unwind(&mut files, &taken.snapshot(usize::MAX));
    assert_eq!(unwinder.stack(id).unwrap().broken, None);
    let names = names(&unwinder, &files, id);
    let of_these: Vec<&str> = ["innermost", "middle", "outermost", "a_whole_stack"]
        .into_iter()
        .flat_map(|name| {
            names
                .iter()
                .filter(move |full| full.contains(name))
                .map(move |_| name)
        })
        .collect();
    assert!(names[0].contains("innermost"), "{names:#?}");
    assert_eq!(
        of_these[..6],
        [
            "innermost",
            "middle",
            "middle",
            "middle",
            "middle",
            "outermost"
        ],
        "{names:#?}"
    );
    assert!(
        names.iter().position(|name| name.contains("outermost"))
            < names.iter().position(|name| name.contains("a_whole_stack")),
        "{names:#?}"
    );
}

#[test]
fn equal_stacks_have_one_number_and_others_another() {
    let (mut unwinder, mut files) = own();
    let mut ids = Vec::new();
    for depth in [1, 2, 1, 2] {
        let taken = outermost(depth);
        ids.push(unwinder.unwind(&mut files, &taken.snapshot(usize::MAX)));
    }
    assert_eq!(ids[0], ids[2]);
    assert_eq!(ids[1], ids[3]);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn what_was_remembered_of_one_stack_is_not_taken_for_another() {
    let taken = outermost(2);
    let (mut unwinder, mut files) = own();
    let id = unwinder.unwind(&mut files, &taken.snapshot(usize::MAX));
    let frames = unwinder.stack(id).unwrap().frames.clone();
    // The same instruction and stack pointer, but the last return address but one leads nowhere.
    let last = frames.len() - 2;
    let at = (0..taken.bytes.len())
        .step_by(8)
        .find(|at| taken.bytes[*at..].starts_with(&frames[last].at.to_le_bytes()))
        .unwrap();
    let mut other = taken;
    other.bytes[at..at + 8].copy_from_slice(&0x1234_u64.to_le_bytes());
    let other = unwinder.unwind(&mut files, &other.snapshot(usize::MAX));
    let other = unwinder.stack(other).unwrap();
    assert_eq!(other.frames[..last], frames[..last]);
    assert_eq!(other.frames[last].at, 0x1234);
    assert_eq!(other.frames[last].place, None);
    assert_eq!(other.broken, Some(Broken::NoCode(0x1234)));
}

#[test]
fn a_stack_of_which_a_part_is_missing_ends_there() {
    let taken = outermost(3);
    let (mut unwinder, mut files) = own();
    let whole = unwinder.unwind(&mut files, &taken.snapshot(usize::MAX));
    let whole = unwinder.stack(whole).unwrap().frames.clone();
    for len in [0, 8, 64, 256, 1024] {
        let part = unwinder.unwind(&mut files, &taken.snapshot(len));
        let NativeStack { frames, broken } = unwinder.stack(part).unwrap();
        assert_eq!(*broken, Some(Broken::NotCaptured), "{len} bytes");
        assert_eq!(frames[..], whole[..frames.len()], "{len} bytes");
        assert!(frames.len() < whole.len());
    }
}

#[test]
fn code_that_nobody_mapped_is_no_frame() {
    let taken = outermost(0);
    let (mut unwinder, mut files) = own();
    let nowhere = Snapshot {
        ip: 0x10,
        ..taken.snapshot(usize::MAX)
    };
    let id = unwinder.unwind(&mut files, &nowhere);
    let expected = NativeStack {
        frames: vec![NativeFrame {
            at: 0x10,
            place: None,
        }],
        broken: Some(Broken::NoCode(0x10)),
    };
    assert_eq!(unwinder.stack(id), Some(&expected));
}

#[test]
fn what_is_no_elf_file_is_refused() {
    assert!(Code::read(&b"#!/bin/sh\n"[..]).is_err());
    assert!(Symbols::read(&b""[..]).is_err());
}
