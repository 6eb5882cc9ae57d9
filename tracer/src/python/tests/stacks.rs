//! From sent frames and code objects to frames with names.

use tracer_common::PYTHON_CODE_AT;

use super::{
    memory::Pieces,
    model::{Function, interpreter, sent_shim},
};
use crate::{
    frame::Frame,
    python::{NoMemory, Python, PythonStacks},
};

fn stacks_of(memory: Option<Pieces>) -> PythonStacks {
    let mut stacks = PythonStacks::new(match memory {
        Some(memory) => Box::new(memory),
        None => Box::new(NoMemory),
    });
    stacks.set_interpreter(interpreter());
    stacks
}

/// The memory of a process that has a function's code object.
fn memory_of(function: &Function) -> Pieces {
    let mut memory = Pieces::default();
    for (address, bytes) in function.parts() {
        memory.put(*address, 0, bytes);
    }
    memory
}

fn groups(stacks: &mut PythonStacks, sent: &[u8]) -> Vec<Vec<Frame>> {
    let id = stacks.add_stack(sent, false).expect("an interpreter");
    stacks.finish_stack(id);
    stacks.stack(id).expect("a known stack").groups
}

#[test]
fn names_come_from_the_code_objects_that_were_sent() {
    let [inner, outer] =
        [(0x7000, "inner"), (0x8000, "outer")].map(|(address, name)| Function::new(address, name));
    let mut stacks = stacks_of(None);
    let sent = [
        inner.sent_frame(),
        sent_shim(),
        outer.sent_frame(),
        sent_shim(),
    ];
    let id = stacks
        .add_stack(&sent.concat(), true)
        .expect("an interpreter");
    // The code objects come after the frames.
    stacks.add_code(&inner.sent());
    stacks.add_code(&outer.sent());
    stacks.finish_stack(id);
    let stack = stacks.stack(id).expect("a known stack");
    assert_eq!(stack.groups, [vec![inner.frame()], vec![outer.frame()]]);
    assert!(stack.more);
}

#[test]
fn equal_stacks_have_the_same_id_and_others_have_another() {
    let function = Function::new(0x7000, "run");
    let mut stacks = stacks_of(None);
    let one = function.sent_frame();
    let two = [one.clone(), one.clone()].concat();
    let ids = [&one, &two, &one].map(|sent| stacks.add_stack(sent, false));
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0], stacks.add_stack(&one, true));
}

#[test]
fn without_an_interpreter_there_are_no_stacks() {
    let function = Function::new(0x7000, "run");
    let mut stacks = PythonStacks::new(Box::new(memory_of(&function)));
    stacks.add_code(&function.sent());
    assert_eq!(stacks.add_stack(&function.sent_frame(), false), None);
}

#[test]
fn a_code_object_that_was_not_sent_is_read_from_memory() {
    let function = Function::new(0x7000, "run");
    let mut stacks = stacks_of(Some(memory_of(&function)));
    let groups = groups(&mut stacks, &function.sent_frame());
    assert_eq!(groups, [[function.frame()]]);
}

#[test]
fn a_code_object_that_took_the_place_of_another_is_not_taken_for_it() {
    let other = Function::new(0x7000, "other");
    let mut frame_of_gone = other.sent_frame();
    frame_of_gone[PYTHON_CODE_AT..].copy_from_slice(&0x9999_u64.to_le_bytes());
    let mut stacks = stacks_of(Some(memory_of(&other)));
    stacks.add_code(&other.sent());
    assert_eq!(
        groups(&mut stacks, &frame_of_gone),
        [[Frame::unknown_python()]]
    );
    assert_eq!(groups(&mut stacks, &other.sent_frame()), [[other.frame()]]);
}

#[test]
fn an_interpreter_is_the_same_after_it_was_written_down() {
    let python = interpreter();
    let json = serde_json::to_string(&python).expect("plain data");
    let read: Python = serde_json::from_str(&json).expect("what was written");
    assert_eq!(read, python);
}
