//! `tt-memtrace check` on the `libtt_metal.so` of releases: each can be traced, and the important fields are found in
//! several functions.

use serde_json::Value;
use tt_memtrace_tests::{
    Library, Tracer, WorkDir, build_id, for_each_library, list, text, unsigned,
};

for_each_library!(
    every_field_is_found_and_the_important_ones_twice,
    every_probe_is_emulated_by_the_kernel,
    the_build_id_is_the_files_own,
);

/// The report of `check` on the library, which must be traceable.
fn checked(library: &Library) -> Value {
    let dir = WorkDir::new();
    let done = Tracer::check(&dir, &library.path).start().finish();
    done.expect_code(0);
    let report: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", done.text()));
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["library"]["problem"], Value::Null, "{report:#}");
    report["library"].clone()
}

fn every_field_is_found_and_the_important_ones_twice(library: Library) {
    let report = checked(&library);
    let fields = list(&report, "fields");
    let found: Vec<(&str, u64)> = fields
        .iter()
        .map(|field| (text(field, "name"), unsigned(field, "width")))
        .collect();
    assert_eq!(
        found,
        [
            ("device", 8),
            ("size", 8),
            ("page_size", 8),
            ("buffer_type", 4),
            ("layout", 4),
            ("owns_data", 1),
            ("allocator", 8),
            ("status", 1),
            ("hooked", 1),
            ("address", 8),
            ("unique_id", 8),
            ("chip_id", 4),
            ("mesh_id", 4),
        ]
    );
    for field in fields {
        let important = ["device", "size", "page_size", "buffer_type"];
        let least = if important.contains(&text(field, "name")) {
            2
        } else {
            1
        };
        let evidence = list(field, "witnesses");
        assert!(evidence.len() >= least, "{field:#}");
    }
}

fn every_probe_is_emulated_by_the_kernel(library: Library) {
    let report = checked(&library);
    let points: Vec<(&str, &str)> = list(&report, "probe_points")
        .iter()
        .map(|point| (text(point, "kind"), text(point, "cost")))
        .collect();
    assert_eq!(
        points,
        [
            ("bulk free", "emulated"),
            ("destroy", "emulated"),
            ("deallocate", "emulated"),
            ("create", "emulated"),
            ("block", "emulated"),
            ("allocate", "emulated"),
        ]
    );
}

fn the_build_id_is_the_files_own(library: Library) {
    assert_eq!(checked(&library)["build_id"], build_id(&library.path));
}
