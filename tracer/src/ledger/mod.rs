//! Accounting: [`Event`]s in, who owns what out. Pure: no I/O, no clock, no aya.

mod event;

pub use event::{
    AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
    Nanoseconds, ObjectPointer, Ownership,
};
