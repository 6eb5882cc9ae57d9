//! A sink in a thread of its own, behind a queue with a bound.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use crate::{
    ledger::{Event, EventKind},
    session::{Item, Sink},
};

/// Items that may wait for a sink. An event takes some 160 bytes, so that these are some 80 MB at the most: at
/// 40,000 events a second, more than ten seconds of a terminal or pipe that takes nothing.
const MAX_QUEUED: usize = 500_000;

/// Items that are handed over together at the most.
const MAX_BATCH: usize = 4096;

/// Hands items to a sink in another thread, and never waits for it. Events that the queue has no room for are
/// lost; an [`EventKind::Lost`] gives the sink their number, as for records that the kernel side lost.
pub(crate) struct Background<S> {
    batch: Vec<Item>,
    sender: Sender<Vec<Item>>,
    queued: Arc<AtomicUsize>,
    max_queued: usize,
    /// Events that were lost since the last item that found room, and the last of them.
    lost: Option<(u64, Event)>,
    thread: JoinHandle<S>,
}

impl<S: Sink + Send + 'static> Background<S> {
    /// Starts the thread. `on_panic` is called there if the sink panics: nothing takes the items any more then.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn spawn(sink: S, on_panic: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        Self::with_room(sink, MAX_QUEUED, on_panic)
    }

    /// With room for so many items.
    pub(super) fn with_room(
        sink: S,
        max_queued: usize,
        on_panic: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let taken = Arc::clone(&queued);
        let thread = thread::Builder::new().name("sinks".into()).spawn(move || {
            let _guard = PanicGuard(Some(on_panic));
            serve(sink, &receiver, &taken)
        })?;
        Ok(Self {
            batch: Vec::new(),
            sender,
            queued,
            max_queued,
            lost: None,
            thread,
        })
    }

    /// Waits until the sink has taken everything, and returns it.
    ///
    /// # Errors
    /// What it panicked with.
    pub(crate) fn join(mut self) -> thread::Result<S> {
        self.push_lost();
        self.send();
        drop(self.sender);
        self.thread.join()
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = mem::take(&mut self.batch);
        self.queued.fetch_add(batch.len(), Ordering::Relaxed);
        // If the thread has panicked, `join` returns that.
        self.sender.send(batch).ok();
    }

    /// Items that were handed over and not taken yet.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.queued() + self.batch.len() < self.max_queued
    }

    /// Puts the number of lost events before whatever comes next.
    fn push_lost(&mut self) {
        if let Some((count, last)) = self.lost.take() {
            self.batch.push(Item::Event(Event {
                kind: EventKind::Lost(count),
                stack: None,
                ..last
            }));
        }
    }
}

impl<S: Sink + Send + 'static> Sink for Background<S> {
    fn take(&mut self, item: Item) {
        if let Some((count, event)) = droppable(&item)
            && !self.has_room()
        {
            let before = self.lost.map_or(0, |(count, _)| count);
            self.lost = Some((before.saturating_add(count), event));
            return;
        }
        self.push_lost();
        self.batch.push(item);
        if self.batch.len() >= MAX_BATCH {
            self.send();
        }
    }

    fn flush(&mut self) {
        if self.has_room() {
            self.push_lost();
        }
        self.send();
    }
}

/// How many events an item stands for that may be lost, and the item's process and time. `None` for an item that
/// later ones depend on: only events about memory and programs may be lost.
fn droppable(item: &Item) -> Option<(u64, Event)> {
    match item {
        Item::Event(event) => match event.kind {
            EventKind::Lost(count) => Some((count, *event)),
            kind if kind.is_process_event() => None,
            _ => Some((1, *event)),
        },
        Item::Program(event) => {
            let event = Event {
                pid: event.pid,
                tid: event.tid,
                time: event.time,
                kind: EventKind::Lost(1),
                stack: None,
            };
            Some((1, event))
        }
        _ => None,
    }
}

/// Calls its function when its thread panics.
struct PanicGuard<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for PanicGuard<F> {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(on_panic) = self.0.take()
        {
            on_panic();
        }
    }
}

fn serve<S: Sink>(mut sink: S, receiver: &Receiver<Vec<Item>>, queued: &AtomicUsize) -> S {
    for batch in receiver {
        let count = batch.len();
        for item in batch {
            sink.take(item);
        }
        sink.flush();
        queued.fetch_sub(count, Ordering::Relaxed);
    }
    sink
}
