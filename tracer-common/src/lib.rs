//! What crosses between the kernel and user space: the capture programs that user space gives the
//! kernel ([`Capture`]), and the records that come back: a [`Header`] and what is sent behind it.
//!
//! A capture program is generic: *which* memory to read is data, derived by user space from the
//! traced library's own machine code. Nothing here knows TT-Metal.
#![no_std]

/// A capture program works on so many bytes: first the scratch, which isn't sent, then the
/// [`Header`], then what is sent behind it. Offsets below count from the start of all this.
pub const WORKSPACE_LEN: usize = 248;

/// Where the header stands in the workspace.
pub const HEADER_AT: usize = 64;

/// The last word of the scratch: see [`Capture::known_by`].
pub const KNOWN_AT: usize = HEADER_AT - 8;

/// Objects that can be known at the same time.
pub const MAX_KNOWN: u32 = 64;

/// Where what is sent behind the header begins. The register that a capture program starts from
/// stands here, too, so that it is sent.
pub const SENT_AT: usize = HEADER_AT + size_of::<Header>();

/// The last place in the workspace where a [`Read`] may put bytes.
pub const BLOCK_AT: usize = 120;

/// The most bytes that one [`Read`] can bring.
pub const MAX_READ_LEN: usize = 120;

/// Reads that one [`Capture`] can ask for.
pub const MAX_READS: usize = 10;

/// Conditions that one [`Capture`] can have.
pub const MAX_CONDITIONS: usize = 2;

/// Capture programs that the kernel side has room for.
pub const MAX_CAPTURES: u32 = 1024;

/// Processes that can be watched at the same time.
pub const MAX_PROCESSES: u32 = 8192;

/// One read of the target's memory: `len` bytes at (the pointer that stands at `base` in the
/// workspace) + `offset`, put at `to`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Where the pointer stands. A multiple of 8.
    pub base: u16,
    /// Where the bytes go. A multiple of 8, at most [`BLOCK_AT`].
    pub to: u16,
    /// How many bytes, 1 to [`MAX_READ_LEN`].
    pub len: u16,
    /// Only if the eight bytes that stand here (a multiple of 8), with `guard_mask` applied, equal
    /// `guard`; where `guard_mask` is 0, always.
    pub guard_at: u16,
    pub guard_mask: u64,
    pub guard: u64,
    /// Added to the pointer.
    pub offset: i64,
    /// `u64::MAX`: from the eight bytes read, the probed instruction's address is subtracted. What
    /// points into the library becomes a constant of its file so, wherever a process has it mapped.
    /// 0: they stay as they are.
    pub relative: u64,
}

/// Keep a record only if the byte at `at` in the workspace equals `value` (or another condition of
/// the same capture holds).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub at: u16,
    pub value: u16,
}

/// What to record when a probe point is hit.
///
/// The register `register` is put at 0 and at [`SENT_AT`]. Where there is nothing to read, that is
/// sent as a [`Short`] record. Otherwise `reads` are done in order, each able to use what an earlier
/// one brought, and the header and `sent` bytes behind it are sent, unless there are conditions and
/// none of them holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Copied into [`Header::point`].
    pub point: u32,
    /// A number of [`register`].
    pub register: u32,
    pub read_count: u32,
    pub condition_count: u32,
    /// The conditions are looked at after so many reads; the rest is read only if they hold.
    pub condition_after: u32,
    /// Not 0: if the first condition holds, the register is all that is sent, as a [`Short`] record.
    pub short_on_first: u32,
    /// How many bytes to send from [`SENT_AT`] on.
    pub sent: u32,
    /// Not 0: the pointer that stands here (a multiple of 8) is to an object that needn't be read
    /// again if it was sent before. Looked at with the conditions; where the object is known, the
    /// word at [`KNOWN_AT`] becomes 1, for reads to be guarded by.
    pub known_by: u32,
    /// Not 0: a hit makes all known objects unknown.
    pub forget: u32,
    /// A number of [`stack`]: whether to send along where the thread is, as far as
    /// [`setting::STACKS`] wants it.
    pub stack: u32,
    pub reads: [Read; MAX_READS],
    pub conditions: [Condition; MAX_CONDITIONS],
    /// With [`stack::LEADER`] and [`stack::FOLLOWER`]: where in the workspace the word stands that tells
    /// which followers are a leader's. A multiple of 8.
    pub stack_word: u32,
    /// Not 0: one more than the number of a second register, which is put at 8 and at
    /// [`SECOND_SENT_AT`].
    pub second: u32,
    /// Which of the kernel side's [`Lists`] are those of the object.
    pub lists: u32,
    /// A number of [`lists`]: whether these are sent, too.
    pub lists_when: u32,
    /// A number of [`wake`]: which records the reader is woken for.
    pub wake: u32,
    pub reserved: u32,
}

/// Where the second register stands in what is sent.
pub const SECOND_SENT_AT: usize = SENT_AT + 8;

/// Values of [`Capture::lists_when`].
pub mod lists {
    pub const NONE: u32 = 0;
    /// They are sent, unless they are what was sent before of this object: then nothing is.
    pub const CHANGED: u32 = 1;
    /// They are sent, unless those of this object have been; then it alone is, as a
    /// [`Short`](super::Short) record.
    pub const ONCE: u32 = 2;
    /// The object is sent alone, and ends: its lists have not been sent any more.
    pub const END: u32 = 3;
}

/// How many [`Lists`] the kernel side has room for.
pub const MAX_LISTS: u32 = 64;

/// Lists that one object can have.
pub const LISTS: usize = 5;

/// Elements of a list that are sent, the first ones.
pub const MAX_ELEMENTS: u32 = 256;

/// Reads that an element can take.
pub const MAX_ELEMENT_READS: usize = 10;

/// Where in a capture's workspace the numbers of elements are put that its lists have, one word each.
pub const COUNTS_AT: usize = BLOCK_AT + 16;
const _: () = assert!(COUNTS_AT + LISTS * 8 <= WORKSPACE_LEN);

/// The lists of an object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub lists: [List; LISTS],
}

/// A list of elements, one behind the other in memory; each may have an array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Where in the object the pointer to its first element stands; behind it, one past the last.
    pub begin: i64,
    /// From one element to the next; 0: there is no such list.
    pub stride: u64,
    /// Where in an element the pointers to its array stand, if the arrays tell whether the list is what
    /// it was: [`NO_IDENTITY`] if they don't.
    pub identity: i64,
    pub read_count: u32,
    /// Where in [`Element::fields`] the pointer to the first byte of the element's array stands, and
    /// behind it, one past the last. A multiple of 8.
    pub array_at: u32,
    pub reads: [ElementRead; MAX_ELEMENT_READS],
}

/// [`List::identity`] of a list that may change without being sent again.
pub const NO_IDENTITY: i64 = i64::MIN;
/// Elements of a list, and words of an element's array, that tell it from another; a larger one is never
/// taken for what it was.
pub const MAX_IDENTITY: (u32, usize) = (32, 16);

/// One read of the target's memory: `len` bytes at (the pointer that stands at `base` in
/// [`Element::fields`]) + `offset`, put at `to`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElementRead {
    /// A multiple of 8. At 0 the element's own address stands.
    pub base: u16,
    /// A multiple of 8.
    pub to: u16,
    /// 1 to 63.
    pub len: u16,
    pub reserved: u16,
    pub offset: i64,
}

/// [`Header::point`] of an [`Element`].
pub const POINT_ELEMENT: u32 = 0xffff_ff05;

/// Words of [`Element::fields`].
pub const ELEMENT_WORDS: usize = 16;
/// Bytes of an element's array that are sent, the first ones.
pub const ARRAY_LEN: usize = 256;

/// One element of a list. Those of one hit come before its own record, whose time and thread they have.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub header: Header,
    /// Whose list it is.
    pub object: u64,
    /// Which of [`Lists::lists`].
    pub list: u32,
    pub index: u32,
    /// How many bytes its array has, as far as they are sent or not.
    pub array_len: u64,
    pub fields: [u64; ELEMENT_WORDS],
    pub array: [u8; ARRAY_LEN],
}

/// Values of [`Capture::wake`]. A short record never wakes.
pub mod wake {
    pub const NEVER: u32 = 0;
    /// One of an object that is new to a place of the table of known objects which was empty: of that it
    /// can't be many.
    pub const FIRST: u32 = 1;
    pub const ALWAYS: u32 = 2;
}

/// Values of [`Capture::stack`].
pub mod stack {
    pub const NONE: u32 = 0;
    pub const SENT: u32 = 1;
    /// Sent; as many followers with the same word come next in the same thread as user space has said of
    /// the object that [`Capture::known_by`](super::Capture::known_by) points to.
    pub const LEADER: u32 = 2;
    /// Sent, unless it is one of those: then it is its leader's.
    pub const FOLLOWER: u32 = 3;
}

/// Numbers of x86-64's general registers, in the order of their encoding in machine code.
pub mod register {
    pub const RAX: u32 = 0;
    pub const RCX: u32 = 1;
    pub const RDX: u32 = 2;
    pub const RBX: u32 = 3;
    pub const RSP: u32 = 4;
    pub const RBP: u32 = 5;
    pub const RSI: u32 = 6;
    pub const RDI: u32 = 7;
    pub const R8: u32 = 8;
    pub const R9: u32 = 9;
    pub const R10: u32 = 10;
    pub const R11: u32 = 11;
    pub const R12: u32 = 12;
    pub const R13: u32 = 13;
    pub const R14: u32 = 14;
    pub const R15: u32 = 15;
}

/// [`Header::point`] of a [`Short`] record: a process executed a program. `value` is 1 if that stopped
/// the process, else 0.
pub const POINT_EXEC: u32 = 0xffff_ff01;
/// [`Header::point`] of a [`Short`] record: a process's dynamic linker changes, or has changed, its
/// list of loaded libraries. `value` as with [`POINT_EXEC`].
pub const POINT_LINKED: u32 = 0xffff_ff02;
/// [`Header::point`] of a [`Short`] record: the last thread of a process ended; `value` is its exit
/// code as `wait(2)` encodes it.
pub const POINT_EXIT: u32 = 0xffff_ff03;
/// [`Header::point`] of a [`Short`] record: a process forked; `value` is the child's pid.
pub const POINT_FORK: u32 = 0xffff_ff04;

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `CLOCK_MONOTONIC`, in nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// The thread group, as seen in the initial pid namespace.
    pub pid: u32,
    /// The thread, likewise.
    pub tid: u32,
    /// Which probe point: [`Capture::point`], or one of the `POINT_` numbers.
    pub point: u32,
    /// Bit i is set if read i failed (unmapped, or not paged in): its bytes are zero. Above them
    /// [`HAS_STACK`] and [`STACK_SKIPPED`].
    pub faults: u32,
}

/// In [`Header::faults`]: stack records with the same time and thread have been sent before.
pub const HAS_STACK: u32 = 1 << 31;
/// In [`Header::faults`]: a stack was wanted, but its ring buffer is so full that only some are sent.
pub const STACK_SKIPPED: u32 = 1 << 30;
/// In [`Header::faults`]: the stack is that of the thread's last [`stack::LEADER`].
pub const STACK_OF_LEADER: u32 = 1 << 29;
const _: () = assert!(MAX_READS < 29);

/// What a record of the stacks' ring buffer begins with. Behind it stand Python frames or bytes of
/// the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackHeader {
    /// That of the record whose stack it is, but for `faults`.
    pub header: Header,
    /// [`STACK_PYTHON`] or [`STACK_NATIVE`].
    pub kind: u32,
    /// How many Python frames, each in [`PYTHON_FRAME_LEN`] bytes; or how many bytes of the stack, from
    /// `sp` on.
    pub count: u32,
    /// The instruction pointer, the stack pointer and `rbp`.
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    /// Where the stack begins (it grows downwards): as far as it can be known, else 0. Of Python frames,
    /// the address of the next frame that there was no room for, or 0.
    pub end: u64,
}

/// [`StackHeader::kind`]: frames of a Python interpreter.
pub const STACK_PYTHON: u32 = 1;
/// [`StackHeader::kind`]: bytes of the thread's stack.
pub const STACK_NATIVE: u32 = 2;

/// [`StackHeader::kind`]: a code object that was on a Python stack for the first time, as it was then:
/// [`CODE_OBJECT_LEN`] bytes of it, whose address is `ip` and whose word is `sp`; then for each of
/// [`PythonWalk::code_parts`] its address, how many bytes of it are there, and room for
/// [`CODE_PART_LEN`].
pub const STACK_CODE: u32 = 3;
/// Bytes of a code object that are sent.
pub const CODE_OBJECT_LEN: usize = 256;
/// The most bytes of each of its parts: its file's name, its own, its line table.
pub const CODE_PART_LEN: [usize; 3] = [320, 192, 1024];

/// The most Python frames that are sent, the innermost ones.
pub const MAX_PYTHON_FRAMES: usize = 128;
/// The bytes of each: the block that [`PythonWalk`] names, then at [`PYTHON_CODE_AT`] a word of its code
/// object.
pub const PYTHON_FRAME_LEN: usize = 88;
pub const PYTHON_CODE_AT: usize = 80;

/// The most bytes of a stack that are sent, the innermost ones.
pub const MAX_STACK_LEN: usize = 64 << 10;

/// How to walk the frames of a process's Python interpreter. Offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonWalk {
    /// The address of the pointer to the first thread state. 0: there is no Python.
    pub threads: u64,
    /// Of a thread state: the next one; the thread's number (`pthread_self`, on x86-64 with glibc the
    /// base of its `fs` segment); the current frame, or what leads to it.
    pub next: u32,
    pub thread_id: u32,
    pub frame: u32,
    /// Where the current frame stands in what `frame` points to; [`u32::MAX`]: `frame` is it already.
    pub frame_deref: u32,
    /// The part of a frame that is sent: where it begins, and its length, at most [`PYTHON_CODE_AT`].
    pub block: u32,
    pub block_len: u32,
    /// In this block (multiples of 8): the caller's frame; the code object.
    pub previous: u32,
    pub code: u32,
    /// In a code object, the word that is sent.
    pub code_word: u32,
    /// In a code object, the pointers to the names and the line table.
    pub code_parts: [u32; 3],
}

/// A header and one number: the register of a capture program that reads nothing, or what is told
/// of the `POINT_` numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub header: Header,
    pub value: u64,
}

/// Indices into the kernel side's counters.
pub mod counter {
    /// Records that the ring buffer had no room for.
    pub const LOST: u32 = 0;
    /// Children that there was no room for among the watched processes.
    pub const UNFOLLOWED: u32 = 1;
    /// Stacks that were skipped because their ring buffer was too full.
    pub const STACKS_SKIPPED: u32 = 2;
    pub const COUNT: u32 = 3;
}

/// Indices into the kernel side's settings. An offset is that of a member in a structure of the
/// running kernel, in bytes.
pub mod setting {
    /// What capture programs do: a number of [`recording`](super::recording).
    pub const RECORDING: u32 = 0;
    /// Whose lives are reported: a number of [`reporting`](super::reporting).
    pub const REPORTING: u32 = 1;
    /// Of `pid` in `struct task_struct`.
    pub const TASK_PID: u32 = 2;
    /// Of `tgid` in `struct task_struct`.
    pub const TASK_TGID: u32 = 3;
    /// Of `exit_code` in `struct task_struct`.
    pub const TASK_EXIT_CODE: u32 = 4;
    /// Of `signal` in `struct task_struct`.
    pub const TASK_SIGNAL: u32 = 5;
    /// Of `live` in `struct signal_struct`.
    pub const SIGNAL_LIVE: u32 = 6;
    /// What is sent of stacks: a number of [`stacks`](super::stacks).
    pub const STACKS: u32 = 7;
    /// So many bytes of stacks may wait before only some are sent.
    pub const STACKS_FILLED: u32 = 8;
    /// Of `thread.fsbase` in `struct task_struct`.
    pub const TASK_FSBASE: u32 = 9;
    /// Of `mm` in `struct task_struct`.
    pub const TASK_MM: u32 = 10;
    /// Of `start_stack` in `struct mm_struct`.
    pub const MM_START_STACK: u32 = 11;
    pub const COUNT: u32 = 12;
}

/// Values of [`setting::STACKS`].
pub mod stacks {
    pub const NONE: u64 = 0;
    /// Python frames.
    pub const PYTHON: u64 = 1;
    /// Python frames, and the stack itself.
    pub const FULL: u64 = 2;
}

/// Values of [`setting::RECORDING`].
pub mod recording {
    /// Nothing is recorded.
    pub const OFF: u64 = 0;
    /// Every hit is.
    pub const ON: u64 = 1;
    /// Hits in watched processes are.
    pub const WATCHED: u64 = 2;
}

/// Values of [`setting::REPORTING`]: whose executed programs, loaded libraries and ends are
/// reported.
pub mod reporting {
    /// Those of watched processes.
    pub const WATCHED: u64 = 0;
    /// Those of watched processes, and whom they fork becomes one and is reported, too. Each is held
    /// from a program's execution on: stopped, until user space lets it go on, at the execution and
    /// whenever it loads libraries.
    pub const DESCENDANTS: u64 = 1;
    /// Those of every process, and whom they fork.
    pub const ALL: u64 = 2;
}

const _: () = assert!(size_of::<Header>() == 24 && HEADER_AT.is_multiple_of(8));
// The kernel side masks `Read::to` with 0x78 and `Read::len` with 0x7f.
const _: () = assert!(BLOCK_AT <= 0x78 && MAX_READ_LEN <= 0x7f);
const _: () = assert!(BLOCK_AT + 0x7f <= WORKSPACE_LEN && WORKSPACE_LEN.is_multiple_of(8));

/// An object of a process in one word: its address without the low bits, in which objects that are
/// larger don't differ (user addresses have 47 bits), and the process (22 bits).
#[inline(always)]
pub const fn known_key(pid: u32, pointer: u64) -> u64 {
    (pointer >> 5) & ((1 << 42) - 1) | (pid as u64) << 42
}

/// Types that can be passed through a BPF map as they are.
///
/// # Safety
/// Implemented only by `repr(C)` types without padding, for which every bit pattern is valid.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: `repr(C)`; a u64, then twelve u32; no padding.
unsafe impl Plain for PythonWalk {}

// SAFETY: `repr(C)`; ten u32, then `Read`s of 4 × u16, 3 × u64 and an i64, then two u16 pairs and four
// u32; no padding.
unsafe impl Plain for Capture {}

// SAFETY: `repr(C)`; `List`s of an i64, a u64, an i64, two u32 and `ElementRead`s of 4 × u16 and an i64; no
// padding.
unsafe impl Plain for Lists {}
