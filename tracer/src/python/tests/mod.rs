mod frames;
mod line_tables;
mod live;
mod memory;
mod objects;
