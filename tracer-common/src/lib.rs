//! What crosses between the kernel and user space: user space gives the kernel capture programs
//! ([`Capture`]), and the kernel sends records back: a [`Header`] and the payload behind it.
//!
//! A capture program is generic: *which* memory to read is data, derived by user space from the
//! traced library's own machine code. Nothing here knows TT-Metal.
#![no_std]

/// The bytes that a capture program works on: first the scratch, which isn't sent, then the
/// [`Header`], then the payload. The offsets below count from the start of this workspace.
pub const WORKSPACE_LEN: usize = 248;

/// The offset of the header in the workspace.
pub const HEADER_AT: usize = 64;

/// The last word of the scratch: see [`Capture::known_by`].
pub const KNOWN_AT: usize = HEADER_AT - 8;

/// The slots of the kernel side's table of known objects, which are those it has sent before.
pub const MAX_KNOWN: u32 = 64;

/// The offset of the payload, which is sent behind the header. A capture program's register is
/// copied here, so that it is sent.
pub const SENT_AT: usize = HEADER_AT + size_of::<Header>();

/// The last offset in the workspace to which a [`Read`] may copy bytes.
pub const BLOCK_AT: usize = 120;

/// The most bytes that one [`Read`] can copy.
pub const MAX_READ_LEN: usize = 120;

/// The most reads of one [`Capture`].
pub const MAX_READS: usize = 10;

/// The most conditions of one [`Capture`].
pub const MAX_CONDITIONS: usize = 2;

/// The most capture programs that the kernel side can hold.
pub const MAX_CAPTURES: u32 = 1024;

/// The most processes that can be watched at the same time.
pub const MAX_PROCESSES: u32 = 8192;

/// One read of the target's memory: it copies `len` bytes from (the pointer at `base` in the
/// workspace) + `offset` to `to` in the workspace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The offset of the pointer. A multiple of 8.
    pub base: u16,
    /// The offset that the bytes are copied to. A multiple of 8, at most [`BLOCK_AT`].
    pub to: u16,
    /// The number of bytes, 1 to [`MAX_READ_LEN`].
    pub len: u16,
    /// The read is done only if the word at this offset (a multiple of 8), masked with `guard_mask`,
    /// equals `guard`. If `guard_mask` is 0, it is always done.
    pub guard_at: u16,
    pub guard_mask: u64,
    pub guard: u64,
    /// Added to the pointer.
    pub offset: i64,
    /// `u64::MAX`: the probed instruction's address is subtracted from the eight bytes read. A pointer
    /// into the library thereby becomes a constant of its file, wherever a process has it mapped.
    /// 0: the bytes stay as they are.
    pub relative: u64,
}

/// A record is kept only if the byte at `at` in the workspace equals `value`, or another condition of
/// the same capture holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub at: u16,
    pub value: u16,
}

/// What to record when a probe point is hit.
///
/// The register `register` is copied to offset 0 and to [`SENT_AT`]. If there are no reads, the register
/// is sent as a [`Short`] record. Otherwise `reads` are done in order, and each can use the bytes of an
/// earlier one. Then the header and `sent` bytes behind it are sent, unless there are conditions and none
/// of them holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Copied into [`Header::point`].
    pub point: u32,
    /// The register to start from, a number of [`register`].
    pub register: u32,
    pub read_count: u32,
    pub condition_count: u32,
    /// The number of reads before the conditions are checked. The other reads are done only if one holds.
    pub condition_after: u32,
    /// Not 0: if the first condition holds, only the register is sent, as a [`Short`] record.
    pub short_on_first: u32,
    /// The number of bytes to send from [`SENT_AT`] on.
    pub sent: u32,
    /// Not 0: the offset (a multiple of 8) of a pointer to an object that needn't be read again if it was
    /// sent before. This is checked together with the conditions: if the object is known, the word at
    /// [`KNOWN_AT`] becomes 1, so that reads can be guarded by it.
    pub known_by: u32,
    /// Not 0: a hit makes all known objects of its process unknown.
    pub forget: u32,
    /// A number of [`stack`]: whether to send the thread's stack, in the detail of
    /// [`setting::STACKS`].
    pub stack: u32,
    pub reads: [Read; MAX_READS],
    pub conditions: [Condition; MAX_CONDITIONS],
    /// With [`stack::LEADER`] and [`stack::FOLLOWER`]: the offset in the workspace of the word that a
    /// leader and its followers have in common. A multiple of 8.
    pub stack_word: u32,
    /// Not 0: one more than the number of a second register, which is copied to offset 8 and to
    /// [`SECOND_SENT_AT`].
    pub second: u32,
    /// The number of the object's [`Lists`].
    pub lists: u32,
    /// A number of [`lists`]: when these lists are sent.
    pub lists_when: u32,
    /// A number of [`wake`]: which records wake the reader.
    pub wake: u32,
    pub reserved: u32,
}

/// The offset of the second register in the payload.
pub const SECOND_SENT_AT: usize = SENT_AT + 8;

/// Values of [`Capture::lists_when`].
pub mod lists {
    pub const NONE: u32 = 0;
    /// The record and the lists are sent if the lists differ from those last sent for this object;
    /// otherwise nothing is sent.
    pub const CHANGED: u32 = 1;
    /// The record and the lists are sent the first time; later the object's address alone, as a
    /// [`Short`](super::Short) record.
    pub const ONCE: u32 = 2;
    /// The object ends: its address alone is sent, and its lists count as unsent from then on.
    pub const END: u32 = 3;
}

/// The most [`Lists`] that the kernel side can hold.
pub const MAX_LISTS: u32 = 64;

/// The most lists of one object.
pub const LISTS: usize = 5;

/// The most elements of a list that are sent; they are the first ones.
pub const MAX_ELEMENTS: u32 = 256;

/// The most reads of an element.
pub const MAX_ELEMENT_READS: usize = 10;

/// The offset in a capture's workspace of the lists' lengths: one word for each list, in elements.
pub const COUNTS_AT: usize = BLOCK_AT + 16;
const _: () = assert!(COUNTS_AT + LISTS * 8 <= WORKSPACE_LEN);

/// The lists of an object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub lists: [List; LISTS],
}

/// A list whose elements lie one behind the other in memory; each element may have an array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The offset in the object of the pointer to the first element. The pointer behind it is to the end
    /// of the last one.
    pub begin: i64,
    /// The bytes from one element to the next. 0: there is no such list.
    pub stride: u64,
    /// The offset in an element of the two pointers to its array, if the arrays show whether the list has
    /// changed; otherwise [`NO_IDENTITY`].
    pub identity: i64,
    pub read_count: u32,
    /// The offset in [`Element::fields`] of the pointer to the element's array. The pointer behind it is to
    /// the array's end. A multiple of 8.
    pub array_at: u32,
    pub reads: [ElementRead; MAX_ELEMENT_READS],
}

/// [`List::identity`] of a list that may change without being sent again.
pub const NO_IDENTITY: i64 = i64::MIN;
/// The most elements of a list, and the most words of an element's array, that are compared with what was
/// sent before. A larger list counts as changed.
pub const MAX_IDENTITY: (u32, usize) = (32, 16);

/// One read of the target's memory: it copies `len` bytes from (the pointer at `base` in
/// [`Element::fields`]) + `offset` to `to` in the fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElementRead {
    /// A multiple of 8. The element's own address is at 0.
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

/// The words of [`Element::fields`].
pub const ELEMENT_WORDS: usize = 16;
/// The most bytes of an element's array that are sent; they are the first ones.
pub const ARRAY_LEN: usize = 256;

/// One element of a list. The elements of a hit come before the hit's own record, and have its time and
/// thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub header: Header,
    /// The address of the object that has the list.
    pub object: u64,
    /// The list's index in [`Lists::lists`].
    pub list: u32,
    /// The element's index in the list.
    pub index: u32,
    /// The length of its array in bytes, which may be more than is sent.
    pub array_len: u64,
    pub fields: [u64; ELEMENT_WORDS],
    pub array: [u8; ARRAY_LEN],
}

/// Values of [`Capture::wake`]: which records wake the reader. A short record never does.
pub mod wake {
    pub const NEVER: u32 = 0;
    /// A record whose object wasn't known and takes an empty slot in the table of known objects. There are
    /// few of them, since the table has [`MAX_KNOWN`](super::MAX_KNOWN) slots.
    pub const FIRST: u32 = 1;
    pub const ALWAYS: u32 = 2;
}

/// Values of [`Capture::stack`]: which stack a record has.
pub mod stack {
    pub const NONE: u32 = 0;
    /// Its own, which is sent.
    pub const SENT: u32 = 1;
    /// Its own, which is sent, and which the next followers of the same thread with the same word share.
    /// User space sets the number of followers for each object that
    /// [`Capture::known_by`](super::Capture::known_by) points to.
    pub const LEADER: u32 = 2;
    /// Its leader's if it has one, else its own, which is sent.
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

/// [`Header::point`] of a [`Short`] record: a process executed a program. `value` is 1 if the kernel's side
/// stopped the process, else 0.
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
    /// The time by `CLOCK_MONOTONIC`, in nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// The process (thread group), in the initial pid namespace.
    pub pid: u32,
    /// The thread, in the initial pid namespace.
    pub tid: u32,
    /// The probe point: [`Capture::point`], or one of the `POINT_` numbers.
    pub point: u32,
    /// Bit i is set if read i failed (unmapped, or not paged in); its bytes are zero then. Above these bits
    /// are the [losses](Self::losses), then [`STACK_OF_LEADER`], [`STACK_SKIPPED`] and [`HAS_STACK`].
    pub faults: u32,
}

impl Header {
    /// The [`counter::LOST`] that the kernel's side read just before it sent the record, modulo
    /// [`LOSSES`]. If two records of one thread have the same number, no record of that thread was lost
    /// between them, unless exactly a multiple of [`LOSSES`] were.
    pub const fn losses(&self) -> u32 {
        self.faults >> LOSSES_SHIFT & (LOSSES - 1)
    }
}

/// The bits of [`Header::faults`] below [`Header::losses`].
pub const LOSSES_SHIFT: u32 = 12;
/// [`Header::losses`] counts modulo this number: as many bits as are free.
pub const LOSSES: u32 = 1 << 17;

/// In [`Header::faults`]: stack records with the same time and thread have been sent before.
pub const HAS_STACK: u32 = 1 << 31;
/// In [`Header::faults`]: a stack was wanted, but its ring buffer is so full that only some are sent.
pub const STACK_SKIPPED: u32 = 1 << 30;
/// In [`Header::faults`]: the stack is that of the thread's last [`stack::LEADER`].
pub const STACK_OF_LEADER: u32 = 1 << 29;
// An element has one bit more than it has reads: that of its array.
const _: () = assert!(MAX_READS <= LOSSES_SHIFT as usize);
const _: () = assert!(MAX_ELEMENT_READS < LOSSES_SHIFT as usize);
const _: () = assert!(LOSSES << LOSSES_SHIFT == STACK_OF_LEADER);

/// What a record of the stacks' ring buffer begins with. Behind it are Python frames, bytes of the stack,
/// or a code object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackHeader {
    /// The header of the event's record, without what its `faults` say of the stack.
    pub header: Header,
    /// [`STACK_PYTHON`], [`STACK_NATIVE`] or [`STACK_CODE`].
    pub kind: u32,
    /// The number of Python frames, of [`PYTHON_FRAME_LEN`] bytes each; or the number of bytes of the stack,
    /// from `sp` on.
    pub count: u32,
    /// The instruction pointer, the stack pointer and `rbp`.
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    /// The highest address of the stack, or 0 if it isn't known. With Python frames: the address of the
    /// first frame that there was no room for, or 0.
    pub end: u64,
}

/// [`StackHeader::kind`]: frames of a Python interpreter.
pub const STACK_PYTHON: u32 = 1;
/// [`StackHeader::kind`]: bytes of the thread's stack.
pub const STACK_NATIVE: u32 = 2;

/// [`StackHeader::kind`]: a code object, sent when it is on a Python stack for the first time. `ip` is its
/// address, `sp` its [word](PythonWalk::code_word). Behind the header are [`CODE_OBJECT_LEN`] bytes of
/// it; then for each of [`PythonWalk::code_parts`] the part's address, the number of its bytes that were
/// read, and room for [`CODE_PART_LEN`] bytes.
pub const STACK_CODE: u32 = 3;
/// The bytes of a code object that are sent.
pub const CODE_OBJECT_LEN: usize = 256;
/// The most bytes of each part of a code object: its file's name, its own name, its line table.
pub const CODE_PART_LEN: [usize; 3] = [320, 192, 1024];

/// The most Python frames that are sent; they are the innermost ones.
pub const MAX_PYTHON_FRAMES: usize = 128;
/// The bytes of each Python frame: the block that [`PythonWalk::block`] names, then at [`PYTHON_CODE_AT`]
/// the word of its code object.
pub const PYTHON_FRAME_LEN: usize = 88;
pub const PYTHON_CODE_AT: usize = 80;

/// The most bytes of a stack that are sent; they are the innermost ones.
pub const MAX_STACK_LEN: usize = 64 << 10;

/// How to walk the frames of a process's Python interpreter. Offsets are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonWalk {
    /// The address of the pointer to the first thread state. 0: there is no Python.
    pub threads: u64,
    /// Offsets in a thread state: the next thread state; the thread's number (`pthread_self`, on x86-64 with
    /// glibc the base of its `fs` segment); the current frame, or a structure that points to it.
    pub next: u32,
    pub thread_id: u32,
    pub frame: u32,
    /// The offset of the current frame in the structure that `frame` points to. [`u32::MAX`]: `frame` points
    /// to the frame itself.
    pub frame_deref: u32,
    /// The part of a frame that is sent: its offset, and its length, at most [`PYTHON_CODE_AT`].
    pub block: u32,
    pub block_len: u32,
    /// Offsets in this block (multiples of 8): the caller's frame; the code object.
    pub previous: u32,
    pub code: u32,
    /// The offset in a code object of the word that is sent, which differs between two code objects that
    /// were at the same address.
    pub code_word: u32,
    /// The offsets in a code object of the pointers to its file's name, its own name and its line table.
    pub code_parts: [u32; 3],
}

/// A header and one number: the register of a capture program without reads, or the value that one of the
/// `POINT_` numbers describes.
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
    /// Children that aren't watched because the watched processes are [too many](super::MAX_PROCESSES).
    pub const UNFOLLOWED: u32 = 1;
    /// Stacks that were skipped because their ring buffer was too full.
    pub const STACKS_SKIPPED: u32 = 2;
    pub const COUNT: u32 = 3;
}

/// Indices into the kernel side's settings. The offsets are those of members in the running kernel's own
/// structures, in bytes.
pub mod setting {
    /// Which hits are recorded: a number of [`recording`](super::recording).
    pub const RECORDING: u32 = 0;
    /// Which processes are reported: a number of [`reporting`](super::reporting).
    pub const REPORTING: u32 = 1;
    /// The offset of `pid` in `struct task_struct`.
    pub const TASK_PID: u32 = 2;
    /// The offset of `tgid` in `struct task_struct`.
    pub const TASK_TGID: u32 = 3;
    /// The offset of `exit_code` in `struct task_struct`.
    pub const TASK_EXIT_CODE: u32 = 4;
    /// The offset of `signal` in `struct task_struct`.
    pub const TASK_SIGNAL: u32 = 5;
    /// The offset of `live` in `struct signal_struct`.
    pub const SIGNAL_LIVE: u32 = 6;
    /// How much of each stack is sent: a number of [`stacks`](super::stacks).
    pub const STACKS: u32 = 7;
    /// The bytes of stacks that may wait before only some stacks are sent.
    pub const STACKS_FILLED: u32 = 8;
    /// The offset of `thread.fsbase` in `struct task_struct`.
    pub const TASK_FSBASE: u32 = 9;
    /// The offset of `mm` in `struct task_struct`.
    pub const TASK_MM: u32 = 10;
    /// The offset of `start_stack` in `struct mm_struct`.
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
    /// No hits.
    pub const OFF: u64 = 0;
    /// Every hit.
    pub const ON: u64 = 1;
    /// The hits of watched processes.
    pub const WATCHED: u64 = 2;
}

/// Values of [`setting::REPORTING`]: the processes whose executed programs, loaded libraries and ends are
/// reported.
pub mod reporting {
    /// Watched processes.
    pub const WATCHED: u64 = 0;
    /// Watched processes and their descendants: a child that a watched process forks is reported and becomes
    /// watched itself. Each is held from the moment it executes a program: it is stopped then, and whenever
    /// it loads libraries, until user space takes it out of the held processes.
    pub const DESCENDANTS: u64 = 1;
    /// Every process, and its forks.
    pub const ALL: u64 = 2;
}

const _: () = assert!(size_of::<Header>() == 24 && HEADER_AT.is_multiple_of(8));
// The kernel side masks `Read::to` with 0x78 and `Read::len` with 0x7f.
const _: () = assert!(BLOCK_AT <= 0x78 && MAX_READ_LEN <= 0x7f);
const _: () = assert!(BLOCK_AT + 0x7f <= WORKSPACE_LEN && WORKSPACE_LEN.is_multiple_of(8));

/// The key of an object of a process: its address without the low 5 bits (user addresses have 47 bits), and
/// the process (22 bits). Objects of 32 bytes and more differ in their key.
#[inline(always)]
pub const fn object_key(pid: u32, pointer: u64) -> u64 {
    (pointer >> 5) & ((1 << 42) - 1) | (pid as u64) << 42
}

/// Types whose values can be copied to a BPF map byte by byte.
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
