//! The stack of a thread: the frames of its Python interpreter, and a copy of its stack's bytes.
//!
//! Both go into a ring buffer of their own, so that no event is ever lost for the sake of a stack. They are
//! sent before the event's record, so a reader that has the record finds them there.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP, pt_regs},
    cty::c_void,
    helpers::{
        bpf_get_current_task,
        generated::{bpf_loop, bpf_probe_read_user, bpf_ringbuf_query},
    },
    macros::map,
    maps::{HashMap, LruHashMap, RingBuf},
};
use tracer_common::{
    CODE_OBJECT_LEN, CODE_PART_LEN, HAS_STACK, Header, MAX_PROCESSES, MAX_PYTHON_FRAMES,
    MAX_STACK_LEN, PYTHON_CODE_AT, PYTHON_FRAME_LEN, PythonWalk, STACK_CODE, STACK_NATIVE,
    STACK_OF_LEADER, STACK_PYTHON, STACK_SKIPPED, StackHeader, counter, object_key, setting, stack,
    stacks,
};

use crate::{count, kernel, load_register, setting_value, user};

/// The records of stacks. User space sets the size.
#[map]
static STACKS: RingBuf = RingBuf::with_byte_size(32 * 1024 * 1024, 0);

/// How to walk the frames of each process's Python interpreter.
#[map]
pub(crate) static PYTHONS: HashMap<u32, PythonWalk> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The Python thread state that was found last for each thread.
#[map]
static PYTHON_THREADS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// The number of followers of each leader of an object, by `object_key`: see `tracer_common::stack`.
#[map]
pub(crate) static FOLLOWERS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// The last leader of each thread.
#[map]
static LEADERS: LruHashMap<u32, Leader> = LruHashMap::with_max_entries(4096, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Leader {
    word: u64,
    /// The followers that are still to come.
    left: u64,
}

/// The code objects that were sent: their [words](PythonWalk::code_word) by `object_key`.
#[map]
static CODES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// The bytes that are read of a part of a code object if it can't be read to its full length.
const SHORT_PART: u32 = 96;

/// The most threads of one interpreter among which the current one is looked for.
const MAX_PYTHON_THREADS: u32 = 256;

/// More bytes than a stack has (`ulimit -s`): a stack pointer is never so far below its stack's end.
const FAR: u64 = 64 << 20;

#[repr(C)]
struct PythonStack {
    header: StackHeader,
    frames: [[u64; PYTHON_FRAME_LEN / 8]; MAX_PYTHON_FRAMES],
    /// Room for the reads of the last frame's `previous` and `code`, as far as the verifier knows their offsets.
    spare: [u64; 16],
}

#[repr(C)]
struct NativeStack<const LEN: usize> {
    header: StackHeader,
    bytes: [u8; LEN],
}

#[repr(C)]
struct CodeRecord {
    header: StackHeader,
    object: [u8; CODE_OBJECT_LEN],
    file: Part<{ CODE_PART_LEN[0] }>,
    name: Part<{ CODE_PART_LEN[1] }>,
    lines: Part<{ CODE_PART_LEN[2] }>,
}

#[repr(C)]
struct Part<const LEN: usize> {
    address: u64,
    len: u64,
    bytes: [u8; LEN],
}

/// Sends the current thread's stack in the detail that is set, and returns the bits for the event's
/// [`Header::faults`]. `kind`, `word` and `object`: see `tracer_common::stack`.
#[inline(always)]
pub(crate) fn send(
    regs: *const pt_regs,
    header: &Header,
    kind: u32,
    word: u64,
    object: u64,
) -> u32 {
    let wanted = setting_value(setting::STACKS);
    if wanted == stacks::NONE {
        return 0;
    }
    match kind {
        stack::FOLLOWER => {
            if let Some(leader) = LEADERS.get_ptr_mut(header.tid) {
                // SAFETY: the entry is the current thread's, and no other thread uses it.
                unsafe {
                    if (*leader).word == word && (*leader).left > 0 {
                        (*leader).left -= 1;
                        return STACK_OF_LEADER;
                    }
                }
            }
        }
        stack::LEADER => {
            // SAFETY: the entry is copied at once.
            let left = unsafe { FOLLOWERS.get(object) }
                .copied()
                .unwrap_or_default();
            if left > 0 {
                let leader = Leader {
                    word,
                    left: u64::from(left),
                };
                LEADERS.insert(header.tid, leader, 0).ok();
            }
        }
        _ => {}
    }
    // SAFETY: the map is a ring buffer.
    let filled = unsafe {
        bpf_ringbuf_query(
            (&raw const STACKS).cast_mut().cast(),
            u64::from(BPF_RB_AVAIL_DATA),
        )
    };
    // When user space can't keep up, one stack of sixteen is sent: a sample of all moments is better than all
    // stacks of one moment and none of the next.
    if filled > setting_value(setting::STACKS_FILLED) && header.time_ns >> 6 & 15 != 0 {
        count(counter::STACKS_SKIPPED);
        return STACK_SKIPPED;
    }
    let mut start = StackHeader {
        header: *header,
        kind: 0,
        count: 0,
        ip: load_register!(regs, rip),
        sp: load_register!(regs, rsp),
        bp: load_register!(regs, rbp),
        end: 0,
    };
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let fs_base: u64 = kernel(task, setting::TASK_FSBASE).unwrap_or_default();
    let mut sent = python(&mut start, fs_base);
    if wanted == stacks::FULL {
        start.end = stack_end(task, fs_base, start.sp);
        sent &= native(&mut start);
    }
    if sent {
        return HAS_STACK;
    }
    count(counter::STACKS_SKIPPED);
    STACK_SKIPPED
}

/// The highest address of the thread's stack, or 0 if it isn't known.
#[inline(always)]
fn stack_end(task: u64, fs_base: u64, sp: u64) -> u64 {
    let main: u64 = kernel::<u64>(task, setting::TASK_MM)
        .and_then(|mm| kernel(mm, setting::MM_START_STACK))
        .unwrap_or_default();
    if main.wrapping_sub(sp) < FAR {
        // `start_stack` points to the program's argument count, the first word on its stack.
        return main + 8;
    }
    // A thread's `struct pthread`, to which `fs` points, is at the top of its stack.
    if fs_base.wrapping_sub(sp) < FAR {
        fs_base
    } else {
        0
    }
}

/// Sends the Python frames. False if there was no room.
#[inline(always)]
fn python(start: &mut StackHeader, fs_base: u64) -> bool {
    // SAFETY: the entry lives as long as the program runs. User space replaces it only whole, and its
    // numbers stay valid: every access that they lead to is checked.
    let Some(walk) = (unsafe { PYTHONS.get(start.header.pid) }) else {
        return true;
    };
    let thread = python_thread(walk, start.header.tid, fs_base);
    if thread == 0 {
        return true;
    }
    let frame = frame_of(walk, thread);
    if frame == 0 {
        return true;
    }
    let Some(mut entry) = STACKS.reserve::<PythonStack>(0) else {
        return false;
    };
    let mut walking = Walking {
        walk,
        start,
        record: entry.as_mut_ptr(),
        frame,
        frames: 0,
    };
    each::<Walking>(MAX_PYTHON_FRAMES as u32, next_frame, &mut walking);
    let Walking { frame, frames, .. } = walking;
    start.kind = STACK_PYTHON;
    start.count = frames;
    start.end = frame;
    // SAFETY: the header is part of the record, which is ours until it is submitted.
    unsafe { (&raw mut (*entry.as_mut_ptr()).header).write(*start) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

/// Calls `step` with 0, 1, … and `state`, until it returns another number than 0, but at most `count` times.
/// This is `bpf_loop` (Linux 5.17): the verifier follows `step` once instead of once an iteration.
#[inline(always)]
pub(crate) fn each<T>(count: u32, step: unsafe extern "C" fn(u64, *mut T) -> i64, state: &mut T) {
    // SAFETY: `step` is a function of this object that takes a `T`, and `state` is one that nothing else uses
    // during the loop.
    unsafe { bpf_loop(count, step as *mut c_void, (&raw mut *state).cast(), 0) };
}

/// The state of a loop over Python frames that sends them.
struct Walking {
    walk: *const PythonWalk,
    start: *const StackHeader,
    record: *mut PythonStack,
    /// The next frame.
    frame: u64,
    frames: u32,
}

/// Adds a frame to the record, and sends its code object.
///
/// # Safety
/// Only [`each`] may call it, with the `Walking` that it was given.
unsafe extern "C" fn next_frame(index: u64, walking: *mut Walking) -> i64 {
    let i = index as usize;
    // SAFETY: by the contract above it is a valid `Walking`, which nothing else uses during the loop. All
    // accesses stay within the record: the block's length is at most 0x7f, and `previous` and `code` are at
    // most 0x78, behind which there is spare room.
    unsafe {
        let walking = &mut *walking;
        let walk = &*walking.walk;
        if i >= MAX_PYTHON_FRAMES || walking.frame == 0 {
            return 1;
        }
        let slot = (&raw mut (*walking.record).frames)
            .cast::<u8>()
            .add(i * PYTHON_FRAME_LEN);
        let from = walking.frame.wrapping_add(u64::from(walk.block)) as *const c_void;
        if bpf_probe_read_user(slot.cast(), walk.block_len & 0x7f, from) != 0 {
            return 1;
        }
        let code = slot.add((walk.code & 0x78) as usize).cast::<u64>().read();
        let word = user(code.wrapping_add(u64::from(walk.code_word)));
        walking.frame = slot
            .add((walk.previous & 0x78) as usize)
            .cast::<u64>()
            .read();
        slot.add(PYTHON_CODE_AT).cast::<u64>().write(word);
        walking.frames = i as u32 + 1;
        send_code(walk, &*walking.start, code, word);
    }
    0
}

/// Sends a code object, unless it was sent before.
#[inline(always)]
fn send_code(walk: &PythonWalk, start: &StackHeader, code: u64, word: u64) {
    let key = object_key(start.header.pid, code);
    // SAFETY: the entry is copied at once.
    if unsafe { CODES.get(key) }.copied() == Some(word) {
        return;
    }
    let Some(mut entry) = STACKS.reserve::<CodeRecord>(0) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: all writes stay within the record; the helper checks the address that it reads.
    unsafe {
        let object = (&raw mut (*record).object).cast();
        let read = bpf_probe_read_user(object, CODE_OBJECT_LEN as u32, code as *const c_void);
        (&raw mut (*record).header).write(StackHeader {
            kind: STACK_CODE,
            count: CODE_OBJECT_LEN as u32 * worked(read) as u32,
            ip: code,
            sp: word,
            ..*start
        });
        let part = |i: usize| user(code.wrapping_add(u64::from(walk.code_parts[i])));
        read_part(&raw mut (*record).file, part(0));
        read_part(&raw mut (*record).name, part(1));
        read_part(&raw mut (*record).lines, part(2));
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    CODES.insert(key, word, 0).ok();
}

/// 1 if a read worked, else 0. It has no branch, because the verifier would follow both ways of it.
#[inline(always)]
fn worked(result: i64) -> u64 {
    !(result as u64) >> 63
}

/// Fills a part of a code object's record.
///
/// # Safety
/// `part` is valid for writes.
#[inline(always)]
unsafe fn read_part<const LEN: usize>(part: *mut Part<LEN>, address: u64) {
    // SAFETY: the caller promises that `part` can be written; the helper checks the address.
    unsafe {
        let to = (&raw mut (*part).bytes).cast();
        let from = address as *const c_void;
        // The memory behind a short part may not be mapped. A read that fails fills the part with zeros, so
        // the short read is done again after the long one.
        let short = worked(bpf_probe_read_user(to, SHORT_PART, from));
        let long = worked(bpf_probe_read_user(to, LEN as u32, from));
        bpf_probe_read_user(to, SHORT_PART, from);
        let len = long * (LEN as u64 - u64::from(SHORT_PART)) + short * u64::from(SHORT_PART);
        (&raw mut (*part).address).write(address);
        (&raw mut (*part).len).write(len);
    }
}

/// The innermost frame of a Python thread, or 0.
#[inline(always)]
fn frame_of(walk: &PythonWalk, thread: u64) -> u64 {
    let frame = user(thread.wrapping_add(u64::from(walk.frame)));
    if walk.frame_deref == u32::MAX || frame == 0 {
        return frame;
    }
    user(frame.wrapping_add(u64::from(walk.frame_deref)))
}

/// The thread's Python thread state, or 0.
#[inline(always)]
fn python_thread(walk: &PythonWalk, tid: u32, fs_base: u64) -> u64 {
    let is_own = |thread: u64| user(thread.wrapping_add(u64::from(walk.thread_id))) == fs_base;
    // SAFETY: the entry is copied at once.
    if let Some(known) = unsafe { PYTHON_THREADS.get(tid) }.copied()
        && is_own(known)
    {
        return known;
    }
    let mut searching = Searching {
        walk,
        fs_base,
        thread: user(walk.threads),
    };
    each::<Searching>(MAX_PYTHON_THREADS, next_thread, &mut searching);
    if searching.thread != 0 {
        PYTHON_THREADS.insert(tid, searching.thread, 0).ok();
    }
    searching.thread
}

/// The state of a loop over an interpreter's threads that searches the current one.
struct Searching {
    walk: *const PythonWalk,
    fs_base: u64,
    thread: u64,
}

/// Stops at the current thread.
///
/// # Safety
/// Only [`each`] may call it, with the `Searching` that it was given.
unsafe extern "C" fn next_thread(index: u64, searching: *mut Searching) -> i64 {
    // SAFETY: by the contract above it is a valid `Searching`, which nothing else uses during the loop.
    unsafe {
        let searching = &mut *searching;
        let walk = &*searching.walk;
        let thread = searching.thread;
        if thread == 0 {
            return 1;
        }
        let id = user(thread.wrapping_add(u64::from(walk.thread_id)));
        // The state of a thread that is about to begin has its creator's number for a moment (CPython 3.10,
        // 3.11), but no frame.
        if id == searching.fs_base && frame_of(walk, thread) != 0 {
            return 1;
        }
        let is_last = index + 1 == u64::from(MAX_PYTHON_THREADS);
        searching.thread = match is_last {
            true => 0,
            false => user(thread.wrapping_add(u64::from(walk.next))),
        };
    }
    0
}

/// Sends a copy of the stack's innermost bytes. False if there was no room.
#[inline(always)]
fn native(start: &mut StackHeader) -> bool {
    let mut len = start.end.wrapping_sub(start.sp);
    if start.end == 0 || len > MAX_STACK_LEN as u64 {
        len = MAX_STACK_LEN as u64;
    }
    if len <= 2 << 10 {
        copy::<{ 2 << 10 }>(start, len)
    } else if len <= 4 << 10 {
        copy::<{ 4 << 10 }>(start, len)
    } else if len <= 8 << 10 {
        copy::<{ 8 << 10 }>(start, len)
    } else if len <= 16 << 10 {
        copy::<{ 16 << 10 }>(start, len)
    } else if len <= 32 << 10 {
        copy::<{ 32 << 10 }>(start, len)
    } else {
        copy::<MAX_STACK_LEN>(start, len)
    }
}

/// Sends a copy of the stack's innermost `len` bytes, at most `LEN`. False if there was no room.
#[inline(always)]
fn copy<const LEN: usize>(start: &mut StackHeader, len: u64) -> bool {
    let Some(mut entry) = STACKS.reserve::<NativeStack<LEN>>(0) else {
        return false;
    };
    let record = entry.as_mut_ptr();
    // One less than the length. The mask shows the verifier that it is 0 to LEN - 1.
    let mut len = (len as u32).wrapping_sub(1) & (LEN as u32 - 1);
    // SAFETY: the record has room for `len` + 1 bytes; the helper checks the address that it reads.
    unsafe {
        let to = (&raw mut (*record).bytes).cast();
        if bpf_probe_read_user(to, len + 1, start.sp as *const c_void) != 0 {
            // Part of it isn't paged in. The rest of the innermost page is.
            len = (4095 - (start.sp as u32 & 4095)) & (LEN as u32 - 1);
            if bpf_probe_read_user(to, len + 1, start.sp as *const c_void) != 0 {
                entry.discard(u64::from(BPF_RB_NO_WAKEUP));
                return true;
            }
        }
        start.kind = STACK_NATIVE;
        start.count = len + 1;
        (&raw mut (*record).header).write(*start);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
