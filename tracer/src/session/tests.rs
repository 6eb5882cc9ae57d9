//! A session without a kernel: from records that one once sent, or that a test makes up. What a real run's
//! records come to is tested behind the sinks, in `sinks/tests/recorded_run.rs`.

mod control;
pub(crate) mod player;
mod process_table;
