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
    MAX_ELEMENT_READS, MAX_ELEMENTS, MAX_LISTS, POINT_ELEMENT, counter, known_key, lists,
};

use crate::{EVENTS, count, own_pid, stack::each, user};

/// Indexed by `Capture::lists`.
#[map]
static LISTS: Array<Lists> = Array::with_max_entries(MAX_LISTS, 0);

/// The objects whose lists have been sent, by `known_key`.
#[map]
static SENT: LruHashMap<u64, u8> = LruHashMap::with_max_entries(16384, 0);

/// Whether the lists of an object are to be sent now. Notes that they are, or that they have ended.
#[inline(always)]
pub fn are_wanted(when: u32, object: u64) -> bool {
    let key = known_key(own_pid(), object);
    match when {
        lists::NONE => true,
        lists::END => {
            let _ = SENT.remove(key);
            false
        }
        // SAFETY: the value is only tested for presence.
        lists::ONCE if unsafe { SENT.get(key) }.is_some() => false,
        _ => {
            let _ = SENT.insert(key, 1, 0);
            true
        }
    }
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
        let begin = user(object.wrapping_add(list.begin as u64));
        let end = user(object.wrapping_add(list.begin as u64).wrapping_add(8));
        let all = end.wrapping_sub(begin) / list.stride;
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
