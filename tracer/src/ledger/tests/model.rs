//! The ledger against a naive model, over random histories of a process.
//!
//! The model knows from the outset which chips are members of which mesh, keeps every live buffer in a list,
//! and adds the whole list up again after each event.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::properties::property_config;

const MESHES: [(u32, &[u32]); 4] = [(1, &[0, 1, 2, 3]), (2, &[0, 1]), (3, &[2]), (4, &[3])];
const CHIPS: u32 = 5;

fn members(mesh: Device) -> &'static [u32] {
    let mut meshes = MESHES.iter();
    meshes.find(|(id, _)| *id == mesh.id).expect("a mesh").1
}

/// The devices on which a buffer counts.
fn devices_of(buffer: &Buffer) -> impl Iterator<Item = Device> {
    let members = match buffer.device.kind {
        DeviceKind::Mesh => members(buffer.device),
        DeviceKind::Chip => &[],
    };
    [buffer.device]
        .into_iter()
        .chain(members.iter().map(|id| chip(*id)))
}

fn counts_on(buffer: &Buffer, device: Device) -> bool {
    devices_of(buffer).any(|of| of == device)
}

/// Each device has an allocator of its own.
fn allocator_of(device: Device) -> AllocatorPointer {
    let kind = match device.kind {
        DeviceKind::Mesh => 0x1000,
        DeviceKind::Chip => 0x2000,
    };
    AllocatorPointer(kind + u64::from(device.id))
}

/// What [`Account`] should have for one device and type of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Expected {
    live: Count,
    peak: (u64, Nanoseconds),
    allocated: Count,
    freed: Count,
}

#[derive(Default)]
struct Model {
    owning: Vec<Buffer>,
    non_owning: Vec<Buffer>,
    accounts: BTreeMap<(Device, BufferType), Expected>,
    /// Where each live owning buffer was allocated.
    sources: BTreeMap<ObjectPointer, Source>,
    /// What each device and type consisted of at its peak.
    peaks: BTreeMap<(Device, BufferType), BTreeMap<Source, Count>>,
}

impl Model {
    fn add(&mut self, buffer: Buffer, stack: Option<StackId>, at: Nanoseconds) {
        self.owning.push(buffer);
        self.sources.insert(buffer.object, Source::Traced(stack));
        for device in devices_of(&buffer) {
            let account = self.accounts.entry((device, buffer.buffer_type));
            account.or_default().allocated.add(buffer.size);
        }
        self.add_up(at);
    }

    fn remove(&mut self, ends: impl Fn(&Buffer) -> bool, at: Nanoseconds) {
        for buffer in self.owning.extract_if(.., |buffer| ends(buffer)) {
            for device in devices_of(&buffer) {
                let account = self.accounts.entry((device, buffer.buffer_type));
                account.or_default().freed.add(buffer.size);
            }
        }
        self.add_up(at);
    }

    fn add_up(&mut self, at: Nanoseconds) {
        let mut risen = Vec::new();
        for ((device, buffer_type), expected) in &mut self.accounts {
            expected.live = Count::default();
            for buffer in &self.owning {
                if buffer.buffer_type == *buffer_type && counts_on(buffer, *device) {
                    expected.live.add(buffer.size);
                }
            }
            if expected.live.bytes > expected.peak.0 {
                expected.peak = (expected.live.bytes, at);
                risen.push((*device, *buffer_type));
            }
        }
        for (device, buffer_type) in risen {
            let now = self.composition(device, buffer_type);
            self.peaks.insert((device, buffer_type), now);
        }
    }

    /// What a device's memory consists of now.
    fn composition(&self, device: Device, buffer_type: BufferType) -> BTreeMap<Source, Count> {
        let mut parts: BTreeMap<Source, Count> = BTreeMap::new();
        for buffer in &self.owning {
            if buffer.buffer_type == buffer_type && counts_on(buffer, device) {
                let part = parts.entry(self.sources[&buffer.object]).or_default();
                part.add(buffer.size);
            }
        }
        parts
    }

    /// The lowest address of a device's memory at which none of its live buffers lies. So devices with
    /// allocators of their own often give the same address.
    fn free_address(&self, device: Device) -> u64 {
        let owning = self.owning.iter();
        let here = owning.filter(|buffer| buffer.device == device);
        let taken: BTreeSet<u64> = here.map(|buffer| buffer.address).collect();
        (1..)
            .map(|n| n * 0x1000)
            .find(|address| !taken.contains(address))
            .expect("there is always one")
    }
}

/// One thing that the process does. Each step has a meaning after any others, so that `proptest` can leave
/// steps out of a failing history.
#[derive(Clone, Debug)]
enum Step {
    /// Allocates a buffer; for a mesh's, its members' buffers are created next.
    Allocate {
        device: Device,
        buffer_type: BufferType,
        size: u64,
        stack: Option<StackId>,
    },
    /// Frees one of the live owning buffers, if there are any.
    Deallocate(Index),
    /// Destroys one of the live non-owning buffers, if there are any.
    Destroy(Index),
    CreateView(Device),
    Fail,
    BulkFree(Device),
}

/// A step, and the thread that takes it. Numbers are drawn first and made a step of then: that is much faster
/// than a strategy for each kind of step.
fn step() -> impl Strategy<Value = (u32, Step)> {
    let numbers = (
        1..4_u32,
        0..100_u32,
        0..10_usize,
        0..3_usize,
        0..4_u64,
        0..6_u32,
        any::<Index>(),
    );
    numbers.prop_map(|(tid, kind, device, buffer_type, size, stack, which)| {
        let device = match device {
            0..5 => chip(device as u32),
            _ => mesh(MESHES[device % MESHES.len()].0),
        };
        let step = match kind {
            0..45 => Step::Allocate {
                device,
                buffer_type: BufferType::ALL[buffer_type],
                size: size * KIB,
                stack: (stack > 0).then_some(StackId(stack)),
            },
            45..80 => Step::Deallocate(which),
            80..97 => Step::Destroy(which),
            97 => Step::CreateView(chip(device.id % CHIPS)),
            98 => Step::Fail,
            _ => Step::BulkFree(device),
        };
        (tid, step)
    })
}

/// A history that the ledger and the model go through side by side.
#[derive(Default)]
struct History {
    story: Story,
    model: Model,
    objects: u64,
    /// Objects that have ended; the last one is used again first.
    free_objects: Vec<u64>,
}

impl History {
    fn object(&mut self) -> u64 {
        self.free_objects.pop().unwrap_or_else(|| {
            self.objects += 0x10;
            self.objects
        })
    }

    fn apply(&mut self, tid: u32, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Allocate {
                device,
                buffer_type,
                size,
                stack,
            } => {
                let address = self.model.free_address(device);
                let buffer = Buffer {
                    allocator: allocator_of(device),
                    buffer_type,
                    ..owning(self.object(), device, address, size)
                };
                self.story.stack = stack;
                let (event, outcome) = self.story.event(PID, tid, EventKind::Allocate(buffer));
                prop_assert_eq!(outcome.implied_ends, []);
                self.model.add(buffer, event.stack, event.time);
                for on in devices_of(&buffer).skip(1) {
                    let member = Buffer {
                        object: ObjectPointer(self.object()),
                        device: on,
                        ownership: Ownership::NonOwning,
                        ..buffer
                    };
                    self.create(tid, member);
                }
            }
            Step::Deallocate(which) => {
                if let Some(&buffer) = pick(&self.model.owning, which) {
                    let kind = EventKind::Deallocate(buffer.object);
                    let (event, outcome) = self.story.event(PID, tid, kind);
                    let Effect::Deallocated(live) = outcome.effect else {
                        return Err(TestCaseError::fail(format!("{outcome:?} for {buffer:?}")));
                    };
                    prop_assert_eq!(live.buffer, buffer);
                    let object = buffer.object;
                    self.model
                        .remove(|other| other.object == object, event.time);
                    self.free_objects.push(object.0);
                }
            }
            Step::Destroy(which) => {
                if let Some(&buffer) = pick(&self.model.non_owning, which) {
                    let object = buffer.object;
                    self.model.non_owning.retain(|other| other.object != object);
                    self.story.event(PID, tid, EventKind::Destroy(object));
                    self.free_objects.push(object.0);
                }
            }
            Step::CreateView(chip) => {
                let part = view(self.object(), chip, 0x1400, KIB / 2);
                self.create(tid, part);
            }
            Step::Fail => {
                let failed = owning(self.object(), chip(0), 0, KIB);
                self.story.event(PID, tid, EventKind::Failed(failed));
                self.free_objects.push(failed.object.0);
            }
            Step::BulkFree(device) => {
                let allocator = allocator_of(device);
                let (event, _) = self.story.event(PID, tid, EventKind::BulkFree(allocator));
                self.model
                    .remove(|buffer| buffer.allocator == allocator, event.time);
            }
        }
        Ok(())
    }

    fn create(&mut self, tid: u32, buffer: Buffer) {
        self.story.event(PID, tid, EventKind::Create(buffer));
        self.model.non_owning.push(buffer);
    }

    /// Compares the ledger with the model.
    fn check(&self) -> Result<(), TestCaseError> {
        let (story, model) = (&self.story, &self.model);
        prop_assert!(story.ledger.is_exact());
        let Some(process) = story.ledger.process(PID) else {
            prop_assert_eq!(story.now, 0, "a process with events is in the ledger");
            return Ok(());
        };
        let mut owning: Vec<Buffer> = process.owning().map(|live| live.buffer).collect();
        let mut expected = model.owning.clone();
        owning.sort_by_key(|buffer| buffer.object);
        expected.sort_by_key(|buffer| buffer.object);
        prop_assert_eq!(owning, expected);

        for device in model.accounts.keys().map(|(device, _)| device) {
            prop_assert!(process.devices().contains_key(device), "{device:?}");
        }
        for (&device, account) in process.devices() {
            if device.kind == DeviceKind::Mesh {
                prop_assert!(account.members.iter().eq(members(device)), "{device:?}");
            }
            for buffer_type in BufferType::ALL {
                check_account(model, device, buffer_type, account)?;
            }
        }

        let counters = process.counters();
        let non_owning = process.non_owning().len();
        prop_assert_eq!(non_owning, model.non_owning.len());
        prop_assert_eq!(counters.created - counters.destroyed, non_owning as u64);
        prop_assert_eq!(counters.unmatched_deallocations, 0);
        prop_assert_eq!(counters.unmatched_destroys, 0);
        Ok(())
    }
}

fn check_account(
    model: &Model,
    device: Device,
    buffer_type: BufferType,
    account: &DeviceAccount,
) -> Result<(), TestCaseError> {
    let composition = &account.composition[buffer_type];
    let live = model.composition(device, buffer_type);
    prop_assert_eq!(composition.live(), live, "{:?} {}", device, buffer_type);
    let peak = model.peaks.get(&(device, buffer_type));
    let peak = peak.cloned().unwrap_or_default();
    prop_assert_eq!(composition.peak(), peak, "{:?} {}", device, buffer_type);

    let account = account.memory[buffer_type];
    let count = |buffers, bytes| Count { buffers, bytes };
    let found = Expected {
        live: count(account.live_buffers, account.live_bytes),
        peak: (account.peak_bytes, account.peak_at),
        allocated: count(account.allocations, account.allocated_bytes),
        freed: count(account.deallocations, account.freed_bytes),
    };
    let expected = model.accounts.get(&(device, buffer_type));
    let expected = expected.copied().unwrap_or_default();
    prop_assert_eq!(found, expected, "{:?} {}", device, buffer_type);
    Ok(())
}

fn pick<T>(items: &[T], which: Index) -> Option<&T> {
    (!items.is_empty()).then(|| which.get(items))
}

/// An event of the process that need not fit to those before it, as if some of them were missing.
fn unrelated_event() -> impl Strategy<Value = EventKind> {
    let numbers = (0..200_u32, 0..12_u64, 0..6_u32, 0..6_u64, 0..3_u64);
    numbers.prop_map(|(kind, object, device, address, size)| {
        let device = match device {
            0..3 => chip(device),
            _ => MESH,
        };
        let owning = owning(0x10 * object, device, 0x1000 * address, size * KIB);
        let non_owning = Buffer {
            ownership: Ownership::NonOwning,
            ..owning
        };
        match kind {
            0..60 => EventKind::Allocate(owning),
            60..100 => EventKind::Deallocate(owning.object),
            100..140 => EventKind::Create(non_owning),
            140..170 => EventKind::Destroy(owning.object),
            170..180 => EventKind::Hooked(owning),
            180..190 => EventKind::Failed(owning),
            190 => EventKind::BulkFree(ALLOCATOR),
            _ => EventKind::Lost(address),
        }
    })
}

proptest! {
    #![proptest_config(property_config(64))]

    #[test]
    fn the_ledger_agrees_with_the_naive_model(steps in vec(step(), 0..=800)) {
        let mut history = History::default();
        for (tid, step) in &steps {
            history.apply(*tid, step)?;
        }
        history.check()?;
    }

    #[test]
    fn with_events_missing_nothing_underflows_and_the_accounts_still_balance(
        events in vec(unrelated_event(), 0..=4000)
    ) {
        let mut story = Story::default();
        for kind in events {
            story.apply(kind);
        }
        check_balance(&story)?;
    }
}

fn check_balance(story: &Story) -> Result<(), TestCaseError> {
    let Some(process) = story.ledger.process(PID) else {
        return Ok(());
    };
    for (device, account) in process.devices() {
        for buffer_type in BufferType::ALL {
            let composition = &account.composition[buffer_type];
            let account = account.memory[buffer_type];
            let sum = |parts: BTreeMap<Source, Count>| -> u64 {
                parts.values().map(|part| part.bytes).sum()
            };
            prop_assert_eq!(sum(composition.live()), account.live_bytes);
            prop_assert_eq!(sum(composition.peak()), account.peak_bytes);
            let balance = account.allocated_bytes.checked_sub(account.freed_bytes);
            prop_assert_eq!(balance, Some(account.live_bytes), "{:?}", device);
            let balance = account.allocations.checked_sub(account.deallocations);
            prop_assert_eq!(balance, Some(account.live_buffers), "{:?}", device);
            prop_assert!(account.peak_bytes >= account.live_bytes, "{device:?}");
        }
        if device.kind == DeviceKind::Mesh {
            let own = process
                .owning()
                .filter(|live| live.buffer.device == *device);
            let sum: u64 = own.map(|live| live.buffer.size).sum();
            prop_assert_eq!(account.memory[BufferType::Dram].live_bytes, sum);
        }
    }
    let counters = process.counters();
    let live = counters.created.checked_sub(counters.destroyed);
    prop_assert_eq!(live, Some(process.non_owning().len() as u64));
    Ok(())
}
