//! Files that must be refused: damaged, of another machine, or changed by hand so that what they say
//! of themselves doesn't fit together. Each is made here from a good library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tt_memtrace_tests::{
    Finished, Generation, Tracer, UserBuild, Variant, WorkDir, for_each_generation,
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
    Tracer::bare(dir, &["check", "--json", "--library"])
        .arguments([library])
        .start()
        .finish()
}

fn report(done: &Finished) -> Value {
    serde_json::from_str(&done.text()).unwrap_or_else(|error| panic!("{error}: {}", done.text()))
}

/// `check` on these bytes refuses, and gives the reason.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let dir = WorkDir::new();
    let done = check(&dir, &written(&dir, bytes));
    done.expect_code(UNTRACEABLE_LIBRARY);
    let report = report(&done);
    report["library"]["problem"]
        .as_str()
        .expect("a reason")
        .to_owned()
}

fn written(dir: &WorkDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("libtt_metal.so");
    fs::write(&path, bytes).expect("one's own directory");
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

/// Whatever byte of a table is wrong: no panic, no hang, and no field elsewhere than it is.
fn damaged_tables(generation: Generation) {
    let bytes = good(generation);
    let dir = WorkDir::new();
    let genuine = report(&check(&dir, &written(&dir, &bytes)));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let sections = u64_at(0x28) as usize;
    // The header, the section headers at the file's end, and the symbols behind the first headers.
    let places = [(0, 64), (sections, bytes.len()), (64, 8192)];
    let mut seed = 1_usize;
    for (start, end) in places {
        for _ in 0..24 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = start + (seed >> 33) % (end - start);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << ((seed >> 29) % 8);
            let done = check(&dir, &written(&dir, &damaged));
            assert!(
                !done.stderr.contains("panicked"),
                "{at:#x}: {}",
                done.stderr
            );
            match done.code() {
                Some(UNTRACEABLE_LIBRARY) => {}
                Some(0) => {
                    let places = |report: &Value| {
                        let fields = report["library"]["fields"].as_array().cloned();
                        fields
                            .expect("a list")
                            .into_iter()
                            .map(|f| f["path"].clone())
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(places(&report(&done)), places(&genuine), "{at:#x}");
                }
                code => panic!("{at:#x}: {code:?}, {}", done.stderr),
            }
        }
    }
}

/// An unoptimised enough library, so that each store is an instruction of its own.
fn plain_code(generation: Generation) -> PathBuf {
    UserBuild::new("g++", &["-O1"]).library(generation)
}

/// Where a function's code lies in the file: from, to.
fn code(library: &Path, symbol: &str) -> (usize, usize) {
    let listing = |options: &str| {
        let done = Command::new("readelf").arg(options).arg(library).output();
        String::from_utf8_lossy(&done.expect("binutils").stdout).into_owned()
    };
    let hexadecimal = |text: &str| usize::from_str_radix(text, 16).expect("a number");
    let sections = listing("-SW");
    let text = sections.split_once(" .text ").expect("code").1;
    let text: Vec<&str> = text.split_whitespace().take(3).collect();
    let moved = hexadecimal(text[1]) - hexadecimal(text[2]);
    let symbols = listing("-sW");
    let words = symbols
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.len() == 8 && words[7].starts_with(symbol))
        .unwrap_or_else(|| panic!("no {symbol}"));
    let start = hexadecimal(words[1]) - moved;
    (start, start + words[2].parse::<usize>().expect("a size"))
}

/// Changes the displacement of the only instruction `mov` of 8 bytes with this opcode.
fn displace(library: &Path, symbol: &str, opcode: u8, from: u8, to: u8) -> Vec<u8> {
    let mut bytes = fs::read(library).expect("it was built");
    let (start, end) = code(library, symbol);
    let found: Vec<usize> = (start..end - 3)
        .filter(|at| {
            let rex_w = bytes[*at] & 0xf8 == 0x48;
            // Register and 8 bits of displacement, not by the stack pointer.
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

/// Two members have changed names, which are of one length.
fn debug_information_that_disagrees(generation: Generation) {
    let mut bytes =
        fs::read(UserBuild::new("g++", &["-O2", "-g"]).library(generation)).expect("it was built");
    let names = [&b"\0page_size_\0"[..], b"\0owns_data_\0"];
    let places = names.map(|name| {
        bytes
            .windows(name.len())
            .position(|window| window == name)
            .expect("a member's name")
    });
    for (place, name) in places.iter().zip([names[1], names[0]]) {
        bytes[*place..place + name.len()].copy_from_slice(name);
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
    let witness = format!("debug information ({class}::page_size_) says");
    assert!(reason.contains(&witness), "{reason}");
}
