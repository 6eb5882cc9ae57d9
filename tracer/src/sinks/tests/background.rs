//! A sink in a thread of its own.

use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, Sender, channel},
};

use crate::{
    ledger::{Event, EventKind, Nanoseconds, ObjectPointer},
    session::{Item, Notice, Sink},
    sinks::Background,
};

/// Keeps what it takes, and takes nothing before it is allowed to.
struct Slow {
    allowed: Receiver<()>,
    taken: Arc<Mutex<Vec<Item>>>,
}

impl Sink for Slow {
    fn take(&mut self, item: Item) {
        // Ends once the other end is gone.
        self.allowed.recv().ok();
        self.taken.lock().expect("no panic").push(item);
    }

    fn flush(&mut self) {}
}

/// A slow sink behind a queue with so much room, what allows it to take items, and what it has taken.
fn slow(room: usize) -> (Background<Slow>, Sender<()>, Arc<Mutex<Vec<Item>>>) {
    let (allow, allowed) = channel();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let slow = Slow {
        allowed,
        taken: Arc::clone(&taken),
    };
    let sink = Background::with_room(slow, room, || {}).expect("a thread");
    (sink, allow, taken)
}

fn free(at: u64) -> Item {
    Item::Event(Event {
        pid: 1,
        tid: 2,
        time: Nanoseconds(at),
        kind: EventKind::Deallocate(ObjectPointer(at)),
        stack: None,
    })
}

fn texts(items: &[Item]) -> Vec<String> {
    let text = |item: &Item| match item {
        Item::Event(event) => match event.kind {
            EventKind::Lost(count) => format!("{count} lost until {}", event.time.0),
            EventKind::Exit(_) => "exit".to_owned(),
            _ => format!("event at {}", event.time.0),
        },
        Item::Notice(_) => "notice".to_owned(),
        other => format!("{other:?}"),
    };
    items.iter().map(text).collect()
}

#[test]
fn a_sink_that_takes_nothing_holds_nobody_up_and_learns_what_it_missed() {
    let (mut sink, allow, taken) = slow(3);

    // Nothing is taken yet, so this would never return if it waited.
    for at in 1..=10 {
        sink.take(free(at));
        sink.flush();
    }
    // What isn't about memory has room always.
    sink.take(Item::Notice(Notice::WaitingForAny));
    sink.take(Item::Event(Event {
        pid: 1,
        tid: 2,
        time: Nanoseconds(11),
        kind: EventKind::Exit(None),
        stack: None,
    }));
    drop(allow);
    sink.join().expect("no panic");

    assert_eq!(
        texts(&taken.lock().expect("no panic")),
        [
            "event at 1",
            "event at 2",
            "event at 3",
            "7 lost until 10",
            "notice",
            "exit",
        ]
    );
}

#[test]
fn a_lost_record_of_losses_counts_as_many() {
    let (mut sink, allow, taken) = slow(1);
    sink.take(free(1));
    let Item::Event(event) = free(2) else {
        unreachable!("it is an event")
    };
    sink.take(Item::Event(Event {
        kind: EventKind::Lost(10_000),
        ..event
    }));
    sink.take(free(3));
    drop(allow);
    sink.join().expect("no panic");
    assert_eq!(
        texts(&taken.lock().expect("no panic")),
        ["event at 1", "10001 lost until 3"]
    );
}

#[test]
fn a_loss_is_said_before_the_event_that_finds_room_again() {
    let (mut sink, allow, taken) = slow(2);
    for at in 1..=4 {
        sink.take(free(at));
    }
    sink.flush();
    for _ in 0..2 {
        allow.send(()).expect("the sink waits");
    }
    while sink.queued() > 0 {
        std::thread::yield_now();
    }
    sink.take(free(5));
    drop(allow);
    sink.join().expect("no panic");

    assert_eq!(
        texts(&taken.lock().expect("no panic")),
        ["event at 1", "event at 2", "2 lost until 4", "event at 5"]
    );
}

#[test]
fn a_panic_of_a_sink_is_reported_at_once_and_an_error_at_the_end() {
    struct Panicking;
    impl Sink for Panicking {
        fn take(&mut self, _: Item) {
            panic!("as this test wants");
        }

        fn flush(&mut self) {}
    }
    let (panicked, has_panicked) = channel();
    let on_panic = move || panicked.send(()).expect("somebody listens");
    let mut sink = Background::spawn(Panicking, on_panic).expect("a thread");
    sink.take(free(1));
    sink.flush();
    has_panicked.recv().expect("the panic is reported at once");
    assert!(sink.join().is_err());
}
