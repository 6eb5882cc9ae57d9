//! Where a thread is: the frames of its Python interpreter, and its stack as it is.
//!
//! Both go into a ring buffer of their own, so that no event is ever lost for the sake of a stack, and
//! before the event's record: whoever has that finds them there.

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
    STACK_OF_LEADER, STACK_PYTHON, STACK_SKIPPED, StackHeader, counter, known_key, setting, stack,
    stacks,
};

use crate::{count, kernel, load_register, set_to, user};

/// The stacks. User space sets the size.
#[map]
static STACKS: RingBuf = RingBuf::with_byte_size(32 * 1024 * 1024, 0);

/// How to walk the frames of each process's Python interpreter.
#[map]
pub static PYTHONS: HashMap<u32, PythonWalk> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The Python thread state of each thread, as it was found last.
#[map]
static PYTHON_THREADS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// How many followers each leader of an object has: see `tracer_common::stack`. By `known_key`.
#[map]
pub static FOLLOWERS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// The last leader of each thread.
#[map]
static LEADERS: LruHashMap<u32, Leader> = LruHashMap::with_max_entries(4096, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Leader {
    word: u64,
    /// Followers that are still to come.
    left: u64,
}

/// The code objects that were sent, by `known_key`, with the word that tells one from another at the same
/// address.
#[map]
static CODES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// What is read of a part of a code object where all of it can't be.
const SHORT_PART: u32 = 96;

/// Threads of one interpreter that are looked through.
const MAX_PYTHON_THREADS: u32 = 256;

/// A stack is never farther from its beginning than that; nor is it larger (`ulimit -s`).
const FAR: u64 = 64 << 20;

#[repr(C)]
struct PythonStack {
    header: StackHeader,
    frames: [[u64; PYTHON_FRAME_LEN / 8]; MAX_PYTHON_FRAMES],
    /// The verifier allows for a frame's `previous` to stand here.
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

/// Sends what is wanted of the current thread's stack, and returns what goes into the event's
/// [`Header::faults`]. `word` and `object`: see `tracer_common::stack`.
#[inline(always)]
pub fn send(regs: *const pt_regs, header: &Header, kind: u32, word: u64, object: u64) -> u32 {
    let wanted = set_to(setting::STACKS);
    if wanted == stacks::NONE {
        return 0;
    }
    match kind {
        stack::FOLLOWER => {
            if let Some(leader) = LEADERS.get_ptr_mut(header.tid) {
                // SAFETY: only this thread uses its entry.
                unsafe {
                    if (*leader).word == word && (*leader).left > 0 {
                        (*leader).left -= 1;
                        return STACK_OF_LEADER;
                    }
                }
            }
        }
        stack::LEADER => {
            // SAFETY: read once, by value.
            let left = unsafe { FOLLOWERS.get(object) }
                .copied()
                .unwrap_or_default();
            if left > 0 {
                let leader = Leader {
                    word,
                    left: u64::from(left),
                };
                let _ = LEADERS.insert(header.tid, leader, 0);
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
    // When user space can't keep up, one of sixteen: better that than all of one moment and none of
    // another.
    if filled > set_to(setting::STACKS_FILLED) && header.time_ns >> 6 & 15 != 0 {
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

/// Where the thread's stack begins, if that is known.
#[inline(always)]
fn stack_end(task: u64, fs_base: u64, sp: u64) -> u64 {
    let main: u64 = kernel::<u64>(task, setting::TASK_MM)
        .and_then(|mm| kernel(mm, setting::MM_START_STACK))
        .unwrap_or_default();
    if main.wrapping_sub(sp) < FAR {
        // The word that the program begins with: how many arguments it has.
        return main + 8;
    }
    // A thread's `struct pthread`, whose address `fs` has, lies at the top of its stack.
    if fs_base.wrapping_sub(sp) < FAR {
        fs_base
    } else {
        0
    }
}

/// Sends the Python frames. False when there is no room.
#[inline(always)]
fn python(start: &mut StackHeader, fs_base: u64) -> bool {
    // SAFETY: the entry is read once, by value; whoever changes it writes it whole.
    let Some(walk) = (unsafe { PYTHONS.get(start.header.pid) }) else {
        return true;
    };
    let thread = python_thread(walk, start.header.tid, fs_base);
    if thread == 0 {
        return true;
    }
    let mut frame = frame_of(walk, thread);
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
    // SAFETY: within the record.
    unsafe { (&raw mut (*entry.as_mut_ptr()).header).write(*start) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

/// Calls `step` with 0, 1, … until it returns something else than 0, or `count` times (`bpf_loop`, Linux
/// 5.17): the verifier follows it once, not once a round.
#[inline(always)]
pub fn each<T>(count: u32, step: unsafe extern "C" fn(u64, *mut T) -> i64, of: &mut T) {
    // SAFETY: `step` is a function of this object, whose second argument is `of`.
    unsafe { bpf_loop(count, step as *mut c_void, (&raw mut *of).cast(), 0) };
}

/// A walk over Python frames that goes on.
struct Walking {
    walk: *const PythonWalk,
    start: *const StackHeader,
    record: *mut PythonStack,
    /// The next frame.
    frame: u64,
    frames: u32,
}

/// # Safety
/// A callback of [`each`].
unsafe extern "C" fn next_frame(index: u64, walking: *mut Walking) -> i64 {
    let i = index as usize;
    // SAFETY: `each` was called with it, and only this uses it meanwhile; all writes stay within the
    // record: `len` is at most 0x7f, `previous` and `code` at most 0x78, behind which there is spare room.
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

/// Sends a code object as it is, unless it was sent before.
#[inline(always)]
fn send_code(walk: &PythonWalk, start: &StackHeader, code: u64, word: u64) {
    let key = known_key(start.header.pid, code);
    // SAFETY: read once, by value.
    if unsafe { CODES.get(key) }.copied() == Some(word) {
        return;
    }
    let Some(mut entry) = STACKS.reserve::<CodeRecord>(0) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: all writes are within the record.
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
    let _ = CODES.insert(key, word, 0);
}

/// 1 if a read worked, else 0: without a branch, of which the verifier would follow both ways.
#[inline(always)]
fn worked(result: i64) -> u64 {
    !(result as u64) >> 63
}

/// # Safety
/// `part` may be written to.
#[inline(always)]
unsafe fn read_part<const LEN: usize>(part: *mut Part<LEN>, address: u64) {
    // SAFETY: the caller's promise; the helper checks the address.
    unsafe {
        let to = (&raw mut (*part).bytes).cast();
        let from = address as *const c_void;
        // Memory may end behind a short one; what fails leaves zeros.
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
    // SAFETY: read once, by value.
    if let Some(known) = unsafe { PYTHON_THREADS.get(tid) }.copied()
        && is_own(known)
    {
        return known;
    }
    let mut looking = Looking {
        walk,
        fs_base,
        thread: user(walk.threads),
    };
    each::<Looking>(MAX_PYTHON_THREADS, next_thread, &mut looking);
    if looking.thread != 0 {
        let _ = PYTHON_THREADS.insert(tid, looking.thread, 0);
    }
    looking.thread
}

/// A look through the threads of an interpreter.
struct Looking {
    walk: *const PythonWalk,
    fs_base: u64,
    thread: u64,
}

/// # Safety
/// A callback of [`each`].
unsafe extern "C" fn next_thread(index: u64, looking: *mut Looking) -> i64 {
    // SAFETY: `each` was called with it, and only this uses it meanwhile.
    unsafe {
        let looking = &mut *looking;
        let walk = &*looking.walk;
        let thread = looking.thread;
        if thread == 0 {
            return 1;
        }
        let id = user(thread.wrapping_add(u64::from(walk.thread_id)));
        // A thread that is about to begin has its creator's number for a moment (CPython 3.10, 3.11), and
        // no frame.
        if id == looking.fs_base && frame_of(walk, thread) != 0 {
            return 1;
        }
        let is_last = index + 1 == u64::from(MAX_PYTHON_THREADS);
        looking.thread = match is_last {
            true => 0,
            false => user(thread.wrapping_add(u64::from(walk.next))),
        };
    }
    0
}

/// Sends the stack as it is. False when there is no room.
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

#[inline(always)]
fn copy<const LEN: usize>(start: &mut StackHeader, len: u64) -> bool {
    let Some(mut entry) = STACKS.reserve::<NativeStack<LEN>>(0) else {
        return false;
    };
    let record = entry.as_mut_ptr();
    // A mask, for the verifier: 1 to LEN.
    let mut len = (len as u32).wrapping_sub(1) & (LEN as u32 - 1);
    // SAFETY: `len` + 1 bytes are within the record.
    unsafe {
        let to = (&raw mut (*record).bytes).cast();
        if bpf_probe_read_user(to, len + 1, start.sp as *const c_void) != 0 {
            // Part of it isn't there; what is on the innermost page is.
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
