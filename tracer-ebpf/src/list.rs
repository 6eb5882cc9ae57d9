//! The lists of an object: for each element, the fields that its [`List`] says, and its array.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    cty::c_void,
    helpers::generated::bpf_probe_read_user,
    macros::map,
    maps::{Array, LruHashMap},
};
use tracer_common::{
    ARRAY_LEN, ELEMENT_WORDS, Element, Header, LISTS as LISTS_OF_ONE, List, Lists,
    MAX_ELEMENT_READS, MAX_ELEMENTS, MAX_IDENTITY, MAX_LISTS, NO_IDENTITY, POINT_ELEMENT, counter,
    lists, object_key,
};

use crate::{EVENTS, count, own_pid, stack::each, user};

/// The lists of each library's objects, indexed by `Capture::lists`.
#[map]
static LISTS: Array<Lists> = Array::with_max_entries(MAX_LISTS, 0);

/// The [`identity`] of the lists that were sent last for each object, by `object_key`.
#[map]
static SENT: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// What to send at a hit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The record that the capture program says, and the lists.
    All,
    /// The object's address alone.
    Object,
    Nothing,
}

/// What to send of an object and its lists at this hit. Remembers that the lists are sent, or that the object
/// has ended.
#[inline(always)]
pub(crate) fn wanted(when: u32, number: u32, object: u64) -> Wanted {
    if when == lists::NONE {
        return Wanted::All;
    }
    let key = object_key(own_pid(), object);
    if when == lists::END {
        SENT.remove(key).ok();
        return Wanted::Object;
    }
    // SAFETY: the entry is copied at once.
    let sent = unsafe { SENT.get(key) }.copied();
    if when == lists::ONCE && sent.is_some() {
        return Wanted::Object;
    }
    let identity = identity(number, object);
    if sent == Some(identity) && identity != UNKNOWN {
        return Wanted::Nothing;
    }
    SENT.insert(key, identity, 0).ok();
    Wanted::All
}

/// The [`identity`] of lists that are too long to be compared.
const UNKNOWN: u64 = 0;

/// A hash of an object's lists: other lists have another one, in all likelihood.
#[inline(always)]
fn identity(number: u32, object: u64) -> u64 {
    let Some(lists) = LISTS.get(number) else {
        return UNKNOWN;
    };
    let mut mixing = Mixing {
        begin: 0,
        stride: 0,
        identity: 0,
        hash: 1,
        too_long: 0,
    };
    for list in lists.lists.iter().take(LISTS_OF_ONE) {
        if list.stride == 0 || list.identity == NO_IDENTITY {
            continue;
        }
        let (begin, all) = elements(list, object);
        let looked_at = if all > u64::from(MAX_IDENTITY.0) {
            mixing.too_long = 1;
            0
        } else {
            all as u32
        };
        mixing.begin = begin;
        mixing.stride = list.stride;
        mixing.identity = list.identity;
        mixing.hash = mix(mixing.hash, all);
        each::<Mixing>(looked_at, mix_element, &mut mixing);
    }
    match mixing.too_long {
        0 => mixing.hash | 1,
        _ => UNKNOWN,
    }
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The state of a loop over a list's elements that hashes their arrays.
struct Mixing {
    begin: u64,
    stride: u64,
    identity: i64,
    hash: u64,
    too_long: u64,
}

/// Adds an element's array to the hash.
///
/// # Safety
/// Only [`each`] may call it, with the `Mixing` that it was given.
unsafe extern "C" fn mix_element(index: u64, mixing: *mut Mixing) -> i64 {
    const WORDS: usize = MAX_IDENTITY.1;
    // SAFETY: by the contract above it is a valid `Mixing`, which nothing else uses during the loop.
    let mixing = unsafe { &mut *mixing };
    let at = mixing
        .begin
        .wrapping_add(index.wrapping_mul(mixing.stride))
        .wrapping_add(mixing.identity as u64);
    let mut pointers = [0u64; 2];
    let mut words = [0u64; WORDS];
    // SAFETY: the array has room for 16 bytes; the helper checks the address.
    unsafe {
        bpf_probe_read_user((&raw mut pointers).cast(), 16, at as *const c_void);
    }
    let len = pointers[1].wrapping_sub(pointers[0]);
    if len > 8 * WORDS as u64 {
        mixing.too_long = 1;
        return 1;
    }
    if len != 0 {
        // The mask shows the verifier that it is 1 to 8 * WORDS.
        let read = ((len as u32).wrapping_sub(1) & (8 * WORDS as u32 - 1)) + 1;
        // SAFETY: the array has room for `read` bytes; the helper checks the address.
        unsafe {
            bpf_probe_read_user((&raw mut words).cast(), read, pointers[0] as *const c_void);
        }
    }
    let mut hash = mix(mixing.hash, len);
    for word in words {
        hash = mix(hash, word);
    }
    mixing.hash = hash;
    0
}

/// The address of a list's first element, and the number of elements.
#[inline(always)]
fn elements(list: &List, object: u64) -> (u64, u64) {
    let at = object.wrapping_add(list.begin as u64);
    let (begin, end) = (user(at), user(at.wrapping_add(8)));
    (begin, end.wrapping_sub(begin) / list.stride)
}

/// Sends the elements of all lists, and writes each list's length to `counts`.
///
/// # Safety
/// `counts` points to room for [`LISTS_OF_ONE`] words.
#[inline(always)]
pub(crate) unsafe fn send(number: u32, header: &Header, object: u64, counts: *mut u64) {
    let Some(lists) = LISTS.get(number) else {
        return;
    };
    for (i, list) in lists.lists.iter().enumerate().take(LISTS_OF_ONE) {
        if list.stride == 0 {
            continue;
        }
        let (begin, all) = elements(list, object);
        // SAFETY: the caller promises room for it.
        unsafe { counts.add(i).write(all) };
        let mut walking = Walking {
            list,
            header,
            object,
            begin,
            number: i as u32,
        };
        let sent = if all > u64::from(MAX_ELEMENTS) {
            MAX_ELEMENTS
        } else {
            all as u32
        };
        each::<Walking>(sent, next_element, &mut walking);
    }
}

/// The state of a loop over a list's elements that sends them.
struct Walking {
    list: *const List,
    header: *const Header,
    object: u64,
    begin: u64,
    number: u32,
}

/// Sends an element.
///
/// # Safety
/// Only [`each`] may call it, with the `Walking` that it was given.
unsafe extern "C" fn next_element(index: u64, walking: *mut Walking) -> i64 {
    // SAFETY: by the contract above it is a valid `Walking`, and its pointers are to what `send` borrows.
    let (walking, list, header) = unsafe {
        let walking = &*walking;
        (walking, &*walking.list, &*walking.header)
    };
    let Some(mut entry) = EVENTS.reserve::<Element>(0) else {
        count(counter::LOST);
        return 0;
    };
    let element = entry.as_mut_ptr();
    let mut faults = 0u32;
    // SAFETY: all writes stay within the record: a read begins at most at 0x78 in the fields and has at most
    // 63 bytes, and the array lies behind the fields. The helper checks the addresses that it reads.
    unsafe {
        let fields = (&raw mut (*element).fields).cast::<u64>();
        for i in 0..ELEMENT_WORDS {
            fields.add(i).write_volatile(0);
        }
        let at = walking.begin.wrapping_add(index.wrapping_mul(list.stride));
        fields.write(at);
        let bytes = fields.cast::<u8>();
        for (i, read) in list.reads.iter().enumerate().take(MAX_ELEMENT_READS) {
            if i as u32 >= list.read_count {
                break;
            }
            let pointer = bytes
                .add((read.base & 0x78) as usize)
                .cast::<u64>()
                .read_volatile();
            let from = pointer.wrapping_add(read.offset as u64) as *const c_void;
            let to = bytes.add((read.to & 0x78) as usize);
            let result = bpf_probe_read_user(to.cast(), u32::from(read.len) & 0x3f, from);
            faults |= ((result as u64 >> 63) as u32) << i;
        }
        let array_at = (list.array_at & 0x78) as usize;
        let begin = bytes.add(array_at).cast::<u64>().read_volatile();
        let end = bytes.add(array_at + 8).cast::<u64>().read_volatile();
        let len = end.wrapping_sub(begin);
        if len != 0 {
            let sent = if len > ARRAY_LEN as u64 {
                ARRAY_LEN as u64
            } else {
                len
            };
            // The mask shows the verifier that it is 1 to ARRAY_LEN.
            let sent = ((sent as u32).wrapping_sub(1) & (ARRAY_LEN as u32 - 1)) + 1;
            let to = (&raw mut (*element).array).cast();
            let result = bpf_probe_read_user(to, sent, begin as *const c_void);
            faults |= ((result as u64 >> 63) as u32) << MAX_ELEMENT_READS;
        }
        (&raw mut (*element).header).write(Header {
            point: POINT_ELEMENT,
            faults,
            ..*header
        });
        (&raw mut (*element).object).write(walking.object);
        (&raw mut (*element).list).write(walking.number);
        (&raw mut (*element).index).write(index as u32);
        (&raw mut (*element).array_len).write(len);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}
