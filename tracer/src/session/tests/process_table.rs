//! The processes that a session has met.

use std::collections::BTreeMap;

use crate::session::{TracedLibrary, process_table::ProcessTable};

const PARENT: u32 = 10;
const CHILD: u32 = 20;

fn library(path: &str) -> TracedLibrary {
    TracedLibrary {
        path: path.into(),
        build_id: None,
        release: None,
        fields: BTreeMap::new(),
    }
}

/// A process that runs and has a library.
fn traced() -> ProcessTable {
    let mut table = ProcessTable::default();
    assert!(table.introduce(PARENT, Some("python")));
    assert!(table.add_library(PARENT, &library("a")));
    table
}

#[test]
fn a_process_is_new_once_and_may_be_renamed() {
    let mut table = traced();
    assert!(!table.introduce(PARENT, Some("python3")));
    assert_eq!(table.comm(PARENT), "python3");
    assert!(!table.introduce(PARENT, None));
    assert_eq!(table.comm(PARENT), "python3", "it keeps the name it had");
    assert_eq!(table.running(), [PARENT]);
}

#[test]
fn a_library_is_new_to_a_process_once() {
    let mut table = traced();
    assert!(!table.add_library(PARENT, &library("a")));
    assert!(table.add_library(PARENT, &library("b")));
}

#[test]
fn a_forked_child_is_explained_and_has_its_parents_libraries() {
    let mut table = traced();
    assert!(!table.is_explained(CHILD));
    table.fork(PARENT, CHILD);
    assert!(table.is_explained(CHILD) && !table.is_running(CHILD));
    assert!(table.introduce(CHILD, None));
    assert!(!table.add_library(CHILD, &library("a")));
    table.end(CHILD);
    assert!(!table.is_forked(CHILD) && !table.is_running(CHILD));
}

#[test]
fn a_process_that_has_ended_is_explained_but_the_next_with_its_pid_is_new() {
    let mut table = traced();
    table.end(PARENT);
    assert!(table.is_explained(PARENT), "late events are still its own");
    assert!(table.introduce(PARENT, Some("other")));
    assert!(!table.has_library(PARENT));
}

#[test]
fn a_fork_ends_what_had_the_childs_pid_unless_that_is_the_child() {
    // No event yet: its library was found before its fork was handed out.
    let mut table = traced();
    table.reuse_pid(PARENT);
    assert!(table.is_running(PARENT));
    // An event: so another process had that pid, and its end was lost.
    table.note_event(PARENT);
    table.reuse_pid(PARENT);
    assert!(!table.is_running(PARENT));
}

#[test]
fn a_reason_is_new_once() {
    let mut table = ProcessTable::default();
    let news = ["stripped", "stripped", "in doubt"].map(|reason| table.is_new_reason(reason));
    assert_eq!(news, [true, false, true]);
}
