mod frames;
mod line_tables;
mod live;
mod memory;
pub(crate) mod model;
mod objects;
mod stacks;
