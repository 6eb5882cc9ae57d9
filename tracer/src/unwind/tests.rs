//! This test program's own stack, unwound like a target's.

use std::{arch::asm, collections::HashMap, hint::black_box};

use super::{unwinder::NativeStack, *};
use crate::target::{self, ProcessMemory, ReadMemory as _};

/// The executables and libraries of a process.
#[derive(Default)]
struct Files(Vec<(UnwindInfo, Symbols)>);

impl UnwindInfoSource for Files {
    fn unwind_info(&mut self, file: usize) -> Option<&mut UnwindInfo> {
        self.0.get_mut(file).map(|(info, _)| info)
    }
}

/// This thread's stack, as far as it is mapped, but at most 64 KiB.
struct Captured {
    ip: u64,
    sp: u64,
    bp: u64,
    bytes: Vec<u8>,
}

impl Captured {
    fn copy(&self, len: usize) -> StackCopy<'_> {
        let Self { ip, sp, bp, bytes } = self;
        StackCopy {
            ip: *ip,
            sp: *sp,
            bp: *bp,
            bytes: &bytes[..len.min(bytes.len())],
        }
    }
}

#[inline(never)]
fn innermost() -> Captured {
    let (ip, sp, bp): (u64, u64, u64);
    // SAFETY: it only copies registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp);
    }
    let memory = ProcessMemory::new(std::process::id());
    let mut bytes = Vec::new();
    let mut word = [0; 8];
    while bytes.len() < 64 << 10 && memory.read(sp + bytes.len() as u64, &mut word).is_ok() {
        bytes.extend(word);
    }
    Captured { ip, sp, bp, bytes }
}

#[inline(never)]
fn middle(depth: u32) -> Captured {
    let captured = match depth {
        0 => innermost(),
        depth => middle(depth - 1),
    };
    // The work after the call keeps it from being compiled to a jump.
    black_box(captured)
}

#[inline(never)]
fn outermost(depth: u32) -> Captured {
    black_box(middle(depth))
}

/// An unwinder that has the mappings of this process.
fn own() -> (Unwinder, Files) {
    let mapped = target::code(std::process::id()).unwrap();
    let (mut files, mut numbers) = (Files::default(), HashMap::new());
    let mut mappings = Vec::new();
    for part in mapped {
        let number = *numbers.entry(part.file).or_insert_with(|| {
            let data = std::fs::read(&part.path).unwrap();
            let info = UnwindInfo::read(data.as_slice()).unwrap();
            let symbols = Symbols::read(data.as_slice()).unwrap();
            files.0.push((info, symbols));
            files.0.len() - 1
        });
        mappings.push(Mapping {
            start: part.start,
            end: part.end,
            file_offset: part.file_offset,
            file: number,
        });
    }
    let mut unwinder = Unwinder::default();
    unwinder.set_mappings(mappings);
    (unwinder, files)
}

fn names(unwinder: &Unwinder, files: &Files, id: NativeStackId) -> Vec<String> {
    let frames = unwinder.stack(id).unwrap().frames.iter();
    let named = frames.map(|frame| {
        let FileAddress { file, address } = frame.file_address.unwrap();
        let name = files.0[file].1.name(address);
        name.map_or_else(String::new, Symbols::demangled)
    });
    named.collect()
}

#[test]
fn a_whole_stack_has_each_function_up_to_the_outermost() {
    let captured = outermost(3);
    let (mut unwinder, mut files) = own();
    let id = unwinder.unwind(&mut files, &captured.copy(usize::MAX));
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
fn equal_stacks_have_the_same_id_and_others_have_another() {
    let (mut unwinder, mut files) = own();
    let mut ids = Vec::new();
    for depth in [1, 2, 1, 2] {
        let captured = outermost(depth);
        ids.push(unwinder.unwind(&mut files, &captured.copy(usize::MAX)));
    }
    assert_eq!(ids[0], ids[2]);
    assert_eq!(ids[1], ids[3]);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_cached_result_is_not_used_for_another_stack() {
    let captured = outermost(2);
    let (mut unwinder, mut files) = own();
    let id = unwinder.unwind(&mut files, &captured.copy(usize::MAX));
    let frames = unwinder.stack(id).unwrap().frames.clone();
    // The same instruction and stack pointer, but the return address of the last frame but one leads nowhere.
    let last = frames.len() - 2;
    let at = (0..captured.bytes.len())
        .step_by(8)
        .find(|at| captured.bytes[*at..].starts_with(&frames[last].at.to_le_bytes()))
        .unwrap();
    let mut other = captured;
    other.bytes[at..at + 8].copy_from_slice(&0x1234_u64.to_le_bytes());
    let other = unwinder.unwind(&mut files, &other.copy(usize::MAX));
    let other = unwinder.stack(other).unwrap();
    assert_eq!(other.frames[..last], frames[..last]);
    assert_eq!(other.frames[last].at, 0x1234);
    assert_eq!(other.frames[last].file_address, None);
    assert_eq!(other.broken, Some(Broken::NoCode(0x1234)));
}

#[test]
fn a_stack_ends_where_it_was_not_captured() {
    let captured = outermost(3);
    let (mut unwinder, mut files) = own();
    let whole = unwinder.unwind(&mut files, &captured.copy(usize::MAX));
    let whole = unwinder.stack(whole).unwrap().frames.clone();
    for len in [0, 8, 64, 256, 1024] {
        let part = unwinder.unwind(&mut files, &captured.copy(len));
        let NativeStack { frames, broken } = unwinder.stack(part).unwrap();
        assert_eq!(*broken, Some(Broken::NotCaptured), "{len} bytes");
        assert_eq!(frames[..], whole[..frames.len()], "{len} bytes");
        assert!(frames.len() < whole.len());
    }
}

#[test]
fn a_stack_ends_where_no_code_is_mapped() {
    let captured = outermost(0);
    let (mut unwinder, mut files) = own();
    let nowhere = StackCopy {
        ip: 0x10,
        ..captured.copy(usize::MAX)
    };
    let id = unwinder.unwind(&mut files, &nowhere);
    let expected = NativeStack {
        frames: vec![NativeFrame {
            at: 0x10,
            file_address: None,
        }],
        broken: Some(Broken::NoCode(0x10)),
    };
    assert_eq!(unwinder.stack(id), Some(&expected));
}

#[test]
fn a_file_that_is_not_elf_is_refused() {
    assert!(UnwindInfo::read(&b"#!/bin/sh\n"[..]).is_err());
    assert!(Symbols::read(&b""[..]).is_err());
}
