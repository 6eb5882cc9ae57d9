//! What binutils report of a library.

use std::path::Path;
use std::process::Command;

/// The build id of a library.
#[track_caller]
pub fn build_id(library: &Path) -> String {
    let notes = Command::new("readelf")
        .arg("--notes")
        .arg(library)
        .output()
        .expect("binutils");
    let notes = String::from_utf8_lossy(&notes.stdout);
    let mut lines = notes.lines();
    let id = lines.find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.expect("a build id").to_owned()
}
