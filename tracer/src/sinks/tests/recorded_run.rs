//! A real run, recorded: what the kernel side sent, and the summary of that same run.
//!
//! `cargo xtask tape` made both: `tt-memtrace run --stacks python` of tests/mock-ttnn/workload.py on ttnn
//! 0.81.1 from PyPI, on a mock n150.

use serde_json::{Value, json};
use std::{sync::mpsc::SyncSender, time::SystemTime};

use crate::{
    abi::fixture::TTNN_0_81_1,
    ledger::{
        Event, Ledger, Mark, Outcome, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    report::{Facts, Host, Summary, TableOptions, Tool},
    session::{
        Libraries, Notice, Scope, Session,
        tests::player::{PlayedKernel, PlayedProcesses},
    },
    sinks::{Accounts, Closed, Listener, MarkText},
    tape::Tape,
};

const TAPE: &[u8] = include_bytes!("../fixtures/ttnn-0.81.1-workload.tape");
const SUMMARY: &str = include_str!("../fixtures/ttnn-0.81.1-workload.json");

/// Nobody listens to the accounts.
struct Silent;

impl Listener for Silent {
    fn event(&mut self, _: &Event, _: &Outcome) {}

    fn program<'a>(
        &mut self,
        _: &ProgramEvent,
        _: ProgramEffect,
        _: &dyn Fn(ProgramKey) -> Option<&'a Program>,
    ) {
    }

    fn mark(
        &mut self,
        _: &Mark,
        _: Option<&SyncSender<String>>,
        _: &dyn Fn(TableOptions) -> MarkText,
    ) {
    }

    fn notice(&mut self, _: &Notice) {}

    fn flush(&mut self) {}
}

fn replayed() -> Value {
    let tape = Tape::read(TAPE);
    let processes = PlayedProcesses {
        excerpt: Some(TTNN_0_81_1),
        ..tape.processes
    };
    let scope = Scope::Command { pid: tape.command };
    let (kernel, mut requests) =
        PlayedKernel::new(tape.batches, tape.started_ns, processes.calls.clone());
    let mut accounts = Accounts::new(Ledger::TEMPORARY, Silent);
    let ended = {
        let libraries = Libraries::derive_ahead(&scope.pids(), &processes);
        let mut session = Session::new(scope, kernel, processes, libraries, false, &mut accounts);
        session.begin().expect("it begins");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let ended = runtime.block_on(session.run(&mut requests));
        ended.expect("it was traced")
    };
    let Closed {
        ledger,
        facts,
        untraced,
        ..
    } = accounts.close();
    let facts = Facts {
        tool: Tool {
            name: String::new(),
            version: String::new(),
        },
        host: Host {
            hostname: String::new(),
            kernel: String::new(),
            arch: String::new(),
        },
        started_at: SystemTime::UNIX_EPOCH,
        duration: ended.duration,
        processes: facts,
        untraced,
        every_stack: false,
        stacks_skipped: ended.stacks_skipped,
    };
    serde_json::to_value(Summary::new(&ledger, &facts)).expect("a summary")
}

/// Without what belongs to the moment, the machine, and the process's memory, which is gone.
fn comparable(mut summary: Value) -> Value {
    for key in ["tool", "host", "started_at", "duration_ns"] {
        summary[key] = Value::Null;
    }
    for process in summary["processes"].as_array_mut().expect("a list") {
        process["pid"] = Value::Null;
        process["maps"] = Value::Null;
        // The library's own path and release are looked up in the process's file system.
        for library in process["libraries"].as_array_mut().expect("a list") {
            library["release"] = Value::Null;
        }
        process["library"]["release"] = Value::Null;
        for device in process["devices"].as_array_mut().expect("a list") {
            for usage in device["memory"]
                .as_object_mut()
                .expect("memories")
                .values_mut()
            {
                usage["capacity"] = Value::Null;
            }
        }
    }
    strip_thread_ids(&mut summary);
    summary
}

/// Thread ids stand on the tape as others than in the summary.
fn strip_thread_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == "tid" {
                    *field = json!("a thread");
                } else {
                    strip_thread_ids(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip_thread_ids),
        _ => {}
    }
}

#[test]
fn the_records_of_a_run_give_the_summary_of_that_run() {
    let live: Value = serde_json::from_str(SUMMARY).expect("a summary");
    assert_eq!(live["processes"].as_array().map(Vec::len), Some(1));
    let (live, replayed) = (comparable(live), comparable(replayed()));
    for (name, expected) in live["processes"][0].as_object().expect("a process") {
        assert_eq!(&replayed["processes"][0][name], expected, "{name}");
    }
    assert_eq!(replayed, live);
}
