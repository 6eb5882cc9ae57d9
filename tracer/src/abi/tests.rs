//! Derivation from the code of real releases.

use std::{collections::BTreeSet, sync::LazyLock};

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_common::register;

use super::{
    Abi, AbiError, Cost, FieldPath, Holder, Point, PointKind,
    field::Field,
    fixture::{self, TTNN_0_62_2, TTNN_0_71_2, TTNN_0_77_0, TTNN_0_81_1},
    image::{Image, Pointee},
};
use crate::properties::property_config;

fn derive(excerpt: &str) -> Result<Abi, AbiError> {
    Abi::from_image(&Image::from_excerpt(excerpt))
}

/// Each field with its path, its width and the number of pieces of evidence for it.
fn fields(abi: &Abi) -> Vec<(&'static str, String, u8, usize)> {
    let all = abi.fields.all().into_iter();
    all.map(|(name, root, field)| {
        (
            name,
            field.path.text(root),
            field.path.width,
            field.evidence.len(),
        )
    })
    .collect()
}

fn point(abi: &Abi, kind: PointKind) -> &Point {
    abi.points
        .iter()
        .find(|point| point.kind == kind)
        .expect("a point of each kind")
}

/// The excerpt with one function's code changed.
fn with_code(excerpt: &str, symbol: &str, change: impl Fn(&str) -> String) -> String {
    let mut changed = 0;
    let lines: Vec<String> = excerpt
        .lines()
        .map(|line| {
            match line
                .strip_prefix(&format!("function {symbol} "))
                .and_then(|rest| rest.split_once(' '))
            {
                Some((address, code)) => {
                    changed += 1;
                    format!("function {symbol} {address} {}", change(code))
                }
                None => line.to_owned(),
            }
        })
        .collect();
    assert_eq!(changed, 1, "{symbol} is in the fixture once");
    lines.join("\n")
}

/// The excerpt without the lines that contain `part`.
fn without(excerpt: &str, part: &str) -> String {
    let lines: Vec<&str> = excerpt
        .lines()
        .filter(|line| !line.contains(part))
        .collect();
    assert!(
        lines.len() < excerpt.lines().count(),
        "{part} is in the fixture"
    );
    lines.join("\n")
}

#[test]
fn ttnn_0_81_1_has_its_fields_behind_a_pointer() {
    let abi = derive(TTNN_0_81_1).unwrap();
    assert_eq!(
        fields(&abi),
        [
            ("device", "[[buffer+0x10]+0x0]".into(), 8, 3),
            ("size", "[[buffer+0x10]+0x8]".into(), 8, 3),
            ("page_size", "[[buffer+0x10]+0x48]".into(), 8, 2),
            ("buffer_type", "[[buffer+0x10]+0x10]".into(), 4, 4),
            ("layout", "[[buffer+0x10]+0x14]".into(), 4, 3),
            ("owns_data", "[[buffer+0x10]+0x1b]".into(), 1, 2),
            ("allocator", "[[buffer+0x10]+0x30]".into(), 8, 3),
            ("status", "[[buffer+0x10]+0x38]".into(), 1, 3),
            ("hooked", "[[buffer+0x10]+0x39]".into(), 1, 2),
            ("address", "[[buffer+0x10]+0x40]".into(), 8, 3),
            ("unique_id", "[[buffer+0x10]+0x218]".into(), 8, 2),
            ("chip_id", "[device+0x18]".into(), 4, 2),
            ("mesh_id", "[[mesh_device+0x18]+0x68]".into(), 4, 2),
        ]
    );
    assert_eq!(abi.fields.requested, 0);
    assert_eq!((abi.chip_vtable, abi.mesh_vtable), (0x16e_0780, 0x16e_55a0));
    assert_eq!(
        abi.build_id.as_deref(),
        Some("23bb346fe8447951975aca3c3eb261b08372522d")
    );
}

#[test]
fn ttnn_0_77_0_has_its_fields_in_the_buffer() {
    let abi = derive(TTNN_0_77_0).unwrap();
    assert_eq!(
        fields(&abi),
        [
            ("device", "[buffer+0x10]".into(), 8, 2),
            ("size", "[buffer+0x18]".into(), 8, 2),
            ("page_size", "[buffer+0x58]".into(), 8, 2),
            ("buffer_type", "[buffer+0x20]".into(), 4, 3),
            ("layout", "[buffer+0x24]".into(), 4, 2),
            ("owns_data", "[buffer+0x2b]".into(), 1, 2),
            ("allocator", "[buffer+0x40]".into(), 8, 3),
            ("status", "[buffer+0x48]".into(), 1, 4),
            ("hooked", "[buffer+0x49]".into(), 1, 2),
            ("address", "[buffer+0x50]".into(), 8, 2),
            ("unique_id", "[buffer+0x220]".into(), 8, 1),
            ("chip_id", "[device+0x18]".into(), 4, 2),
            ("mesh_id", "[[mesh_device+0x18]+0x50]".into(), 4, 2),
        ]
    );
}

#[test]
fn ttnn_0_71_2_differs_from_0_77_0_in_its_unique_id() {
    let abi = derive(TTNN_0_71_2).unwrap();
    assert_eq!(
        fields(&abi),
        [
            ("device", "[buffer+0x10]".into(), 8, 2),
            ("size", "[buffer+0x18]".into(), 8, 2),
            ("page_size", "[buffer+0x58]".into(), 8, 2),
            ("buffer_type", "[buffer+0x20]".into(), 4, 3),
            ("layout", "[buffer+0x24]".into(), 4, 2),
            ("owns_data", "[buffer+0x2b]".into(), 1, 2),
            ("allocator", "[buffer+0x40]".into(), 8, 3),
            ("status", "[buffer+0x48]".into(), 1, 4),
            ("hooked", "[buffer+0x49]".into(), 1, 2),
            ("address", "[buffer+0x50]".into(), 8, 2),
            ("unique_id", "[buffer+0x218]".into(), 8, 1),
            ("chip_id", "[device+0x18]".into(), 4, 2),
            ("mesh_id", "[[mesh_device+0x18]+0x50]".into(), 4, 2),
        ]
    );
    assert_eq!(
        abi.build_id.as_deref(),
        Some("dcbe0ba53c6d35002757ca2af1bb14c952aa7afb")
    );
}

/// The class of its allocator is `Allocator`, which later is `AllocatorImpl`, and its `MeshDevice` doesn't
/// forward to an implementation yet.
#[test]
fn ttnn_0_62_2_has_a_mesh_id_in_the_mesh_device_itself() {
    let abi = derive(TTNN_0_62_2).unwrap();
    assert_eq!(
        fields(&abi),
        [
            ("device", "[buffer+0x10]".into(), 8, 2),
            ("size", "[buffer+0x18]".into(), 8, 2),
            ("page_size", "[buffer+0x58]".into(), 8, 2),
            ("buffer_type", "[buffer+0x20]".into(), 4, 3),
            ("layout", "[buffer+0x24]".into(), 4, 2),
            ("owns_data", "[buffer+0x2b]".into(), 1, 2),
            ("allocator", "[buffer+0x40]".into(), 8, 2),
            ("status", "[buffer+0x48]".into(), 1, 4),
            ("hooked", "[buffer+0x49]".into(), 1, 2),
            ("address", "[buffer+0x50]".into(), 8, 2),
            ("unique_id", "[buffer+0x1f8]".into(), 8, 1),
            ("chip_id", "[device+0x8]".into(), 4, 2),
            ("mesh_id", "[mesh_device+0x50]".into(), 4, 1),
        ]
    );
    assert_eq!(
        abi.build_id.as_deref(),
        Some("2e00bd8f7d332de4e5792095d59323643288dce6")
    );
    let functions =
        [PointKind::BulkFree, PointKind::Deallocate].map(|kind| point(&abi, kind).function.clone());
    assert_eq!(
        functions,
        [
            "Allocator::deallocate_buffers",
            "Allocator::deallocate_buffer"
        ]
    );
}

#[test]
fn every_probe_point_of_each_release_is_emulated_by_the_kernel() {
    for excerpt in [TTNN_0_81_1, TTNN_0_77_0, TTNN_0_71_2, TTNN_0_62_2] {
        let abi = derive(excerpt).unwrap();
        let kinds: Vec<_> = abi.points.iter().map(|point| point.kind).collect();
        assert_eq!(kinds, PointKind::ATTACH_ORDER);
        for point in &abi.points {
            assert_eq!(point.cost, Cost::Emulated, "{point:?}");
        }
        let entries = [
            (PointKind::Allocate, register::RSI),
            (PointKind::Deallocate, register::RSI),
            (PointKind::Destroy, register::RDI),
            (PointKind::BulkFree, register::RDI),
            // `allocate_in_block(block, size, offset)` of a free list.
            (PointKind::Block, register::RDX),
        ];
        for (kind, register) in entries {
            let point = point(&abi, kind);
            assert_eq!(
                (point.into, point.holder, &point.derefs[..]),
                (0, Holder::Register(register), &[][..])
            );
        }
    }
}

/// The probed instruction is the call behind the store of the address, where r14 points to the `shared_ptr`
/// that is returned.
#[test]
fn the_probe_on_create_is_behind_the_store_of_the_address() {
    for (excerpt, into) in [
        (TTNN_0_81_1, 0xd0),
        (TTNN_0_77_0, 0x156),
        (TTNN_0_71_2, 0x140),
        (TTNN_0_62_2, 0x140),
    ] {
        let abi = derive(excerpt).unwrap();
        let point = point(&abi, PointKind::Create);
        assert_eq!(point.into, into);
        assert!(
            point.instruction.starts_with("call"),
            "{}",
            point.instruction
        );
        assert_eq!(
            (point.holder, &point.derefs[..]),
            (Holder::Register(register::R14), &[0][..])
        );
    }
}

/// `mov rax,[rdi+0x10]; mov rax,[rax+0x8]; ret` becomes `… [rax+0x48] …`, where `page_size` lies.
#[test]
fn an_accessor_that_disagrees_with_the_constructor_is_refused() {
    let symbol = "_ZNK2tt8tt_metal6Buffer4sizeEv";
    let forged = with_code(TTNN_0_81_1, symbol, |code| {
        assert!(code.starts_with("488b4710488b4008c3"));
        code.replacen("488b4008", "488b4048", 1)
    });
    let Err(AbiError::Contradiction {
        field: "size",
        evidence,
        code,
    }) = derive(&forged)
    else {
        panic!("{:?}", derive(&forged))
    };
    assert_eq!(evidence[0].source, "Buffer::size (returns it)");
    assert_eq!(evidence[0].path.to_string(), "[[buffer+0x10]+0x48]");
    assert_eq!(evidence[1].path.to_string(), "[[buffer+0x10]+0x8]");
    assert!(code.contains("mov rax, [rax+0x48]"), "{code}");
}

/// Even if all evidence for each field agrees, two fields can't lie in the same place.
#[test]
fn fields_that_overlap_are_refused() {
    // `is_allocated`, `address` and `deallocate_impl` of ttnn 0.77.0 compare the byte at 0x48. The forged
    // `deallocate` compares it too, instead of `owns_data`.
    let forged = with_code(
        TTNN_0_77_0,
        "_ZN2tt8tt_metal6Buffer10deallocateEv",
        |code| {
            assert!(code.starts_with("807f2b00"));
            code.replacen("807f2b00", "807f4800", 1)
        },
    );
    assert!(matches!(
        derive(&forged),
        Err(AbiError::Contradiction {
            field: "owns_data",
            ..
        })
    ));
}

#[test]
fn a_function_that_does_something_else_is_no_evidence() {
    // `page_size` returns a constant, so nothing shows where the fields stand.
    let forged = with_code(TTNN_0_77_0, "_ZNK2tt8tt_metal6Buffer9page_sizeEv", |_| {
        "b808000000c3".into()
    });
    let Err(AbiError::Underivable {
        field: "page_size",
        code,
        ..
    }) = derive(&forged)
    else {
        panic!("derived")
    };
    assert!(
        code.contains("Buffer::page_size") && code.contains("mov eax, 8"),
        "{code}"
    );
}

#[test]
fn a_field_without_evidence_is_refused_with_the_code_that_was_read() {
    let only_noise = "c3";
    let mut forged = TTNN_0_77_0.to_owned();
    for symbol in [
        "_ZNK2tt8tt_metal6Buffer10shard_specEv",
        "_ZN2tt8tt_metal6Buffer23get_buffer_page_mappingEv",
    ] {
        forged = with_code(&forged, symbol, |_| only_noise.into());
    }
    let Err(AbiError::Underivable {
        field: "layout",
        code,
        ..
    }) = derive(&forged)
    else {
        panic!("derived")
    };
    assert!(code.contains("Buffer::shard_spec"), "{code}");
}

#[test]
fn missing_functions_are_named() {
    for (part, name) in [
        (
            "6Buffer9page_sizeEv",
            "tt::tt_metal::Buffer::page_size() const",
        ),
        (
            "14track_allocateEPKNS0_6BufferE 0x",
            "tt::tt_metal::GraphTracker::track_allocate(Buffer const*)",
        ),
        (
            "function _ZN2tt8tt_metal6BufferD",
            "tt::tt_metal::Buffer::~Buffer()",
        ),
        (
            "object _ZTVN2tt8tt_metal11distributed10MeshDeviceE",
            "vtable for tt::tt_metal::distributed::MeshDevice",
        ),
    ] {
        match derive(&without(TTNN_0_81_1, part)) {
            Err(AbiError::MissingSymbols { names }) => assert_eq!(names, [name]),
            other => panic!("without {part}: {other:?}"),
        }
    }
}

/// If `allocate_in_block` was inlined into its callers, a probe on it would never be hit. Such a library can
/// still be traced, without that probe.
#[test]
fn allocate_in_block_is_probed_only_if_all_functions_that_allocate_call_it() {
    let kinds = |abi: &Abi| -> Vec<_> { abi.points.iter().map(|point| point.kind).collect() };
    let no_calls = |code: &str| "90".repeat(code.len() / 2);
    for caller in ["8allocateEmbm", "19allocate_at_addressEmm"] {
        let caller = format!("_ZN2tt8tt_metal9allocator11FreeListOpt{caller}");
        for excerpt in [TTNN_0_81_1, TTNN_0_62_2] {
            let without = derive(&with_code(excerpt, &caller, no_calls)).unwrap();
            let mut expected = PointKind::ATTACH_ORDER.to_vec();
            expected.retain(|kind| *kind != PointKind::Block);
            assert_eq!(kinds(&without), expected, "{caller}");
        }
    }
    let block = "FreeListOpt17allocate_in_blockEmmm 0x";
    let without = derive(&without(TTNN_0_77_0, block)).unwrap();
    assert!(!kinds(&without).contains(&PointKind::Block));
}

/// A function of the excerpt, and the bytes of its code that are changed: the offset and the new value of each.
#[derive(Clone, Debug)]
struct Damage {
    symbol: &'static str,
    changes: Vec<(usize, u8)>,
}

impl Damage {
    /// Any damage to any one function of an excerpt.
    fn to_any_function(excerpt: &'static str) -> impl Strategy<Value = Self> {
        let functions = excerpt.lines().filter_map(|line| {
            let function = line.strip_prefix("function ")?;
            let (symbol, address_and_code) = function.split_once(' ')?;
            let (_, code) = address_and_code.split_once(' ')?;
            Some((symbol, code.len() / 2))
        });
        let functions: Vec<_> = functions.collect();
        let short: Vec<_> = functions
            .iter()
            .copied()
            .filter(|(_, len)| *len <= 64)
            .collect();
        // A change of one byte of an accessor can move a field. Most functions are longer, and most changes leave code
        // that shows nothing.
        prop_oneof![select(short), select(functions)].prop_flat_map(|(symbol, len)| {
            let change = (0..len, any::<u8>());
            prop_oneof![vec(change.clone(), 1), vec(change, 2..=8)]
                .prop_map(move |changes| Self { symbol, changes })
        })
    }

    /// The excerpt with the damaged function.
    fn apply(&self, excerpt: &str) -> String {
        with_code(excerpt, self.symbol, |code| {
            let mut code = code.to_owned();
            for (offset, byte) in &self.changes {
                code.replace_range(2 * offset..2 * offset + 2, &format!("{byte:02x}"));
            }
            code
        })
    }
}

proptest! {
    #![proptest_config(property_config(40))]

    /// The interpreter comes to an end on any code, and doesn't panic.
    #[test]
    fn the_interpreter_accepts_any_code(damage in Damage::to_any_function(TTNN_0_81_1)) {
        static GENUINE: LazyLock<Abi> = LazyLock::new(fixture::ttnn_0_81_1);
        if let Ok(abi) = derive(&damage.apply(TTNN_0_81_1)) {
            // One function can't move a field for which another gives evidence, too.
            for ((name, _, field), (_, _, expected)) in abi.fields.all().iter().zip(GENUINE.fields.all()) {
                let is_same = field.path.same_place(&expected.path);
                prop_assert!(is_same || functions(expected).len() < 2, "{name} at {}", field.path);
            }
        }
    }
}

/// The functions that give evidence for a field. One that is found by its name and in a vtable, as those of devices'
/// ids are, counts once.
fn functions(field: &Field) -> BTreeSet<&str> {
    let sources = field.evidence.iter().map(|evidence| &evidence.source);
    let functions = sources.map(|source| source.rsplit(": ").next().unwrap_or(source));
    functions
        .map(|function| function.split(' ').next().unwrap_or(function))
        .collect()
}

#[test]
fn any_other_file_is_refused_with_the_reason() {
    let reason = |data: &[u8]| Abi::derive(data).unwrap_err().to_string();
    assert!(
        reason(b"").starts_with("not a readable ELF file"),
        "{}",
        reason(b"")
    );
    assert!(reason(b"#!/bin/sh\n").starts_with("not a readable ELF file"));
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(
        reason(&own).contains("tt::tt_metal::Buffer::page_size() const"),
        "{}",
        reason(&own)
    );
    assert!(Abi::derive(&own[..own.len() / 3]).is_err());
    // The same header for another machine (e_machine = AArch64), and for 32 bits (EI_CLASS).
    let mut arm = own;
    arm[18] = 183;
    assert!(reason(&arm).contains("x86-64"), "{}", reason(&arm));
    let mut narrow = arm;
    narrow[4] = 1;
    assert!(reason(&narrow).contains("x86-64"), "{}", reason(&narrow));
}

#[test]
fn an_excerpt_keeps_the_pointers_that_the_linker_writes() {
    let image = Image::from_excerpt(TTNN_0_81_1);
    let table = image.address_of("_ZTVN2tt8tt_metal6DeviceE").unwrap();
    assert_eq!(
        image.pointee(table + 16 + 0x18),
        Some(Pointee::Address(0xcb_9280))
    );
}

/// Each field and list of programs with its place, the length of its elements and the number of pieces of
/// evidence for it.
fn program_lists(abi: &Abi) -> Vec<(&'static str, String, usize)> {
    let programs = abi.programs.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(programs.problems, Vec::<String>::new());
    let all = programs.all().into_iter();
    all.map(|(name, place, sources)| (name, place, sources.len()))
        .collect()
}

#[test]
fn programs_of_0_81_1_have_circular_and_dataflow_buffers() {
    let abi = derive(TTNN_0_81_1).unwrap();
    assert_eq!(
        program_lists(&abi),
        [
            ("id", "[program+0x120]".into(), 1),
            ("runtime_id", "[program+0x128]".into(), 1),
            (
                "circular_regions",
                "[program+0x290], each 0x38 bytes".into(),
                2
            ),
            (
                "dataflow_regions",
                "[program+0x518], each 0x38 bytes".into(),
                2
            ),
            (
                "circular_buffers",
                "[program+0x160], each 0x10 bytes".into(),
                1
            ),
            (
                "dataflow_buffers",
                "[program+0x2e0], each 0x10 bytes".into(),
                1
            ),
            ("semaphores", "[program+0x6a8], each 0x28 bytes".into(), 1),
        ]
    );
    let programs = abi.programs.unwrap().unwrap();
    let regions = programs.dataflow_regions.unwrap();
    assert_eq!((regions.range, regions.regions), (0, 0x20));
    let buffers = programs.buffers.unwrap();
    let text = |path: &FieldPath| path.text("buffer");
    let circular = &buffers.circular;
    assert_eq!(circular.ranges, 8);
    assert_eq!(
        [
            &circular.size,
            &circular.is_global,
            &circular.local,
            &circular.has_local,
            &circular.global
        ]
        .map(text),
        [
            "[buffer+0x28]",
            "[buffer+0x30]",
            "[buffer+0x1170]",
            "[buffer+0x1174]",
            "[buffer+0x1178]"
        ]
    );
    let dataflow = buffers.dataflow.unwrap();
    assert_eq!(dataflow.ranges, 16);
    assert_eq!(
        [
            &dataflow.entry_size,
            &dataflow.entries,
            &dataflow.is_alias.unwrap(),
            &dataflow.is_borrowed.unwrap(),
            &dataflow.address
        ]
        .map(text),
        [
            "[buffer+0x28]",
            "[buffer+0x2c]",
            "[buffer+0xfc]",
            "[buffer+0x72]",
            "[[[buffer+0x80]+0x30]+0x10]"
        ]
    );
}

#[test]
fn programs_of_0_71_2_have_dataflow_buffers_without_aliases() {
    let abi = derive(TTNN_0_71_2).unwrap();
    assert_eq!(
        program_lists(&abi)[2..6],
        [
            (
                "circular_regions",
                "[program+0x268], each 0x38 bytes".into(),
                2
            ),
            (
                "dataflow_regions",
                "[program+0x3b8], each 0x38 bytes".into(),
                2
            ),
            (
                "circular_buffers",
                "[program+0x138], each 0x10 bytes".into(),
                1
            ),
            (
                "dataflow_buffers",
                "[program+0x2b8], each 0x10 bytes".into(),
                1
            ),
        ]
    );
    let programs = abi.programs.unwrap().unwrap();
    let dataflow = programs.buffers.unwrap().dataflow.unwrap();
    assert_eq!((dataflow.is_alias, dataflow.is_borrowed), (None, None));
}

/// Its core ranges are in another namespace. Buffers can be traced anyway.
#[test]
fn programs_of_0_62_2_cannot_be_derived() {
    let abi = derive(TTNN_0_62_2).unwrap();
    let why = abi.programs.unwrap_err();
    assert!(why.contains("CoreRangeSet::intersects"), "{why}");
}

#[test]
fn the_probe_points_of_programs_are_emulated_by_the_kernel() {
    for (excerpt, laid_out) in [
        (TTNN_0_81_1, "validate_dataflow_buffer_region"),
        (TTNN_0_77_0, "validate_dataflow_buffer_region"),
        (TTNN_0_71_2, "validate_dataflow_buffer_region"),
    ] {
        let programs = derive(excerpt).unwrap().programs.unwrap().unwrap();
        let points = programs.points.iter();
        let found: Vec<_> = points
            .map(|point| {
                assert_eq!(point.cost, Cost::Emulated, "{point:?}");
                assert_eq!(point.holder, Holder::Register(register::RDI), "{point:?}");
                let name = point.function.rsplit("::").next().unwrap();
                (point.kind, name, point.device)
            })
            .collect();
        assert_eq!(
            found,
            [
                (PointKind::ProgramEnd, "~ProgramImpl", None),
                (PointKind::LaidOut, laid_out, Some(register::RSI)),
                (
                    PointKind::Dispatched,
                    "update_program_dispatch_commands",
                    None
                ),
            ]
        );
    }
}

/// If two functions disagree on a vector, programs are refused, but buffers can be traced.
#[test]
fn a_list_in_doubt_is_refused() {
    // `mov rax, [rdi+0x290]` and `mov rcx, [rdi+0x298]`, eight bytes farther.
    let moved = with_code(
        TTNN_0_81_1,
        "_ZN2tt8tt_metal6detail11ProgramImpl37invalidate_circular_buffer_allocationEv",
        |code| {
            let code = code.replace("488b8f98020000", "488b8fa0020000");
            code.replace("488b8790020000", "488b8798020000")
        },
    );
    let abi = derive(&moved).unwrap();
    let why = abi.programs.unwrap_err();
    assert!(why.contains("is in doubt"), "{why}");
    assert_eq!(abi.points.len(), PointKind::ATTACH_ORDER.len());
}
