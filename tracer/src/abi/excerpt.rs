//! The parts of a library that the derivation looks at, as text: small enough to attach to a report
//! about a release that can't be traced, and to keep as a test's fixture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    iter,
};

use iced_x86::{Decoder, DecoderOptions, OpKind};

use super::{
    AbiError,
    call::MOST_FOLLOWED,
    derive::ALLOCATORS,
    free_list,
    image::{Function, Image, Pointee},
    names,
    points::PROGRAM,
};

/// Member functions that a derivation may ask, by class.
const ASKED: [(&str, &[&str]); 14] = [
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
        free_list::CLASS,
        &["allocate", "allocate_at_address", "allocate_in_block"],
    ),
];

/// Classes whose vtables are looked at, and how much of them.
const VTABLES: [&str; 3] = [
    "Device",
    "distributed::MeshDevice",
    "distributed::MeshDeviceImpl",
];
const VTABLE_SLOTS: u64 = 8;

/// Functions whose calls are followed, of which an unoptimised library has very many.
const MOST_FOLLOWED_SHOWN: usize = 2_000;

/// The functions, the names that they refer to and the vtables, one a line:
///
/// ```text
/// build-id HEX
/// function SYMBOL ADDRESS CODE
/// inline SYMBOL ADDRESS CODE    a function whose calls are followed
/// name ADDRESS SYMBOL           what a call to that address reaches
/// symbol ADDRESS SYMBOL         what the dynamic linker writes at that address: a symbol's address
/// pointer ADDRESS ADDRESS       likewise, an address of the library
/// object SYMBOL ADDRESS
/// ```
///
/// # Errors
/// When the bytes aren't an x86-64 ELF shared library.
pub fn excerpt(library: &[u8]) -> Result<String, AbiError> {
    let image = Image::parse(library)?;
    let mut functions: Vec<Function<'_>> = ASKED
        .iter()
        .flat_map(|(class, asked)| {
            asked
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
        let _ = writeln!(text, "build-id {id}");
    }
    for (kind, function) in kinds.zip(functions.iter().chain(followed.values())) {
        let Function {
            symbol,
            address,
            code,
        } = function;
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{kind} {symbol} {address:#x} {hex}");
    }
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    Ok(text)
}

/// The functions that these call and that are followed, and those that they call in turn.
fn followed<'a>(image: &Image<'a>, functions: &[Function<'a>]) -> BTreeMap<u64, Function<'a>> {
    let mut found = BTreeMap::new();
    let mut work = functions.to_vec();
    while let Some(function) = work.pop() {
        for instruction in
            &mut Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE)
        {
            if instruction.op0_kind() == OpKind::NearBranch64
                && let Some(callee) = image.inlinable(instruction.near_branch_target())
                && callee.code.len() <= MOST_FOLLOWED
                && found.len() < MOST_FOLLOWED_SHOWN
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
