//! The lists of an object: of each element what its [`List`] says, and the array that it has.

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
    known_key, lists,
};

use crate::{EVENTS, count, own_pid, stack::each, user};

/// Indexed by `Capture::lists`.
#[map]
static LISTS: Array<Lists> = Array::with_max_entries(MAX_LISTS, 0);

/// The objects whose lists have been sent, by `known_key`, and which these were: see [`identity`].
#[map]
static SENT: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// What is to be sent at a hit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that the capture program says, and the lists.
    All,
    /// The object.
    Object,
    Nothing,
}

/// What is to be sent of an object and its lists now. Notes that they are, or that they have ended.
#[inline(always)]
pub fn wanted(when: u32, number: u32, object: u64) -> Wanted {
    if when == lists::NONE {
        return Wanted::All;
    }
    let key = known_key(own_pid(), object);
    if when == lists::END {
        let _ = SENT.remove(key);
        return Wanted::Object;
    }
    // SAFETY: read once, by value.
    let sent = unsafe { SENT.get(key) }.copied();
    if when == lists::ONCE && sent.is_some() {
        return Wanted::Object;
    }
    let identity = identity(number, object);
    if sent == Some(identity) && identity != UNKNOWN {
        return Wanted::Nothing;
    }
    let _ = SENT.insert(key, identity, 0);
    Wanted::All
}

/// Of lists that are too long to be told from others.
const UNKNOWN: u64 = 0;

/// A number that is another one, in all likelihood, for lists that aren't the same.
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

/// A walk through a list's elements whose arrays are mixed into one number.
struct Mixing {
    begin: u64,
    stride: u64,
    identity: i64,
    hash: u64,
    too_long: u64,
}

/// # Safety
/// A callback of [`each`].
unsafe extern "C" fn mix_element(index: u64, mixing: *mut Mixing) -> i64 {
    const WORDS: usize = MAX_IDENTITY.1;
    // SAFETY: `each` was called with it, and only this uses it meanwhile.
    let mixing = unsafe { &mut *mixing };
    let at = mixing
        .begin
        .wrapping_add(index.wrapping_mul(mixing.stride))
        .wrapping_add(mixing.identity as u64);
    let mut pointers = [0u64; 2];
    let mut words = [0u64; WORDS];
    // SAFETY: both are as long as what is read; the helper checks the addresses.
    unsafe {
        bpf_probe_read_user((&raw mut pointers).cast(), 16, at as *const c_void);
    }
    let len = pointers[1].wrapping_sub(pointers[0]);
    if len > 8 * WORDS as u64 {
        mixing.too_long = 1;
        return 1;
    }
    if len != 0 {
        // A mask, for the verifier: 1 to 8 * WORDS.
        let read = ((len as u32).wrapping_sub(1) & (8 * WORDS as u32 - 1)) + 1;
        // SAFETY: `read` bytes are within the words.
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

/// The address of a list's first element, and how many there are.
#[inline(always)]
fn elements(list: &List, object: u64) -> (u64, u64) {
    let at = object.wrapping_add(list.begin as u64);
    let (begin, end) = (user(at), user(at.wrapping_add(8)));
    (begin, end.wrapping_sub(begin) / list.stride)
}

/// Sends the elements of all lists, and puts how many each has at `counts`.
///
/// # Safety
/// `LISTS_OF_ONE` words can be written there.
#[inline(always)]
pub unsafe fn send(number: u32, header: &Header, object: u64, counts: *mut u64) {
    let Some(lists) = LISTS.get(number) else {
        return;
    };
    for (i, list) in lists.lists.iter().enumerate().take(LISTS_OF_ONE) {
        if list.stride == 0 {
            continue;
        }
        let (begin, all) = elements(list, object);
        // SAFETY: the caller's promise.
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

/// A walk through a list that goes on.
struct Walking {
    list: *const List,
    header: *const Header,
    object: u64,
    begin: u64,
    number: u32,
}

/// # Safety
/// A callback of [`each`].
unsafe extern "C" fn next_element(index: u64, walking: *mut Walking) -> i64 {
    // SAFETY: `each` was called with it, and only this uses it meanwhile.
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
    // SAFETY: all writes are within the record: a read begins at 0x78 in the fields at the most, and is of
    // 63 bytes at the most, behind which there is the array.
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
            // A mask, for the verifier: 1 to ARRAY_LEN.
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
