//! The C++ target is a fair stand-in: it exports the symbols that a tracer looks for, under the real library's names.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tt_memtrace_tests::{Cpp, Generation, Release, Variant, WorkDir, list, unsigned};

/// The symbols that a library exports.
fn exported(library: &Path) -> BTreeSet<String> {
    let symbols = Command::new("nm")
        .args(["--dynamic", "--defined-only", "--format=just-symbols"])
        .arg(library)
        .output()
        .expect("binutils");
    assert!(symbols.status.success());
    String::from_utf8_lossy(&symbols.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

const CREATE: &str = "6createEPNS0_7IDeviceEmmNS0_10BufferTypeERKNS0_18BufferShardingArgsESt8optionalIbES8_IN4ttsl10StrongTypeIhNS0_14SubDeviceIdTagEEEE";
const CREATE_AT: &str = "6createEPNS0_7IDeviceEmmmNS0_10BufferTypeERKNS0_18BufferShardingArgsESt8optionalIbES8_IN4ttsl10StrongTypeIhNS0_14SubDeviceIdTagEEEE";
const CONSTRUCT: &str = "C1EPNS0_7IDeviceEmmNS0_10BufferTypeERKNS0_18BufferShardingArgsESt8optionalIbES8_IN4ttsl10StrongTypeIhNS0_14SubDeviceIdTagEEEEb";

/// The symbols that a tracer may look for in that generation.
fn wanted(generation: Generation) -> Vec<String> {
    let class = match generation {
        Generation::One => "6Buffer",
        Generation::Two => "10BufferImpl",
    };
    let mut wanted: Vec<String> = [
        "_ZN2tt8tt_metal12GraphTracker8instanceEv",
        "_ZN2tt8tt_metal12GraphTracker13hook_allocateEPKNS0_6BufferE",
        "_ZN2tt8tt_metal12GraphTracker15hook_deallocateEPNS0_6BufferE",
        "_ZN2tt8tt_metal12GraphTracker14track_allocateEPKNS0_6BufferE",
        "_ZN2tt8tt_metal12GraphTracker16track_deallocateEPNS0_6BufferE",
        "_ZN2tt8tt_metal13AllocatorImpl15allocate_bufferEPNS0_6BufferE",
        "_ZN2tt8tt_metal13AllocatorImpl17deallocate_bufferEPNS0_6BufferE",
        "_ZN2tt8tt_metal13AllocatorImpl18deallocate_buffersEv",
        "_ZNK2tt8tt_metal13AllocatorImpl4viewEv",
        "_ZN2tt8tt_metal6BufferD1Ev",
        "_ZN2tt8tt_metal6Buffer23get_buffer_page_mappingEv",
        "_ZNK2tt8tt_metal6Buffer7addressEv",
        "_ZNK2tt8tt_metal6Buffer9page_sizeEv",
        "_ZNK2tt8tt_metal6Buffer12is_allocatedEv",
        "_ZNK2tt8tt_metal6Buffer7is_dramEv",
        "_ZNK2tt8tt_metal6Buffer5is_l1Ev",
        "_ZNK2tt8tt_metal6Buffer9num_pagesEv",
        "_ZNK2tt8tt_metal6Buffer10shard_specEv",
        "_ZNK2tt8tt_metal6Buffer9allocatorEv",
        "_ZNK2tt8tt_metal11distributed10MeshDevice2idEv",
        "_ZNK2tt8tt_metal11distributed14MeshDeviceImpl2idEv",
        "_ZTVN2tt8tt_metal6DeviceE",
        "_ZTVN2tt8tt_metal11distributed10MeshDeviceE",
        "_ZTVN2tt8tt_metal11distributed14MeshDeviceImplE",
    ]
    .map(str::to_owned)
    .to_vec();
    wanted.push(format!("_ZN2tt8tt_metal{class}{CREATE}"));
    wanted.push(format!("_ZN2tt8tt_metal{class}{CREATE_AT}"));
    wanted.push(format!("_ZN2tt8tt_metal{class}14next_unique_idE"));
    let own = match generation {
        Generation::One => vec![
            format!("_ZN2tt8tt_metal{class}{CONSTRUCT}NS1_7PrivateE"),
            "_ZN2tt8tt_metal6Buffer13allocate_implEv".to_owned(),
            "_ZN2tt8tt_metal6Buffer15deallocate_implEv".to_owned(),
            "_ZN2tt8tt_metal6Buffer10deallocateEv".to_owned(),
            "_ZN2tt8tt_metal6Buffer19mark_as_deallocatedEv".to_owned(),
            "_ZNK2tt8tt_metal6Buffer8is_traceEv".to_owned(),
            "_ZNK2tt8tt_metal6Buffer15is_valid_regionERKNS0_12BufferRegionE".to_owned(),
        ],
        Generation::Two => {
            let of_impl = ["13allocate_impl", "15deallocate_impl", "10deallocate"];
            let accessors = [
                "4sizeEv",
                "11buffer_typeEv",
                "6deviceEv",
                "9unique_idEv",
                "13buffer_layoutEv",
                "4implEv",
            ];
            let mut own = vec![
                format!("_ZN2tt8tt_metal{class}{CONSTRUCT}"),
                "_ZN2tt8tt_metal6BufferC1ENS0_10BufferImplE".to_owned(),
                "_ZN2tt8tt_metal6Buffer4implEv".to_owned(),
                "_ZNK2tt8tt_metal10BufferImpl15is_valid_regionERKNS0_12BufferRegionE".to_owned(),
            ];
            own.extend(of_impl.map(|name| format!("_ZN2tt8tt_metal{class}{name}ERNS0_6BufferE")));
            own.extend(accessors.map(|name| format!("_ZNK2tt8tt_metal6Buffer{name}")));
            own
        }
    };
    wanted.extend(own);
    wanted
}

#[test]
fn it_exports_the_real_librarys_names() {
    for (generation, release) in [
        (Generation::One, Release::V0_77_0),
        (Generation::Two, Release::V0_81_1),
    ] {
        let ours = exported(&generation.library(Variant::Plain));
        let real = exported(&release.library());
        for name in wanted(generation) {
            assert!(real.contains(&name), "{release:?} has no {name}");
            assert!(ours.contains(&name), "our {generation:?} has no {name}");
        }
    }
}

#[test]
fn the_hidden_variant_exports_none_of_them() {
    for generation in [Generation::One, Generation::Two] {
        let names = exported(&generation.library(Variant::Hidden));
        assert!(names.contains("run_session"));
        assert!(
            !names.iter().any(|name| name.contains("tt_metal")),
            "{names:?}"
        );
    }
}

/// The allocators' own list is right: an allocation on a mesh is one owning buffer, and one non-owning buffer on each
/// chip.
#[test]
fn it_obeys_the_commands() {
    for generation in [Generation::One, Generation::Two] {
        let dir = WorkDir::new();
        let mut target = Cpp::alone(&dir, generation, 2);
        let buffer = target.obey("alloc DRAM 8192 2048");
        assert_eq!(list(&buffer, "members").len(), 2);
        assert_ne!(unsigned(&buffer, "address"), 0);
        assert!(target.refuse("oom").contains("Out of Memory"));
        target.obey("hook on");
        assert_eq!(target.obey("alloc DRAM 8192 2048")["address"], 0);
        target.obey("hook off");
        let live = target.obey("live");
        assert_eq!(list(&live, "live").len(), 1);
        assert_eq!(live["live"][0]["address"], buffer["address"]);
        assert_eq!(
            unsigned(&target.obey("threads 4 1000"), "allocations"),
            4000
        );
        assert_eq!(target.obey("live"), live);
        target.obey("close");
        assert_eq!(list(&target.obey("live"), "live").len(), 0);
        target.finish().expect_code(0);
    }
}
