//! What a session does to processes: it puts probes on their libraries, and leaves none of them stopped.

use std::{collections::BTreeSet, path::PathBuf};

use tracer_common::{POINT_EXEC, POINT_EXIT, POINT_LINKED};

use super::player::{Batch, Calls, Items, PlayedKernel, PlayedProcesses, Requests};
use crate::{
    abi::fixture::TTNN_0_81_1,
    session::{
        EndReason, Ended, Item, Libraries, MarkRequest, Notice, ProcessFact, Request, Scope,
        Session, SessionError,
    },
    target::Identity,
};

const COMMAND: u32 = 5_000_000;
const CHILD: u32 = 5_000_001;

/// A control record: the header, then one value.
fn control(pid: u32, point: u32, value: u64) -> Vec<u8> {
    let mut record = 1_000u64.to_le_bytes().to_vec();
    for word in [pid, pid, point, 0] {
        record.extend(word.to_le_bytes());
    }
    record.extend(value.to_le_bytes());
    record
}

/// A process has loaded a library and is stopped.
fn linked(pid: u32) -> Vec<u8> {
    control(pid, POINT_LINKED, 1)
}

/// A process has executed a program and is stopped.
fn executed(pid: u32) -> Vec<u8> {
    control(pid, POINT_EXEC, 1)
}

fn exited(pid: u32) -> Vec<u8> {
    control(pid, POINT_EXIT, 0)
}

/// What a session of this scope and these records returned, asked for, and handed out.
struct Traced {
    result: Result<Ended, SessionError>,
    calls: Vec<String>,
    items: Vec<Item>,
}

impl Traced {
    fn notices(&self) -> Vec<&Notice> {
        let notices = self.items.iter().filter_map(|item| match item {
            Item::Notice(notice) => Some(notice),
            _ => None,
        });
        notices.collect()
    }
}

/// A machine on which `COMMAND` and `CHILD` run.
fn machine(excerpt: Option<&'static str>) -> PlayedProcesses {
    let identity = |pid| Identity {
        pid,
        comm: "python".into(),
        command_line: Vec::new(),
    };
    PlayedProcesses {
        identities: [COMMAND, CHILD].map(|pid| (pid, identity(pid))).into(),
        alive: BTreeSet::from([COMMAND, CHILD]),
        excerpt,
        ..PlayedProcesses::default()
    }
}

fn with_library(pid: u32, excerpt: Option<&'static str>) -> PlayedProcesses {
    PlayedProcesses {
        libraries: [(pid, PathBuf::from("/venv/libtt_metal.so"))].into(),
        ..machine(excerpt)
    }
}

fn trace(scope: Scope, processes: PlayedProcesses, batches: Vec<Batch>, held: &[u32]) -> Traced {
    let calls: Calls = processes.calls.clone();
    let (mut kernel, mut requests) = PlayedKernel::new(batches.into(), 0, calls.clone());
    kernel.held = held.to_vec();
    let mut items = Items::default();
    let result = {
        let libraries = Libraries::derive_ahead(&scope.pids(), &processes);
        let mut session = Session::new(scope, kernel, processes, libraries, false, &mut items);
        match session.begin() {
            Ok(()) => run(&mut session, &mut requests),
            Err(error) => Err(error),
        }
    };
    let calls = calls.lock().expect("no panic").clone();
    Traced {
        result,
        calls,
        items: items.0,
    }
}

fn run(
    session: &mut Session<'_, PlayedKernel, PlayedProcesses>,
    requests: &mut Requests,
) -> Result<Ended, SessionError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(session.run(requests))
}

fn batch(records: Vec<Vec<u8>>) -> Batch {
    Batch {
        records,
        ..Batch::default()
    }
}

/// How often something was asked for.
fn count(calls: &[String], call: &str) -> usize {
    calls.iter().filter(|made| *made == call).count()
}

#[test]
fn a_process_that_was_stopped_goes_on_whatever_was_found_in_it() {
    let command = Scope::Command { pid: COMMAND };
    let cases = [
        ("it executed a program", machine(None), executed(COMMAND)),
        ("it has no library", machine(None), linked(COMMAND)),
        (
            "its library can be traced",
            with_library(COMMAND, Some(TTNN_0_81_1)),
            linked(COMMAND),
        ),
        (
            "its library can't be traced",
            with_library(COMMAND, None),
            linked(COMMAND),
        ),
        ("it has ended", PlayedProcesses::default(), linked(CHILD)),
    ];
    for (case, mut processes, record) in cases {
        // The session introduces the command in any case.
        let identities = machine(None).identities;
        processes.identities.extend(identities);
        let pid = if record == linked(CHILD) {
            CHILD
        } else {
            COMMAND
        };
        let traced = trace(command.clone(), processes, vec![batch(vec![record])], &[]);
        assert!(traced.result.is_ok(), "{case}: {:?}", traced.result);
        assert_eq!(
            count(&traced.calls, &format!("resume {pid}")),
            1,
            "{case}: {:?}",
            traced.calls
        );
    }
}

#[test]
fn a_process_with_a_library_is_stopped_no_more() {
    let processes = with_library(CHILD, Some(TTNN_0_81_1));
    let command = Scope::Command { pid: COMMAND };
    let traced = trace(command, processes, vec![batch(vec![linked(CHILD)])], &[]);
    let ended = traced.result.expect("it was traced");
    assert!(ended.traced_anything);
    assert_eq!(ended.reason, EndReason::Over);
    let calls = &traced.calls;
    let at = |call: &str| calls.iter().position(|made| made.starts_with(call));
    let (probes, let_go) = (at("9 probes"), at(&format!("let go {CHILD}")));
    // First the probes, then the process.
    assert!(
        probes.is_some() && probes < let_go && let_go < at("resume"),
        "{calls:?}"
    );
}

#[test]
fn an_untraceable_library_is_the_sessions_failure_and_the_command_goes_on() {
    let processes = with_library(CHILD, None);
    let command = Scope::Command { pid: COMMAND };
    let traced = trace(command, processes, vec![batch(vec![linked(CHILD)])], &[]);
    let ended = traced.result.as_ref().expect("the session goes on");
    let failure = ended.failure.as_ref();
    assert!(failure.is_some_and(SessionError::is_of_library));
    assert_eq!(count(&traced.calls, &format!("let go {CHILD}")), 1);
    assert!(
        matches!(traced.notices()[..], [Notice::Untraced { pid: CHILD, .. }]),
        "{:?}",
        traced.notices()
    );
}

#[test]
fn on_an_error_recording_ends_and_no_process_stays_stopped() {
    let stopped = vec![executed(CHILD), linked(CHILD)];
    let failing = Batch {
        records: stopped,
        lost: Batch::FAILS,
        ..Batch::default()
    };
    let command = Scope::Command { pid: COMMAND };
    // CHILD's stops were reported, COMMAND's wasn't yet.
    let traced = trace(command, machine(None), vec![failing], &[COMMAND]);
    assert!(
        matches!(traced.result, Err(SessionError::Probe(_))),
        "{:?}",
        traced.result
    );
    for (call, times) in [
        ("record Off".to_owned(), 1),
        ("let all go".to_owned(), 1),
        (format!("resume {CHILD}"), 2),
        (format!("resume {COMMAND}"), 1),
    ] {
        assert_eq!(
            count(&traced.calls, &call),
            times,
            "{call}: {:?}",
            traced.calls
        );
    }
}

#[test]
fn a_session_that_is_dropped_leaves_no_process_stopped() {
    let processes = machine(None);
    let calls = processes.calls.clone();
    let (mut kernel, _requests) = PlayedKernel::new(Default::default(), 0, calls.clone());
    kernel.held = vec![CHILD];
    let mut items = Items::default();
    let scope = Scope::Command { pid: COMMAND };
    let libraries = Libraries::derive_ahead(&scope.pids(), &processes);
    let mut session = Session::new(scope, kernel, processes, libraries, false, &mut items);
    session.begin().expect("it begins");
    drop(session);
    let calls = calls.lock().expect("no panic");
    assert_eq!(count(&calls, "record Off"), 1, "{calls:?}");
    assert_eq!(count(&calls, &format!("resume {CHILD}")), 1, "{calls:?}");
}

#[test]
fn chosen_processes_are_traced_until_the_last_one_ends() {
    let scope = |pids: &[u32]| Scope::Processes {
        pids: pids.iter().copied().collect(),
        wait: false,
    };
    let ends = |pids: &[u32]| batch(pids.iter().map(|pid| exited(*pid)).collect());
    let mut processes = with_library(COMMAND, Some(TTNN_0_81_1));
    processes
        .libraries
        .insert(CHILD, PathBuf::from("/other/libtt_metal.so"));
    let both = trace(
        scope(&[COMMAND, CHILD]),
        processes.clone(),
        vec![ends(&[COMMAND]), ends(&[CHILD])],
        &[],
    );
    assert_eq!(both.result.expect("it was traced").reason, EndReason::Over);

    // Without waiting, a process without a library is an error at once.
    processes.libraries.remove(&CHILD);
    let one = trace(scope(&[CHILD]), processes, vec![ends(&[CHILD])], &[]);
    assert!(
        matches!(one.result, Err(SessionError::NoLibrary { pid: CHILD, .. })),
        "{:?}",
        one.result
    );
}

#[test]
fn of_all_processes_those_with_a_library_are_traced_now_and_later() {
    let mut processes = with_library(COMMAND, Some(TTNN_0_81_1));
    let batches = || vec![batch(vec![linked(COMMAND), linked(COMMAND)])];
    let traced = trace(Scope::All, processes.clone(), batches(), &[]);
    assert!(
        traced
            .result
            .as_ref()
            .is_ok_and(|ended| ended.traced_anything)
    );
    // Once for all processes that map the file, however often it is found.
    assert_eq!(count(&traced.calls, "9 probes on AllProcesses"), 1);
    assert!(
        matches!(
            traced.notices()[..],
            [Notice::Tracing { pid: COMMAND, .. }, Notice::FollowingAll]
        ),
        "{:?}",
        traced.notices()
    );

    processes.excerpt = None;
    let traced = trace(Scope::All, processes, batches(), &[]);
    assert!(traced.result.is_ok_and(|ended| !ended.traced_anything));
}

#[test]
fn marks_are_set_in_order_and_after_what_happened_before() {
    let processes = machine(None);
    let (kernel, mut requests) = PlayedKernel::new(
        [batch(vec![executed(COMMAND)])].into(),
        0,
        processes.calls.clone(),
    );
    let (reply, replies) = std::sync::mpsc::sync_channel(1);
    for (name, reply) in [(Some("first"), None), (None, Some(reply))] {
        let name = name.map(str::to_owned);
        let request = Request::Mark(MarkRequest { name, reply });
        kernel.requests.send(request).expect("the session listens");
    }
    let mut items = Items::default();
    let scope = Scope::Command { pid: COMMAND };
    let libraries = Libraries::derive_ahead(&scope.pids(), &processes);
    let mut session = Session::new(scope, kernel, processes, libraries, false, &mut items);
    session.begin().expect("it begins");
    run(&mut session, &mut requests).expect("it was traced");
    drop(session);

    let items = items.0.into_iter().filter_map(|item| match item {
        Item::Process(ProcessFact::Began { .. }) => Some("began".to_owned()),
        Item::Process(ProcessFact::Renamed(_)) => Some("executed".to_owned()),
        Item::Mark(mark) => Some(format!("mark {:?}, {}", mark.name, mark.reply.is_some())),
        Item::Event(event) => Some(format!("{:?}", event.kind)),
        _ => None,
    });
    let items: Vec<String> = items.collect();
    assert_eq!(
        items,
        [
            "began",
            "executed",
            "mark Some(\"first\"), false",
            "mark None, true",
            "Exit(Some(Code(0)))"
        ]
    );
    // The session kept nothing of the reply.
    assert!(replies.try_recv().is_err());
}
