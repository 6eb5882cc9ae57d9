//! The ledger against a naive model, over long pseudo-random lives of a process.
//!
//! The model knows from the outset which chip belongs to which mesh, keeps every live buffer in a
//! list, and adds the whole list up anew after each event.

use super::*;
use crate::stack::StackId;

const MESHES: [(u32, &[u32]); 4] = [(1, &[0, 1, 2, 3]), (2, &[0, 1]), (3, &[2]), (4, &[3])];
const CHIPS: u32 = 5;

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[derive(Default)]
struct Model {
    owning: Vec<Buffer>,
    non_owning: Vec<Buffer>,
    /// (when, what lay on it and how often, and how much was ever put on it) by device and type.
    accounts: BTreeMap<(Device, BufferType), Expected>,
    /// Where each live owning buffer was allocated.
    sources: BTreeMap<ObjectPointer, Source>,
    /// What each device and type consisted of at its peak.
    peaks: BTreeMap<(Device, BufferType), BTreeMap<Source, Tally>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Expected {
    live: (u64, u64),
    peak: (u64, Nanoseconds),
    allocated: (u64, u64),
    freed: (u64, u64),
}

fn lies_on(buffer: &Buffer) -> Vec<Device> {
    let mut devices = vec![buffer.device];
    if buffer.device.kind == DeviceKind::Mesh {
        let members = MESHES
            .iter()
            .find(|(id, _)| *id == buffer.device.id)
            .expect("a mesh")
            .1;
        devices.extend(members.iter().map(|id| chip(*id)));
    }
    devices
}

impl Model {
    fn add(&mut self, buffer: Buffer, stack: Option<StackId>, at: Nanoseconds) {
        self.owning.push(buffer);
        self.sources.insert(buffer.object, Source::Traced(stack));
        for device in lies_on(&buffer) {
            let expected = self
                .accounts
                .entry((device, buffer.buffer_type))
                .or_default();
            expected.allocated.0 += buffer.size;
            expected.allocated.1 += 1;
        }
        self.add_up(at);
    }

    fn remove(&mut self, gone: impl Fn(&Buffer) -> bool, at: Nanoseconds) {
        for buffer in self.owning.extract_if(.., |buffer| gone(buffer)) {
            for device in lies_on(&buffer) {
                let expected = self
                    .accounts
                    .entry((device, buffer.buffer_type))
                    .or_default();
                expected.freed.0 += buffer.size;
                expected.freed.1 += 1;
            }
        }
        self.add_up(at);
    }

    fn add_up(&mut self, at: Nanoseconds) {
        let mut risen = Vec::new();
        for ((device, buffer_type), expected) in &mut self.accounts {
            let here = self
                .owning
                .iter()
                .filter(|b| b.buffer_type == *buffer_type && lies_on(b).contains(device));
            expected.live = here.fold((0, 0), |sum, b| (sum.0 + b.size, sum.1 + 1));
            if expected.live.0 > expected.peak.0 {
                expected.peak = (expected.live.0, at);
                risen.push((*device, *buffer_type));
            }
        }
        for (device, buffer_type) in risen {
            let now = self.composition(device, buffer_type);
            self.peaks.insert((device, buffer_type), now);
        }
    }

    /// Of what a device's memory consists now.
    fn composition(&self, device: Device, buffer_type: BufferType) -> BTreeMap<Source, Tally> {
        let mut parts: BTreeMap<Source, Tally> = BTreeMap::new();
        for buffer in &self.owning {
            if buffer.buffer_type == buffer_type && lies_on(buffer).contains(&device) {
                let part = parts.entry(self.sources[&buffer.object]).or_default();
                part.add(buffer.size);
            }
        }
        parts
    }
}

fn allocator_of(device: Device) -> AllocatorPointer {
    let kind = if device.kind == DeviceKind::Mesh {
        0x1000
    } else {
        0x2000
    };
    AllocatorPointer(kind + u64::from(device.id))
}

/// A place in a device's memory where none of its live buffers lies, as an allocator gives it: low
/// ones first, so that devices with allocators of their own often get the same.
fn free_address(model: &Model, device: Device) -> u64 {
    let taken = |address| {
        model
            .owning
            .iter()
            .any(|b| b.device == device && b.address == address)
    };
    (1..)
        .map(|n| n * 0x1000)
        .find(|address| !taken(*address))
        .expect("there is always one")
}

fn live(seed: u64, steps: u32) -> (Story, Model) {
    let mut random = Random(seed);
    let mut story = Story::default();
    let mut model = Model::default();
    let mut next_object = 0;
    let mut objects: Vec<u64> = Vec::new();
    for _ in 0..steps {
        let tid = 1 + random.below(3) as u32;
        let pick = random.below(100);
        let mut object = || {
            objects.pop().unwrap_or_else(|| {
                next_object += 0x10;
                next_object
            })
        };
        match pick {
            0..45 => {
                let device = match random.below(8) {
                    number @ 0..4 => mesh(MESHES[number as usize].0),
                    _ => chip(random.below(u64::from(CHIPS)) as u32),
                };
                let buffer = Buffer {
                    allocator: allocator_of(device),
                    buffer_type: BufferType::ALL[random.below(3) as usize],
                    ..owning(
                        object(),
                        device,
                        free_address(&model, device),
                        random.below(4) * KIB,
                    )
                };
                story.stack = match random.below(6) {
                    0 => None,
                    stack => Some(StackId(stack as u32)),
                };
                let (event, outcome) = story.event(PID, tid, EventKind::Allocate(buffer));
                assert_eq!(outcome.implied, []);
                model.add(buffer, event.stack, event.time);
                for on in lies_on(&buffer).into_iter().skip(1) {
                    let member = Buffer {
                        object: ObjectPointer(object()),
                        device: on,
                        ownership: Ownership::NonOwning,
                        ..buffer
                    };
                    story.event(PID, tid, EventKind::Create(member));
                    model.non_owning.push(member);
                }
            }
            45..80 if !model.owning.is_empty() => {
                let buffer = model.owning[random.below(model.owning.len() as u64) as usize];
                let (event, outcome) = story.event(PID, tid, EventKind::Deallocate(buffer.object));
                assert!(matches!(outcome.effect, Effect::Deallocated(l) if l.buffer == buffer));
                model.remove(|b| b.object == buffer.object, event.time);
                objects.push(buffer.object.0);
            }
            80..97 if !model.non_owning.is_empty() => {
                let which = random.below(model.non_owning.len() as u64) as usize;
                let buffer = model.non_owning.swap_remove(which);
                story.event(PID, tid, EventKind::Destroy(buffer.object));
                objects.push(buffer.object.0);
            }
            97 => {
                let on = chip(random.below(u64::from(CHIPS)) as u32);
                let part = view(object(), on, 0x1400, KIB / 2);
                story.event(PID, tid, EventKind::Create(part));
                model.non_owning.push(part);
            }
            98 => {
                let failed = owning(object(), chip(0), 0, KIB);
                story.event(PID, tid, EventKind::Failed(failed));
                objects.push(failed.object.0);
            }
            99 => {
                let device = mesh(MESHES[random.below(4) as usize].0);
                let allocator = allocator_of(device);
                let (event, _) = story.event(PID, tid, EventKind::BulkFree(allocator));
                model.remove(|b| b.allocator == allocator, event.time);
            }
            _ => {}
        }
    }
    (story, model)
}

#[test]
fn the_ledger_agrees_with_the_naive_model() {
    for seed in 0..60 {
        let (story, model) = live(seed, 400);
        let process = story.process();

        let mut owning: Vec<Buffer> = process.owning().map(|live| live.buffer).collect();
        let mut expected = model.owning.clone();
        owning.sort_by_key(|b| b.object);
        expected.sort_by_key(|b| b.object);
        assert_eq!(owning, expected, "seed {seed}");
        assert_eq!(
            process.non_owning().len(),
            model.non_owning.len(),
            "seed {seed}"
        );

        for (&device, account) in process.devices() {
            if device.kind == DeviceKind::Mesh {
                let members = MESHES
                    .iter()
                    .find(|(id, _)| *id == device.id)
                    .expect("a mesh")
                    .1;
                assert!(
                    account.members.iter().eq(members),
                    "seed {seed}, {device:?}"
                );
            }
            for buffer_type in BufferType::ALL {
                let composition = &account.composition[buffer_type];
                assert_eq!(
                    composition.live(),
                    model.composition(device, buffer_type),
                    "seed {seed}, {device:?}, {buffer_type}"
                );
                let expected = model.peaks.get(&(device, buffer_type));
                assert_eq!(
                    composition.peak(),
                    expected.cloned().unwrap_or_default(),
                    "seed {seed}, {device:?}, {buffer_type}"
                );
                let account = account.memory[buffer_type];
                let found = Expected {
                    live: (account.live_bytes, account.live_buffers),
                    peak: (account.peak_bytes, account.peak_at),
                    allocated: (account.allocated_bytes, account.allocations),
                    freed: (account.freed_bytes, account.deallocations),
                };
                let expected = model.accounts.get(&(device, buffer_type));
                assert_eq!(
                    found,
                    expected.copied().unwrap_or_default(),
                    "seed {seed}, {device:?}, {buffer_type}"
                );
            }
        }
        let counters = process.counters();
        assert_eq!(
            counters.created - counters.destroyed,
            process.non_owning().len() as u64
        );
        assert_eq!(
            (
                counters.unmatched_deallocations,
                counters.unmatched_destroys
            ),
            (0, 0)
        );
        assert!(story.ledger.is_exact(), "seed {seed}");
    }
}

#[test]
fn with_events_missing_nothing_underflows_and_the_books_still_balance() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut story = Story::default();
        for _ in 0..2000 {
            let device = if random.below(2) == 0 {
                mesh(1)
            } else {
                chip(random.below(3) as u32)
            };
            let (object, address) = (0x10 * random.below(12), 0x1000 * random.below(6));
            let size = random.below(3) * KIB;
            let buffer = match random.below(2) {
                0 => owning(object, device, address, size),
                _ => view(object, device, address, size),
            };
            let owning = Buffer {
                ownership: Ownership::Owning,
                ..buffer
            };
            let non_owning = Buffer {
                ownership: Ownership::NonOwning,
                ..buffer
            };
            let kind = match random.below(20) {
                0..6 => EventKind::Allocate(owning),
                6..10 => EventKind::Deallocate(owning.object),
                10..14 => EventKind::Create(non_owning),
                14..17 => EventKind::Destroy(non_owning.object),
                17 => EventKind::Hooked(owning),
                18 => EventKind::Failed(owning),
                _ => match random.below(10) {
                    0 => EventKind::BulkFree(ALLOCATOR),
                    _ => EventKind::Lost(random.below(5)),
                },
            };
            story.apply(kind);
        }
        let process = story.process();
        for (device, account) in process.devices() {
            for buffer_type in BufferType::ALL {
                let composition = &account.composition[buffer_type];
                let account = account.memory[buffer_type];
                let sum = |parts: BTreeMap<Source, Tally>| {
                    parts.values().map(|part| part.bytes).sum::<u64>()
                };
                assert_eq!(sum(composition.live()), account.live_bytes, "seed {seed}");
                assert_eq!(sum(composition.peak()), account.peak_bytes, "seed {seed}");
                let balance = account.allocated_bytes.checked_sub(account.freed_bytes);
                assert_eq!(balance, Some(account.live_bytes), "seed {seed}, {device:?}");
                let balance = account.allocations.checked_sub(account.deallocations);
                assert_eq!(
                    balance,
                    Some(account.live_buffers),
                    "seed {seed}, {device:?}"
                );
                assert!(
                    account.peak_bytes >= account.live_bytes,
                    "seed {seed}, {device:?}"
                );
            }
            let own = process
                .owning()
                .filter(|live| live.buffer.device == *device);
            if device.kind == DeviceKind::Mesh {
                let sum: u64 = own.map(|live| live.buffer.size).sum();
                assert_eq!(
                    account.memory[BufferType::Dram].live_bytes,
                    sum,
                    "seed {seed}"
                );
            }
        }
        let counters = process.counters();
        let live = counters.created.checked_sub(counters.destroyed);
        assert_eq!(live, Some(process.non_owning().len() as u64), "seed {seed}");
    }
}
