//! The parts of a library that the derivation uses, as text. It is small enough to attach to a report about
//! a release that can't be traced, and to keep as a test fixture.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use iced_x86::{Decoder, DecoderOptions, OpKind};

use super::{
    AbiError,
    image::{Function, Image, Pointee},
    interpreter::MAX_FOLLOWED_LEN,
    names::{self, ALLOCATORS, FREE_LIST, PROGRAM},
};

/// Member functions that a derivation may interpret, by class.
const METHODS: [(&str, &[&str]); 14] = [
    (
        "Buffer",
        &[
            "address",
            "allocate_impl",
            "allocator",
            "buffer_layout",
            "buffer_type",
            "create",
            "deallocate",
            "deallocate_impl",
            "device",
            "get_buffer_page_mapping",
            "impl",
            "is_allocated",
            "is_dram",
            "is_l1",
            "is_valid_region",
            "mark_as_deallocated",
            "page_size",
            "shard_spec",
            "size",
            "unique_id",
        ],
    ),
    (
        "BufferImpl",
        &[
            "allocate_impl",
            "create",
            "deallocate",
            "deallocate_impl",
            "get_buffer_page_mapping",
            "is_valid_region",
            "mark_as_deallocated",
        ],
    ),
    ("GraphTracker", &["track_allocate"]),
    ("Device", &["id"]),
    ("distributed::MeshDevice", &["id"]),
    ("distributed::MeshDeviceImpl", &["id"]),
    (ALLOCATORS[0], &["deallocate_buffer", "deallocate_buffers"]),
    (
        PROGRAM,
        &[
            "allocate_dataflow_buffers",
            "circular_buffers",
            "compile_and_allocate",
            "dataflow_buffers",
            "get_id",
            "get_runtime_id",
            "invalidate_circular_buffer_allocation",
            "invalidate_dataflow_buffer_allocation",
            "semaphores",
            "semaphores_on_core",
            "validate_circular_buffer_region",
            "validate_dataflow_buffer_region",
        ],
    ),
    (
        "detail::ProgramImpl::CircularBufferAllocator",
        &["mark_address"],
    ),
    (
        "CircularBufferImpl",
        &[
            "address",
            "assign_global_address",
            "is_on_logical_corerange",
            "set_total_size",
        ],
    ),
    (
        "experimental::dfb::detail::DataflowBufferImpl",
        &["update_size"],
    ),
    ("CoreRangeSet", &["intersects"]),
    ("program_dispatch", &["update_program_dispatch_commands"]),
    (
        FREE_LIST,
        &["allocate", "allocate_at_address", "allocate_in_block"],
    ),
];

/// Classes whose vtables are used, and the number of slots used of each.
const VTABLES: [&str; 3] = [
    "Device",
    "distributed::MeshDevice",
    "distributed::MeshDeviceImpl",
];
const VTABLE_SLOTS: u64 = 8;

/// The most followed functions that an excerpt has. An unoptimised library has very many.
const MAX_FOLLOWED: usize = 2_000;

/// The functions, the names that they refer to, and the vtables, one per line:
///
/// ```text
/// build-id HEX
/// function SYMBOL ADDRESS CODE
/// inline SYMBOL ADDRESS CODE    a function whose calls are followed
/// name ADDRESS SYMBOL           the function that a call to that address reaches
/// symbol ADDRESS SYMBOL         the symbol whose address the dynamic linker writes at that address
/// pointer ADDRESS ADDRESS       the address in the library that it writes at that address
/// object SYMBOL ADDRESS
/// ```
///
/// # Errors
/// When the bytes aren't an x86-64 ELF shared library.
pub(crate) fn excerpt(library: &[u8]) -> Result<String, AbiError> {
    let image = Image::parse(library)?;
    let mut functions: Vec<Function<'_>> = METHODS
        .iter()
        .flat_map(|(class, methods)| {
            methods
                .iter()
                .flat_map(|name| names::methods(&image, class, name))
        })
        .chain(
            ["Buffer", "BufferImpl"]
                .iter()
                .filter_map(|class| names::device_constructor(&image, class)),
        )
        .chain(names::destructor(&image, "Buffer"))
        .chain(names::destructor(&image, PROGRAM))
        .chain(names::core_ranges_constructor(&image, "Semaphore"))
        .collect();
    if functions
        .iter()
        .all(|function| !function.symbol.contains(ALLOCATORS[0]))
    {
        let older = ["deallocate_buffer", "deallocate_buffers"];
        functions.extend(
            older
                .iter()
                .flat_map(|name| names::methods(&image, ALLOCATORS[1], name)),
        );
    }
    let mut lines = BTreeSet::new();
    for class in VTABLES {
        let symbol = names::vtable(class);
        let Some(start) = image.address_of(&symbol) else {
            continue;
        };
        lines.insert(format!("object {symbol} {start:#x}"));
        for slot in (0..VTABLE_SLOTS).map(|i| start + 16 + 8 * i) {
            lines.extend(pointee(&image, slot));
            if let Some(Pointee::Address(address)) = image.pointee(slot) {
                functions.extend(image.function_at(address));
            }
        }
    }
    functions.sort_by_key(|function| (function.address, function.symbol));
    functions.dedup_by_key(|function| function.address);
    let followed = followed(&image, &functions);
    for function in functions.iter().chain(followed.values()) {
        let end = function.address + function.code.len() as u64;
        for instruction in
            &mut Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE)
        {
            let target = instruction.near_branch_target();
            if instruction.op0_kind() == OpKind::NearBranch64
                && !(function.address..end).contains(&target)
                && let Some(name) = image.callee(target)
            {
                lines.insert(format!("name {target:#x} {name}"));
            }
            if instruction.is_ip_rel_memory_operand() {
                lines.extend(pointee(&image, instruction.ip_rel_memory_address()));
            }
        }
    }
    functions.retain(|function| !followed.contains_key(&function.address));
    let kinds = iter::repeat_n("function", functions.len()).chain(iter::repeat("inline"));
    let mut text = String::new();
    if let Some(id) = image.build_id() {
        text += &format!("build-id {id}\n");
    }
    for (kind, function) in kinds.zip(functions.iter().chain(followed.values())) {
        let Function {
            symbol,
            address,
            code,
        } = function;
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{kind} {symbol} {address:#x} {hex}\n");
    }
    for line in lines {
        text += &format!("{line}\n");
    }
    Ok(text)
}

/// The functions that are followed when `functions` are interpreted, by address.
fn followed<'a>(image: &Image<'a>, functions: &[Function<'a>]) -> BTreeMap<u64, Function<'a>> {
    let mut found = BTreeMap::new();
    let mut work = functions.to_vec();
    while let Some(function) = work.pop() {
        for instruction in
            &mut Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE)
        {
            if instruction.op0_kind() == OpKind::NearBranch64
                && let Some(callee) = image.inlinable(instruction.near_branch_target())
                && callee.code.len() <= MAX_FOLLOWED_LEN
                && found.len() < MAX_FOLLOWED
                && found.insert(callee.address, callee).is_none()
            {
                work.push(callee);
            }
        }
    }
    found
}

fn pointee(image: &Image<'_>, at: u64) -> Option<String> {
    Some(match image.pointee(at)? {
        Pointee::Symbol(symbol) => format!("symbol {at:#x} {symbol}"),
        Pointee::Address(address) => format!("pointer {at:#x} {address:#x}"),
    })
}
