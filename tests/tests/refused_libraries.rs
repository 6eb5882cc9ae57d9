//! Libraries that must be refused: damaged, for another machine, or with code that contradicts itself. Each is made
//! here from a good library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};
use serde_json::Value;
use tt_memtrace_tests::{
    Finished, Generation, Tracer, UserBuild, Variant, WorkDir, for_each_generation, list, parsed,
    text,
};

const UNTRACEABLE_LIBRARY: i32 = 6;

for_each_generation!(
    another_machine,
    thirty_two_bits,
    cut_short,
    damaged_tables,
    an_accessor_changed_by_hand,
    a_constructor_changed_by_hand,
    debug_information_that_disagrees,
);

fn check(dir: &WorkDir, library: &Path) -> Finished {
    Tracer::check(dir, library).start().finish()
}

fn report(done: &Finished) -> Value {
    parsed(&done.text())
}

/// The reason for which `check` refuses these bytes.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let dir = WorkDir::new();
    let done = check(&dir, &written(&dir, bytes));
    done.expect_code(UNTRACEABLE_LIBRARY);
    let report = report(&done);
    text(&report["library"], "problem").to_owned()
}

fn written(dir: &WorkDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("libtt_metal.so");
    fs::write(&path, bytes).expect("the test's own directory");
    path
}

fn good(generation: Generation) -> Vec<u8> {
    fs::read(generation.library(Variant::Plain)).expect("it was built")
}

fn another_machine(generation: Generation) {
    // e_machine: AArch64 and RISC-V.
    for machine in [183, 243] {
        let mut bytes = good(generation);
        bytes[18] = machine;
        let reason = refusal(&bytes);
        assert!(reason.contains("only x86-64"), "{reason}");
    }
}

fn thirty_two_bits(generation: Generation) {
    // EI_CLASS.
    let mut bytes = good(generation);
    bytes[4] = 1;
    let reason = refusal(&bytes);
    assert!(reason.contains("only x86-64"), "{reason}");
}

fn cut_short(generation: Generation) {
    let bytes = good(generation);
    for part in 0..64 {
        let reason = refusal(&bytes[..bytes.len() * part / 64]);
        assert!(
            reason.contains("not a readable ELF file") || reason.contains("lacks"),
            "cut at {part}/64: {reason}"
        );
    }
}

/// A wrong byte anywhere in a table causes no panic, no hang, and no field at a wrong place.
fn damaged_tables(generation: Generation) {
    let bytes = good(generation);
    let dir = WorkDir::new();
    let genuine = report(&check(&dir, &written(&dir, &bytes)));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let sections = u64_at(0x28) as usize;
    // The ELF header, the section headers at the file's end, and the symbols behind the first headers.
    let ranges = [(0, 64), (sections, bytes.len()), (64, 8192)];
    let paths = |report: &Value| {
        let fields = list(&report["library"], "fields").iter();
        fields.map(|f| f["path"].clone()).collect::<Vec<_>>()
    };
    for (start, end) in ranges {
        let config = ProptestConfig {
            cases: 24,
            // The same cases in every run.
            rng_seed: RngSeed::Fixed(0),
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let tested = TestRunner::new(config).run(&(start..end, 0..8_u32), |(at, bit)| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let done = check(&dir, &written(&dir, &damaged));
            prop_assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
            if done.code() == Some(0) {
                prop_assert_eq!(paths(&report(&done)), paths(&genuine));
            } else {
                let code = Some(UNTRACEABLE_LIBRARY);
                prop_assert_eq!(done.code(), code, "{}", done.stderr);
            }
            Ok(())
        });
        tested.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A library with so little optimisation that each store is an instruction of its own.
fn plain_code(generation: Generation) -> PathBuf {
    UserBuild::new("g++", &["-O1"]).library(generation)
}

/// Where a function's code begins and ends in the file.
fn code(library: &Path, symbol: &str) -> (usize, usize) {
    let listing = |options: &str| {
        let done = Command::new("readelf").arg(options).arg(library).output();
        String::from_utf8_lossy(&done.expect("binutils").stdout).into_owned()
    };
    let hexadecimal = |digits: &str| usize::from_str_radix(digits, 16).expect("a number");
    let sections = listing("-SW");
    let section = sections.split_once(" .text ").expect("code").1;
    let section: Vec<&str> = section.split_whitespace().take(3).collect();
    let moved = hexadecimal(section[1]) - hexadecimal(section[2]);
    let symbols = listing("-sW");
    let words = symbols
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.len() == 8 && words[7].starts_with(symbol))
        .unwrap_or_else(|| panic!("no {symbol}"));
    let start = hexadecimal(words[1]) - moved;
    (start, start + words[2].parse::<usize>().expect("a size"))
}

/// Changes the displacement of the only 8-byte `mov` of the function that has this opcode.
fn displace(library: &Path, symbol: &str, opcode: u8, from: u8, to: u8) -> Vec<u8> {
    let mut bytes = fs::read(library).expect("it was built");
    let (start, end) = code(library, symbol);
    let found: Vec<usize> = (start..end - 3)
        .filter(|at| {
            let rex_w = bytes[*at] & 0xf8 == 0x48;
            // A register with a displacement of 8 bits, and not the stack pointer.
            let displaced = bytes[at + 2] & 0xc0 == 0x40 && bytes[at + 2] & 7 != 4;
            rex_w && bytes[at + 1] == opcode && displaced && bytes[at + 3] == from
        })
        .collect();
    assert_eq!(found.len(), 1, "{symbol}: {found:x?}");
    bytes[found[0] + 3] = to;
    bytes
}

const LOAD: u8 = 0x8b;
const STORE: u8 = 0x89;

fn an_accessor_changed_by_hand(generation: Generation) {
    let library = plain_code(generation);
    let (symbol, from, to, name) = match generation {
        Generation::One => (
            "_ZNK2tt8tt_metal6Buffer9page_sizeEv",
            0x48,
            0x10,
            "page_size",
        ),
        Generation::Two => ("_ZNK2tt8tt_metal6Buffer4sizeEv", 0x20, 0x00, "size"),
    };
    let reason = refusal(&displace(&library, symbol, LOAD, from, to));
    let expected = format!("field `{name}` is in doubt: Buffer::{name} (returns it) says");
    assert!(reason.starts_with(&expected), "{reason}");
}

fn a_constructor_changed_by_hand(generation: Generation) {
    let library = plain_code(generation);
    let (symbol, class, from, to, name) = match generation {
        Generation::One => (
            "_ZN2tt8tt_metal6BufferC1EPNS0_7IDevice",
            "Buffer",
            0x48,
            0x10,
            "page_size",
        ),
        Generation::Two => (
            "_ZN2tt8tt_metal10BufferImplC1EPNS0_7IDevice",
            "BufferImpl",
            0x20,
            0x00,
            "size",
        ),
    };
    let reason = refusal(&displace(&library, symbol, STORE, from, to));
    assert!(
        reason.starts_with(&format!("field `{name}` is in doubt")),
        "{reason}"
    );
    assert!(
        reason.contains(&format!("{class}::{class} (sets it to its")),
        "{reason}"
    );
}

/// Two members have swapped their names, which have the same length.
fn debug_information_that_disagrees(generation: Generation) {
    let mut bytes =
        fs::read(UserBuild::new("g++", &["-O2", "-g"]).library(generation)).expect("it was built");
    let names = [&b"\0page_size_\0"[..], b"\0owns_data_\0"];
    let offsets = names.map(|name| {
        bytes
            .windows(name.len())
            .position(|window| window == name)
            .expect("a member's name")
    });
    for (offset, name) in offsets.iter().zip([names[1], names[0]]) {
        bytes[*offset..offset + name.len()].copy_from_slice(name);
    }
    let reason = refusal(&bytes);
    let class = match generation {
        Generation::One => "Buffer",
        Generation::Two => "BufferImpl",
    };
    assert!(
        reason.starts_with("field `page_size` is in doubt"),
        "{reason}"
    );
    let evidence = format!("debug information ({class}::page_size_) says");
    assert!(reason.contains(&evidence), "{reason}");
}
