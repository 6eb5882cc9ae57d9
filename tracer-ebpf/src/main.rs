//! The in-kernel half: it fills records from registers and target memory as capture programs say.
//! It knows no library, and so no release of one.
//!
//! Every program runs at a function's entry or inside a function; none replaces a return address.
#![no_std]
#![no_main]
// Inline assembly for BPF. The build allows this crate the feature by name (RUSTC_BOOTSTRAP).
#![feature(asm_experimental_arch)]

mod list;
mod stack;

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, pt_regs},
    cty::c_void,
    helpers::{
        bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
        bpf_send_signal,
        generated::{bpf_probe_read_user, bpf_ringbuf_output},
    },
    macros::{map, raw_tracepoint, uprobe},
    maps::{Array, HashMap, RingBuf},
    programs::{ProbeContext, RawTracePointContext},
};
use aya_log_ebpf::warn;
use tracer_common::{
    COUNTS_AT, Capture, Condition, HEADER_AT, Header, KNOWN_AT, LOSSES, LOSSES_SHIFT, MAX_CAPTURES,
    MAX_KNOWN, MAX_PROCESSES, MAX_READS, POINT_EXEC, POINT_EXIT, POINT_FORK, POINT_LINKED,
    SECOND_SENT_AT, SENT_AT, Short, WORKSPACE_LEN, counter, lists, object_key, recording, register,
    reporting, setting, wake,
};

/// The records of all events, in order. User space sets the size.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// The capture programs. A probe's cookie is the index of its capture program.
#[map]
static CAPTURES: Array<Capture> = Array::with_max_entries(MAX_CAPTURES, 0);

/// Indexed by `tracer_common::counter`.
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(counter::COUNT, 0);

/// Indexed by `tracer_common::setting`.
#[map]
static SETTINGS: Array<u64> = Array::with_max_entries(setting::COUNT, 0);

/// The processes whose ends, executed programs and loaded libraries are reported. A process is removed
/// when it ends.
#[map]
static WATCHED: HashMap<u32, u8> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The processes, among those that we started and their descendants, that are stopped whenever they load
/// a library, so that user space can look at it. A process is added when it executes a program, and removed
/// by user space or when it ends.
#[map]
static HELD: HashMap<u32, u8> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The targets' objects that were sent and needn't be read again, by `object_key`. All objects of a process
/// are removed when it ends, executes a program, or frees everything of an allocator, which closing a device
/// does.
#[map]
static KNOWN: Array<u64> = Array::with_max_entries(MAX_KNOWN, 0);

/// Signal numbers of x86-64.
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

#[inline(always)]
fn setting_value(index: u32) -> u64 {
    SETTINGS.get(index).copied().unwrap_or_default()
}

#[inline(always)]
fn own_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn is_in(set: &HashMap<u32, u8>, pid: u32) -> bool {
    // SAFETY: the entry's value is never read, so it doesn't matter if it changes meanwhile.
    unsafe { set.get(pid) }.is_some()
}

/// The bits of [`Header::losses`], in their place in [`Header::faults`].
#[inline(always)]
fn losses() -> u32 {
    let lost = COUNTERS.get_ptr(counter::LOST).map_or(0, |lost| {
        // SAFETY: the map holds aligned u64 and outlives the program. Other CPUs add to the word
        // atomically, so a volatile read of it is never half of two values.
        unsafe { lost.read_volatile() }
    });
    (lost as u32 & (LOSSES - 1)) << LOSSES_SHIFT
}

/// The header of a record of the current thread that is sent now.
#[inline(always)]
fn header(point: u32) -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    Header {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        point,
        faults: losses(),
    }
}

/// Sends a record. False if there was no room.
#[inline(always)]
fn output_short(short: &Short, flags: u32) -> bool {
    let bytes = (short as *const Short).cast_mut().cast();
    // SAFETY: a `Short` has no padding.
    unsafe { output(bytes, size_of::<Short>(), flags) }
}

/// Sends a record. False if there was no room, which is counted.
///
/// # Safety
/// The `len` bytes from `bytes` on are initialized.
#[inline(always)]
unsafe fn output(bytes: *mut u8, len: usize, flags: u32) -> bool {
    // SAFETY: the caller promises that the bytes are initialized; the map is a ring buffer.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            bytes.cast(),
            len as u64,
            u64::from(flags),
        )
    };
    if result != 0 {
        count(counter::LOST);
    }
    result == 0
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // An atomic addition, since uprobes run preemptibly and on all CPUs at once. `core`'s atomics have
        // no addition on this target, though the machine does (BPF_ATOMIC | BPF_ADD).
        // SAFETY: `counter` points to an aligned u64 in a map, which outlives the program.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1u64) };
    }
}

/// One register from the context of a uprobe program.
///
/// It is loaded by inline assembly, because the verifier wants each access at a constant offset from the
/// context itself, and the compiler would rather select an address first and load once.
macro_rules! load_register {
    ($regs:expr, $field:ident) => {{
        let value: u64;
        // SAFETY: `$regs` is the context of a uprobe program; the field lies within it.
        unsafe {
            core::arch::asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) $regs,
                const core::mem::offset_of!(aya_ebpf::bindings::pt_regs, $field))
        };
        value
    }};
}

pub(crate) use load_register;

#[inline(always)]
fn read_register(regs: *const pt_regs, number: u32) -> u64 {
    match number {
        register::RAX => load_register!(regs, rax),
        register::RCX => load_register!(regs, rcx),
        register::RDX => load_register!(regs, rdx),
        register::RBX => load_register!(regs, rbx),
        register::RSP => load_register!(regs, rsp),
        register::RBP => load_register!(regs, rbp),
        register::RSI => load_register!(regs, rsi),
        register::RDI => load_register!(regs, rdi),
        register::R8 => load_register!(regs, r8),
        register::R9 => load_register!(regs, r9),
        register::R10 => load_register!(regs, r10),
        register::R11 => load_register!(regs, r11),
        register::R12 => load_register!(regs, r12),
        register::R13 => load_register!(regs, r13),
        register::R14 => load_register!(regs, r14),
        _ => load_register!(regs, r15),
    }
}

/// Records a hit as the probe's capture program says, without stack and lists.
#[uprobe]
pub(crate) fn capture(ctx: ProbeContext) -> u32 {
    hit::<false>(&ctx)
}

/// Records a hit as the probe's capture program says, with the stack and the object's lists if it wants
/// them. This is a program of its own, because it needs Linux 5.17.
#[uprobe]
pub(crate) fn capture_whole(ctx: ProbeContext) -> u32 {
    hit::<true>(&ctx)
}

#[inline(always)]
fn hit<const WHOLE: bool>(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(program) = CAPTURES.get(cookie as u32) else {
        return 0;
    };
    match setting_value(setting::RECORDING) {
        recording::ON => {}
        recording::WATCHED if is_in(&WATCHED, own_pid()) => {}
        _ => return 0,
    }

    let value = read_register(ctx.regs, program.register);
    if program.forget != 0 {
        forget(own_pid());
    }
    let wanted = match WHOLE {
        true => list::wanted(program.lists_when, program.lists, value),
        false => list::Wanted::All,
    };
    if wanted == list::Wanted::Nothing {
        return 0;
    }
    if wanted == list::Wanted::Object || program.read_count == 0 {
        return short(program.point, value);
    }

    // The workspace is on the stack, so that a hit that isn't kept takes no room in the ring buffer and is
    // never counted as lost.
    let mut workspace = MaybeUninit::<[u64; WORKSPACE_LEN / 8]>::uninit();
    let words = workspace.as_mut_ptr().cast::<u64>();
    for i in 0..WORKSPACE_LEN / 8 {
        // Word by word, since the compiler zeroes an array in a loop over bytes.
        // SAFETY: `i` is within the array.
        unsafe { words.add(i).write_volatile(0) };
    }
    // SAFETY: both are multiples of 8 within the array.
    unsafe {
        words.write(value);
        words.add(SENT_AT / 8).write(value);
    }
    if WHOLE && program.second != 0 {
        let second = read_register(ctx.regs, program.second - 1);
        // SAFETY: both are multiples of 8 within the array.
        unsafe {
            words.add(1).write(second);
            words.add(SECOND_SENT_AT / 8).write(second);
        }
    }
    let data = words.cast::<u8>();
    let ip = load_register!(ctx.regs, rip);

    let mut faults = 0;
    // The key of the object that is known once this record is sent. 0: there is none.
    let mut unknown_key = 0;
    let mut wakes = program.wake == wake::ALWAYS;
    for (i, read) in program.reads.iter().enumerate().take(MAX_READS) {
        if i as u32 == program.condition_after && program.condition_count != 0 {
            let first = holds(&program.conditions[0], data);
            if first && program.short_on_first != 0 {
                return short(program.point, value);
            }
            if !first
                && !program.conditions[1..]
                    .iter()
                    .any(|condition| holds(condition, data))
            {
                return 0;
            }
        }
        if i as u32 == program.condition_after && program.known_by != 0 {
            let at = program.known_by as usize & 0xf8;
            if at > WORKSPACE_LEN - 8 {
                return 0;
            }
            // SAFETY: `at` is a multiple of 8 with 8 bytes of the workspace behind it.
            let key = object_key(own_pid(), unsafe { data.add(at).cast::<u64>().read() });
            let known = KNOWN
                .get_ptr_mut(key as u32 % MAX_KNOWN)
                .map_or(0, |known| {
                    // SAFETY: the map holds aligned u64 and outlives the program.
                    unsafe { known.read_volatile() }
                });
            if known == key {
                // SAFETY: a multiple of 8 within the workspace.
                unsafe { words.add(KNOWN_AT / 8).write(1) };
            } else {
                unknown_key = key;
                wakes |= program.wake == wake::FIRST && known == 0;
            }
        }
        if i as u32 >= program.read_count {
            break;
        }
        // Masks instead of comparisons: the verifier can follow them, however the compiler transforms the
        // code, and they keep each access within the workspace (see the assertions in `tracer_common`).
        let base = usize::from(read.base) & 0xf8;
        let guard_at = usize::from(read.guard_at) & 0xf8;
        let to = usize::from(read.to) & 0x78;
        let len = usize::from(read.len) & 0x7f;
        if base > WORKSPACE_LEN - 8 || guard_at > WORKSPACE_LEN - 8 {
            break;
        }
        // SAFETY: `guard_at` is a multiple of 8 with 8 bytes of the workspace behind it.
        if unsafe { data.add(guard_at).cast::<u64>().read() } & read.guard_mask != read.guard {
            continue;
        }
        // SAFETY: `base` is a multiple of 8 with 8 bytes of the workspace behind it.
        let pointer = unsafe { data.add(base).cast::<u64>().read() };
        let from = pointer.wrapping_add(read.offset as u64) as *const c_void;
        // SAFETY: `to + len` is within the workspace; the helper checks `from`.
        let result = unsafe { bpf_probe_read_user(data.add(to).cast(), len as u32, from) };
        // The error's sign bit, without a branch: the verifier would follow both ways of each branch
        // separately, 2^10 paths for ten reads, and give up.
        faults |= ((result as u64 >> 63) as u32) << i;
        // SAFETY: a multiple of 8 with 8 bytes of the workspace behind it.
        unsafe {
            let word = data.add(to).cast::<u64>();
            word.write(word.read().wrapping_sub(ip & read.relative));
        }
    }
    if faults != 0 {
        warn!(ctx, "probe {}: reads failed: {:x}", program.point, faults);
    }
    let mut header = header(program.point);
    header.faults |= faults;
    if WHOLE && program.stack != 0 {
        // SAFETY: both are multiples of 8 with 8 bytes of the workspace behind them.
        let [word, object] = [program.stack_word, program.known_by].map(|at| unsafe {
            data.add((at as usize & 0xf8).min(WORKSPACE_LEN - 8))
                .cast::<u64>()
                .read()
        });
        header.faults |= stack::send(
            ctx.regs,
            &header,
            program.stack,
            word,
            object_key(own_pid(), object),
        );
    }
    if WHOLE && program.lists_when != lists::NONE {
        // SAFETY: `tracer_common` asserts that the counts lie within the workspace, aligned.
        unsafe { list::send(program.lists, &header, value, words.add(COUNTS_AT / 8)) };
    }
    // SAFETY: the header's place is within the workspace, aligned.
    unsafe { data.add(HEADER_AT).cast::<Header>().write(header) };
    let len = program.sent as usize + size_of::<Header>();
    if len > WORKSPACE_LEN - HEADER_AT {
        return 0;
    }
    let flags = if wakes {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    // SAFETY: `len` bytes from the header on are within the workspace, which is initialized whole.
    let sent = unsafe { output(data.add(HEADER_AT), len, flags) };
    if unknown_key != 0
        && sent
        && faults == 0
        && let Some(known) = KNOWN.get_ptr_mut(unknown_key as u32 % MAX_KNOWN)
    {
        // SAFETY: the map holds aligned u64 and outlives the program. It is one word, so that no other CPU
        // reads half of it.
        unsafe { known.write_volatile(unknown_key) };
    }
    0
}

/// Removes a process's objects from the known ones.
#[inline(always)]
fn forget(pid: u32) {
    for i in 0..MAX_KNOWN {
        if let Some(known) = KNOWN.get_ptr_mut(i) {
            // SAFETY: the map holds aligned u64 and outlives the program. If this overwrites another
            // process's object, written at the same time, that object is only sent once more.
            unsafe {
                if known.read_volatile() >> 42 == u64::from(pid) {
                    known.write_volatile(0);
                }
            }
        }
    }
}

/// Sends a number, and returns what the program returns.
#[inline(always)]
fn short(point: u32, value: u64) -> u32 {
    output_short(
        &Short {
            header: header(point),
            value,
        },
        BPF_RB_NO_WAKEUP,
    );
    0
}

/// Whether a condition holds for the workspace at `data`.
#[inline(always)]
fn holds(condition: &Condition, data: *const u8) -> bool {
    let at = usize::from(condition.at) & 0xff;
    // SAFETY: the byte is read only if `at` is within the workspace.
    at < WORKSPACE_LEN && u16::from(unsafe { data.add(at).read() }) == condition.value
}

/// Runs at the dynamic linker's `_dl_debug_state`. It reports that libraries are loaded, and stops a held
/// process, so that user space can look at the library before any of its code runs.
#[uprobe]
pub(crate) fn linked(_ctx: ProbeContext) -> u32 {
    hold(POINT_LINKED);
    0
}

/// Runs after a process has executed a program, before the program's first instruction.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn executed(_ctx: RawTracePointContext) -> u32 {
    let pid = own_pid();
    stack::PYTHONS.remove(pid).ok();
    if setting_value(setting::REPORTING) == reporting::DESCENDANTS
        && is_in(&WATCHED, pid)
        && HELD.insert(pid, 1, 0).is_err()
    {
        count(counter::UNFOLLOWED);
    }
    if hold(POINT_EXEC) {
        forget(pid);
    }
    0
}

/// Reports the current process, and stops it if it is held. Returns whether it is reported at all.
#[inline(always)]
fn hold(point: u32) -> bool {
    let mut control = Short {
        header: header(point),
        value: 0,
    };
    let held = is_in(&HELD, control.header.pid);
    control.value = u64::from(held);
    let reported = held
        || setting_value(setting::REPORTING) == reporting::ALL
        || is_in(&WATCHED, control.header.pid);
    if !reported {
        return false;
    }
    if held {
        // The stop comes before the report, because the report's reader lets the process go on.
        // SAFETY: the helper has no preconditions; the signal goes to the current process.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
    if !output_short(&control, BPF_RB_FORCE_WAKEUP) && held {
        // Without the report, user space doesn't let the process go on. This takes the stop back, which
        // hasn't happened yet.
        // SAFETY: the helper has no preconditions; the signal goes to the current process.
        unsafe { bpf_send_signal(SIGCONT) };
    }
    true
}

/// A word of the target's memory; 0 if it can't be read.
#[inline(always)]
fn user(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address; a failed read leaves zeros.
    unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const c_void) };
    value
}

/// A number from the kernel's memory, at `base` + the setting `offset`.
#[inline(always)]
fn kernel<T>(base: u64, offset: u32) -> Option<T> {
    let from = base.wrapping_add(setting_value(offset)) as *const T;
    // SAFETY: the helper checks the address; every caller's `T` is an integer, which any bytes are a value of.
    unsafe { bpf_probe_read_kernel(from) }.ok()
}

/// Runs when a process or a thread begins, in its parent, before its first instruction.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub(crate) fn forked(ctx: RawTracePointContext) -> u32 {
    let mut control = Short {
        header: header(POINT_FORK),
        value: 0,
    };
    let follow = match setting_value(setting::REPORTING) {
        reporting::ALL => false,
        reporting::DESCENDANTS if is_in(&WATCHED, control.header.pid) => true,
        _ => return 0,
    };
    // The tracepoint's second argument is the child's `struct task_struct *`.
    let child: u64 = ctx.arg(1);
    let (Some(tid), Some(pid)) = (
        kernel::<u32>(child, setting::TASK_PID),
        kernel::<u32>(child, setting::TASK_TGID),
    ) else {
        return 0;
    };
    if pid != tid {
        return 0;
    }
    if follow {
        if WATCHED.insert(pid, 1, 0).is_err() {
            count(counter::UNFOLLOWED);
            return 0;
        }
        // A held process has no TT-Metal library yet, so its child has none either.
        if is_in(&HELD, control.header.pid) && HELD.insert(pid, 1, 0).is_err() {
            count(counter::UNFOLLOWED);
        }
    }
    // The child's interpreter is a copy of its parent's, at the same addresses.
    // SAFETY: the entry is copied at once; user space replaces it only whole.
    if let Some(walk) = unsafe { stack::PYTHONS.get(control.header.pid) } {
        stack::PYTHONS.insert(pid, walk, 0).ok();
    }
    control.value = u64::from(pid);
    output_short(&control, BPF_RB_NO_WAKEUP);
    0
}

/// Runs when a thread ends. The end of a process's last thread is reported.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn exited(ctx: RawTracePointContext) -> u32 {
    let mut control = Short {
        header: header(POINT_EXIT),
        value: 0,
    };
    let pid = control.header.pid;
    let watched = is_in(&WATCHED, pid);
    if !watched && setting_value(setting::REPORTING) != reporting::ALL {
        return 0;
    }
    // The tracepoint's first argument is the ending `struct task_struct *`. `do_exit` has subtracted it
    // from `signal->live` by now. If two threads end at once, both may find 0 there.
    let task: u64 = ctx.arg(0);
    let live = kernel::<u64>(task, setting::TASK_SIGNAL)
        .and_then(|signal| kernel::<u32>(signal, setting::SIGNAL_LIVE));
    if live != Some(0) {
        return 0;
    }
    HELD.remove(pid).ok();
    stack::PYTHONS.remove(pid).ok();
    if WATCHED.remove(pid).is_err() && watched {
        return 0;
    }
    forget(pid);
    // If the exit code can't be read, the value is one that user space can't take for an exit code.
    control.value = kernel::<u32>(task, setting::TASK_EXIT_CODE).map_or(u64::MAX, u64::from);
    output_short(&control, BPF_RB_NO_WAKEUP);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
