//! The processor is the specification: each instruction is executed natively and replayed, on the same
//! operands, and both must produce the same results and flags.

use std::{collections::BTreeMap, sync::OnceLock};

use super::{Replay, ReplayError};
use crate::{
    abi::Image,
    target::{ProcessMemory, ReadMemory, Unreadable},
};

/// Operands whose sums, products and shifts cover the corner cases.
const OPERANDS: [u64; 13] = [
    0,
    1,
    2,
    63,
    0x7f,
    0x80,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff5,
];

/// The output of a tested function: two results, and the flags C, Z, S, O and P.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Output {
    results: [u64; 2],
    flags: [u8; 8],
}

type Tested = unsafe extern "C" fn(u64, u64, *mut Output);

/// Functions that compute with their operands in `rax` and `rcx` and return `r8` as a second result, and the
/// flags that their instructions define.
macro_rules! tested {
    ($tested:ident: $($name:ident: $($instruction:literal),+; $flags:literal;)+) => {
        core::arch::global_asm!($(
            concat!(".type ", stringify!($name), ",@function"),
            concat!(".globl ", stringify!($name)),
            concat!(stringify!($name), ":"),
            "mov rax, rdi", "mov rcx, rsi", "mov r9, rdx", "xor r8d, r8d",
            "movq xmm0, rax", "movq xmm1, rcx",
            // Sets all flags to known values.
            "cmp rax, rcx",
            $($instruction,)+
            "setc byte ptr [r9 + 16]", "setz byte ptr [r9 + 17]", "sets byte ptr [r9 + 18]",
            "seto byte ptr [r9 + 19]", "setp byte ptr [r9 + 20]",
            "mov [r9], rax", "mov [r9 + 8], r8", "ret",
            concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
        )+);
        unsafe extern "C" { $(fn $name(a: u64, b: u64, output: *mut Output);)+ }
        const $tested: &[(&str, Tested, &str)] = &[$((stringify!($name), $name, $flags),)+];
    };
}

tested! {
    TESTED:
    replay_add8: "add al, cl"; "czsop";
    replay_add16: "add ax, cx"; "czsop";
    replay_add32: "add eax, ecx"; "czsop";
    replay_add64: "add rax, rcx"; "czsop";
    replay_adc64: "adc rax, rcx"; "czsop";
    replay_adc32_immediate: "adc eax, -1"; "czsop";
    replay_sub8: "sub al, cl"; "czsop";
    replay_sub32: "sub eax, ecx"; "czsop";
    replay_sub64_immediate: "sub rax, -128"; "czsop";
    replay_sbb64: "sbb rax, rcx"; "czsop";
    replay_sbb32_self: "sbb eax, eax"; "czsop";
    replay_cmp16: "cmp ax, cx"; "czsop";
    replay_inc32: "inc eax"; "czsop";
    replay_dec64: "dec rax"; "czsop";
    replay_neg32: "neg eax"; "czsop";
    replay_not64: "not rax"; "czsop";
    replay_and64: "and rax, rcx"; "czsop";
    replay_or32: "or eax, ecx"; "czsop";
    replay_xor8_high: "xor ah, cl"; "czsop";
    replay_test64: "test rax, rcx"; "czsop";
    replay_shl64: "shl rax, cl"; "zsp";
    replay_shl32_one: "shl eax, 1"; "czsop";
    replay_shr64: "shr rax, cl"; "zsp";
    replay_shr32: "shr eax, 7"; "czsp";
    replay_sar64: "sar rax, cl"; "zsp";
    replay_sar32: "sar eax, 31"; "czsp";
    replay_sar16: "sar ax, 3"; "czsp";
    replay_bt64: "bt rax, rcx"; "c";
    replay_bt32_immediate: "bt eax, 9"; "c";
    replay_tzcnt64: "tzcnt rax, rcx"; "cz";
    replay_lzcnt32: "lzcnt eax, ecx"; "cz";
    replay_bsf64: "bsf rax, rcx"; "z";
    replay_bsr32: "bsr eax, ecx"; "z";
    replay_imul64: "imul rax, rcx"; "co";
    replay_imul32: "imul eax, ecx, 1000"; "co";
    replay_mul64: "mul rcx", "mov r8, rdx"; "co";
    replay_mul32: "mul ecx", "mov r8, rdx"; "co";
    replay_imul_wide: "imul rcx", "mov r8, rdx"; "co";
    replay_div64: "xor edx, edx", "or rcx, 1", "div rcx", "mov r8, rdx"; "";
    replay_div32: "xor edx, edx", "or ecx, 3", "div ecx", "mov r8, rdx"; "";
    replay_idiv64: "cqo", "or rcx, 6", "shr rcx", "idiv rcx", "mov r8, rdx"; "";
    replay_idiv32: "cdq", "or ecx, 6", "shr ecx", "idiv ecx", "mov r8, rdx"; "";
    replay_cdqe: "cdqe"; "czsop";
    replay_movzx: "movzx eax, cl"; "czsop";
    replay_movzx_high: "mov ch, 0x81", "movzx eax, ch"; "czsop";
    replay_movsx: "movsx rax, cx"; "czsop";
    replay_movsxd: "movsxd rax, ecx"; "czsop";
    replay_mov_low: "mov al, cl"; "czsop";
    replay_mov32: "mov eax, ecx"; "czsop";
    replay_lea: "lea rax, [rax + rcx*4 - 17]"; "czsop";
    replay_lea32: "lea eax, [rax + rcx*8]"; "czsop";
    replay_xchg: "xchg rax, rcx", "mov r8, rcx"; "czsop";
    replay_xadd: "push rcx", "xadd [rsp], rax", "pop r8"; "";
    replay_cmova: "cmova rax, rcx"; "czsop";
    replay_cmovl32: "cmovl eax, ecx"; "czsop";
    replay_cmovs: "cmovs rax, rcx"; "czsop";
    replay_conditions: "setbe al", "setg ah", "movzx ecx, ah", "mov r8d, ecx", "setle ah"; "czsop";
    replay_jumps: "jae 2f", "mov r8d, 1", "jno 3f", "2: add r8d, 2", "3: add r8d, 4"; "";
    replay_loop: "mov r8, rcx", "and ecx, 15", "2: add rax, rcx", "dec ecx", "jns 2b"; "";
    replay_stack: "push rax", "push rcx", "pop rax", "pop r8"; "czsop";
    replay_frame: "push rbp", "mov rbp, rsp", "sub rsp, 64", "mov [rbp - 24], rcx", "mov rax, [rbp - 24]", "leave"; "";
    replay_partial_stores: "push rax", "mov [rsp + 2], cl", "mov [rsp + 4], cx", "pop rax"; "czsop";
    replay_call: "call 2f", "jmp 3f", "2: mov r8, rax", "ret", "3: inc rax"; "";
    replay_punpcklqdq: "punpcklqdq xmm0, xmm1", "sub rsp, 16", "movups [rsp], xmm0", "pop rax", "pop r8"; "";
    replay_movhps: "push rcx", "movhps xmm0, [rsp]", "movhps [rsp], xmm0", "pop r8", "movq rax, xmm0"; "";
    replay_movaps_copy: "movaps xmm2, xmm0", "pxor xmm2, xmm1", "movq rax, xmm2", "movd r8d, xmm2"; "";
    replay_movd_clears: "movd xmm0, ecx", "movq rax, xmm0"; "";
    replay_paddq: "punpcklqdq xmm0, xmm1", "paddq xmm0, xmm0", "psubq xmm0, xmm1", "sub rsp, 16", "movups [rsp], xmm0", "pop rax", "pop r8"; "";
    replay_psrlq: "punpcklqdq xmm0, xmm1", "psrlq xmm0, 9", "sub rsp, 16", "movups [rsp], xmm0", "pop rax", "pop r8"; "";
    replay_psrad: "punpcklqdq xmm0, xmm1", "psrad xmm0, 3", "sub rsp, 16", "movups [rsp], xmm0", "pop rax", "pop r8"; "";
    replay_pshufd: "punpcklqdq xmm0, xmm1", "pshufd xmm0, xmm0, 0x4b", "sub rsp, 16", "movups [rsp], xmm0", "pop rax", "pop r8"; "";
    replay_xorps_clears: "xorps xmm1, xmm1", "movlhps xmm0, xmm1", "sub rsp, 16", "movdqu [rsp], xmm0", "pop rax", "pop r8"; "";
}

tested! {
    TESTED_AVX2:
    replay_vinserti128: "vpunpcklqdq xmm2, xmm0, xmm1", "vpunpcklqdq xmm3, xmm1, xmm0", "vinserti128 ymm2, ymm2, xmm3, 1", "sub rsp, 32", "vmovdqu [rsp], ymm2", "vzeroupper", "pop rax", "pop rcx", "sub rax, rcx", "pop r8", "pop rcx", "sub r8, rcx"; "";
    replay_vextracti128: "vpunpcklqdq xmm2, xmm0, xmm1", "vinserti128 ymm2, ymm2, xmm0, 1", "vextracti128 xmm3, ymm2, 1", "vextracti128 xmm2, ymm2, 0", "vpaddq xmm2, xmm2, xmm3", "vzeroupper", "sub rsp, 16", "vmovdqu [rsp], xmm2", "pop rax", "pop r8"; "";
    replay_vpermq: "vpunpcklqdq xmm2, xmm0, xmm1", "vinserti128 ymm2, ymm2, xmm1, 1", "vpermq ymm2, ymm2, 0xb4", "sub rsp, 32", "vmovdqu [rsp], ymm2", "vzeroupper", "pop rax", "pop rcx", "sub rax, rcx", "pop r8", "pop rcx", "add r8, rcx"; "";
    replay_vpblendd: "vpunpcklqdq xmm2, xmm0, xmm1", "vpunpcklqdq xmm3, xmm1, xmm0", "vinserti128 ymm2, ymm2, xmm3, 1", "vpermq ymm3, ymm2, 0x1b", "vpblendd ymm2, ymm2, ymm3, 0xc6", "sub rsp, 32", "vmovdqu [rsp], ymm2", "vzeroupper", "pop rax", "pop rcx", "sub rax, rcx", "pop r8", "pop rcx", "sub r8, rcx"; "";
    replay_vpshufd: "vpunpcklqdq xmm2, xmm0, xmm1", "vpunpcklqdq xmm3, xmm1, xmm0", "vinserti128 ymm2, ymm2, xmm3, 1", "vpshufd ymm2, ymm2, 0x1e", "sub rsp, 32", "vmovdqu [rsp], ymm2", "vzeroupper", "pop rax", "pop rcx", "sub rax, rcx", "pop r8", "pop rcx", "sub r8, rcx"; "";
    replay_vpsubq: "vpunpcklqdq xmm2, xmm0, xmm1", "vpunpcklqdq xmm3, xmm1, xmm0", "vinserti128 ymm2, ymm2, xmm3, 1", "vpermq ymm3, ymm2, 0x39", "vpsubq ymm2, ymm2, ymm3", "vpsrlq ymm3, ymm3, 5", "vpaddq ymm2, ymm2, ymm3", "vpsrad ymm3, ymm2, 31", "vpxor ymm2, ymm2, ymm3", "sub rsp, 32", "vmovdqu [rsp], ymm2", "vzeroupper", "pop rax", "pop rcx", "sub rax, rcx", "pop r8", "pop rcx", "add r8, rcx"; "";
}

/// The file of this test program, and the bias with which it is loaded.
fn own_program() -> &'static (Image<'static>, u64) {
    static PROGRAM: OnceLock<(Image<'static>, u64)> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let file = std::fs::read("/proc/self/exe").expect("this program's own file");
        let image = Image::parse(file.leak()).expect("a position-independent executable");
        let (name, function, _) = TESTED[0];
        let address = image.address_of(name).expect("its own symbols");
        (image, function as usize as u64 - address)
    })
}

fn replay(name: &str, a: u64, b: u64) -> Result<Output, ReplayError> {
    let (image, bias) = own_program();
    let memory = ProcessMemory::new(std::process::id());
    let mut replay = Replay::new(image, *bias, &memory);
    let to = replay.overlay().allocate(64).expect("room");
    let function = image.address_of(name).expect("its own symbol");
    replay.call(function, &[a, b, to])?;
    let mut output = Output::default();
    for (i, result) in output.results.iter_mut().enumerate() {
        *result = replay.overlay().number(to + 8 * i as u64, 8)?;
    }
    replay.overlay().read(to + 16, &mut output.flags)?;
    Ok(output)
}

#[test]
fn every_instruction_does_what_the_processor_does() {
    // Instructions that this processor lacks can't be compared.
    let avx2 = if is_x86_feature_detected!("avx2") {
        TESTED_AVX2
    } else {
        &[]
    };
    for (name, function, flags) in TESTED.iter().chain(avx2) {
        for (a, b) in OPERANDS.iter().flat_map(|a| OPERANDS.map(|b| (*a, b))) {
            let mut real = Output::default();
            // SAFETY: the function keeps to the System V ABI and writes to an `Output`.
            unsafe { function(a, b, &mut real) };
            let mut replayed = replay(name, a, b)
                .unwrap_or_else(|error| panic!("{name}({a:#x}, {b:#x}): {error}"));
            for (i, flag) in "czsop".chars().enumerate() {
                if !flags.contains(flag) {
                    (real.flags[i], replayed.flags[i]) = (0, 0);
                }
            }
            assert_eq!(replayed, real, "{name}({a:#x}, {b:#x})");
        }
    }
}

core::arch::global_asm!(
    ".macro known name",
    ".globl \\name",
    ".type \\name,@function",
    "\\name:",
    ".endm",
    "known replay_endless",
    "2: jmp 2b",
    ".size replay_endless, . - replay_endless",
    "known replay_by_zero",
    "xor ecx, ecx",
    "xor edx, edx",
    "div rcx",
    "ret",
    ".size replay_by_zero, . - replay_by_zero",
    "known replay_null",
    "xor eax, eax",
    "mov rax, [rax]",
    "ret",
    ".size replay_null, . - replay_null",
    "known replay_astray",
    "lea rax, [rip - 0x7000000]",
    "jmp rax",
    ".size replay_astray, . - replay_astray",
    "known replay_exotic",
    "cpuid",
    "ret",
    ".size replay_exotic, . - replay_exotic",
    "known replay_writes",
    "mov qword ptr [rdi], 7",
    "mov rax, [rdi]",
    "ret",
    ".size replay_writes, . - replay_writes",
    "known replay_copies",
    "push rdi",
    "mov edi, 8",
    "call [rip + malloc@GOTPCREL]",
    "pop rsi",
    "push rax",
    "mov rdi, rax",
    "mov edx, 8",
    "call [rip + memcpy@GOTPCREL]",
    "pop rax",
    "mov rax, [rax]",
    "ret",
    ".size replay_copies, . - replay_copies",
    "known replay_locks",
    "push rdi",
    "call [rip + pthread_mutex_lock@GOTPCREL]",
    "pop rdi",
    "mov rax, [rdi + 40]",
    "ret",
    ".size replay_locks, . - replay_locks",
    "known replay_asks_outside",
    "call [rip + getpid@GOTPCREL]",
    "ret",
    ".size replay_asks_outside, . - replay_asks_outside",
    "known replay_aborts",
    "call [rip + abort@GOTPCREL]",
    ".size replay_aborts, . - replay_aborts",
);
unsafe extern "C" {
    fn replay_endless();
    fn replay_by_zero();
    fn replay_null();
    fn replay_astray();
    fn replay_exotic();
    fn replay_writes();
    fn replay_copies();
    fn replay_locks();
    fn replay_asks_outside();
    fn replay_aborts();
}

/// Keeps the linker from dropping the functions.
const KEPT: [unsafe extern "C" fn(); 10] = [
    replay_endless,
    replay_by_zero,
    replay_null,
    replay_astray,
    replay_exotic,
    replay_writes,
    replay_copies,
    replay_locks,
    replay_asks_outside,
    replay_aborts,
];

/// Memory with some words in it. A page is mapped if it has a word.
#[derive(Default)]
struct Words(BTreeMap<u64, u64>);

impl ReadMemory for Words {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let page = address & !0xfff;
        if !self.0.keys().any(|word| word & !0xfff == page) {
            return Err(Unreadable { address });
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = address + i as u64;
            let word = self.0.get(&(at & !7)).copied().unwrap_or_default();
            *byte = word.to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }
}

fn call(name: &str, argument: u64, memory: &Words, heed_locks: bool) -> Result<u64, ReplayError> {
    assert_eq!(KEPT.len(), 10);
    let (image, bias) = own_program();
    let mut replay = Replay::new(image, *bias, memory);
    replay.heed_locks(heed_locks);
    replay.call(image.address_of(name).expect("its own symbol"), &[argument])
}

#[test]
fn a_function_that_cannot_be_replayed_is_an_error_with_the_reason() {
    let nothing = Words::default();
    let fails = |name| call(name, 0, &nothing, true).expect_err(name);
    assert_eq!(fails("replay_endless"), ReplayError::Endless);
    assert!(matches!(
        fails("replay_by_zero"),
        ReplayError::Division { .. }
    ));
    assert_eq!(
        fails("replay_null"),
        ReplayError::Unreadable(Unreadable { address: 0 })
    );
    assert!(matches!(
        fails("replay_astray"),
        ReplayError::Outside { .. }
    ));
    assert_eq!(
        fails("replay_asks_outside"),
        ReplayError::Foreign {
            function: "getpid".into()
        }
    );
    assert_eq!(
        fails("replay_aborts"),
        ReplayError::Throws {
            function: "abort".into()
        }
    );
    let ReplayError::Unknown { instruction, .. } = fails("replay_exotic") else {
        panic!("cpuid was replayed");
    };
    assert_eq!(instruction, "cpuid");
}

#[test]
fn writes_stay_in_the_overlay() {
    let memory = Words(BTreeMap::from([(0x5000, 3)]));
    assert_eq!(call("replay_writes", 0x5000, &memory, true), Ok(7));
    assert_eq!(memory.0[&0x5000], 3);
}

#[test]
fn memory_is_allocated_in_the_overlay() {
    let memory = Words(BTreeMap::from([(0x5000, 0x1122_3344_5566_7788)]));
    assert_eq!(
        call("replay_copies", 0x5000, &memory, true),
        Ok(0x1122_3344_5566_7788)
    );
}

#[test]
fn a_lock_that_is_held_is_an_error_or_ignored() {
    let mutex = |lock| Words(BTreeMap::from([(0x5000, lock), (0x5028, 99)]));
    assert_eq!(call("replay_locks", 0x5000, &mutex(0), true), Ok(99));
    assert_eq!(
        call("replay_locks", 0x5000, &mutex(2), true),
        Err(ReplayError::Locked)
    );
    assert_eq!(call("replay_locks", 0x5000, &mutex(2), false), Ok(99));
}

#[test]
fn an_overlay_is_consistent_as_long_as_what_was_read_is_unchanged() {
    use std::cell::RefCell;

    struct Changing(RefCell<Words>);
    impl ReadMemory for Changing {
        fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
            self.0.borrow().read(address, bytes)
        }
    }
    let memory = Changing(RefCell::new(Words(BTreeMap::from([
        (0x5000, 1),
        (0x5008, 2),
    ]))));
    let mut overlay = super::Overlay::new(&memory);
    assert_eq!(overlay.number(0x5000, 8), Ok(1));
    overlay.write(0x5000, &[9]).expect("a page that was read");
    assert!(overlay.is_consistent(), "own writes don't count");
    memory.0.borrow_mut().0.insert(0x5008, 3);
    assert!(
        overlay.is_consistent(),
        "a word that wasn't read doesn't count"
    );
    memory.0.borrow_mut().0.insert(0x5000, 4);
    assert!(!overlay.is_consistent());
    assert_eq!(
        overlay.number(0x5000, 1),
        Ok(9),
        "the overlay keeps its value"
    );
}
