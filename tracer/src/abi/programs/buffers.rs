//! Derives where a program's single circular buffers, dataflow buffers and semaphores lie.

use super::{
    deriver::ProgramDeriver,
    layout::{CircularBuffers, DataflowBuffers, Semaphores},
};
use crate::abi::{
    AbiError,
    field::FieldPath,
    interpreter::{Action, MemoryLocation, Value},
    names::{self, CORE_RANGES, PROGRAM},
    vector_loop::{FirstIteration, all_equal, loaded},
};

/// The class of circular buffers, in newer and older releases.
const CIRCULAR_BUFFERS: [&str; 2] = ["CircularBufferImpl", "CircularBuffer"];
const DATAFLOW_BUFFER: &str = "experimental::dfb::detail::DataflowBufferImpl";

/// The length of a `std::shared_ptr` in bytes. Its first eight bytes point to the object.
const SHARED_POINTER: i64 = 16;

impl ProgramDeriver<'_> {
    /// The circular buffers.
    ///
    /// # Errors
    /// When a function is missing or doesn't show what it should.
    pub(super) fn circular_buffers(&self) -> Result<CircularBuffers, AbiError> {
        const FIELD: &str = "circular buffers";
        let list = self.list(FIELD, "circular_buffers", SHARED_POINTER)?;
        let class = CIRCULAR_BUFFERS
            .into_iter()
            .find(|class| !names::methods(self.image, class, "address").is_empty())
            .unwrap_or(CIRCULAR_BUFFERS[0]);
        let is_on = self.first_iteration(class, "is_on_logical_corerange")?;
        let ranges = is_on
            .passed(CORE_RANGES, "intersects", 0, &is_on.this())
            .ok_or_else(|| self.underivable(FIELD, "no function shows its cores", [&is_on]))?;
        let assign = self.first_iteration(class, "assign_global_address")?;
        let address = self.first_iteration(class, "address")?;
        let this = address.this();
        // `address()` returns one of two numbers: an optional local address, whose flag it checks, or the
        // global address, which `assign_global_address()` writes.
        let flag = address
            .actions()
            .find_map(|action| match action {
                Action::Compare {
                    left,
                    right: Value::Constant(0),
                } => left
                    .loaded_from()
                    .filter(|from| from.base == this && from.width == 1)
                    .map(|from| from.offset),
                _ => None,
            })
            .ok_or_else(|| self.underivable(FIELD, "`address` checks no flag", [&address]))?;
        let local = flag - 4;
        let global = assign
            .only_written(4)
            .ok_or_else(|| self.underivable(FIELD, "no global address is assigned", [&assign]))?;
        let mut returned = address.returns().filter_map(Value::loaded_from).peekable();
        let is_either =
            |from: &MemoryLocation| from.base == this && [local, global].contains(&from.offset);
        if returned.peek().is_none() || !returned.all(is_either) {
            return Err(self.underivable(
                FIELD,
                "`address` doesn't return the two addresses",
                [&address],
            ));
        }
        // An `optional<uint32_t>` of the configuration decides which of them. `address()` or the optional's
        // accessor loads it as a whole; its flag is the fifth byte.
        let configuration = "CircularBufferConfig";
        let accessor = "globally_allocated_address";
        let by_accessor = address
            .passed(configuration, accessor, 0, &this)
            .and_then(|config| {
                let getter = self.first_iteration(configuration, accessor).ok()?;
                let from = getter.returned()?.loaded_from()?.clone();
                (from.base == getter.this() && from.width == 8).then_some(config + from.offset)
            });
        let inline = all_equal(address.actions().filter_map(|action| match action {
            Action::Load(from) if from.base == this && from.width == 8 => Some(from.offset),
            _ => None,
        }));
        let is_global = by_accessor
            .or(inline)
            .map(|optional| optional + 4)
            .ok_or_else(|| {
                self.underivable(
                    FIELD,
                    "`address` doesn't show whether it is global",
                    [&address],
                )
            })?;
        // The configuration begins with the size, which the optional address follows.
        let size = is_global - 8;
        if let Ok(set_size) = self.first_iteration(class, "set_total_size")
            && set_size.only_stored(&names::argument(1)) != Some(size)
        {
            return Err(self.underivable(FIELD, "its size is in doubt", [&set_size, &address]));
        }
        Ok(CircularBuffers {
            list,
            ranges,
            size: FieldPath::direct(size, 4),
            local: FieldPath::direct(local, 4),
            has_local: FieldPath::direct(flag, 1),
            is_global: FieldPath::direct(is_global, 1),
            global: FieldPath::direct(global, 4),
        })
    }

    /// The dataflow buffers.
    ///
    /// # Errors
    /// Like [`Self::circular_buffers`].
    pub(super) fn dataflow_buffers(&self) -> Result<DataflowBuffers, AbiError> {
        const FIELD: &str = "dataflow buffers";
        let list = self.list(FIELD, "dataflow_buffers", SHARED_POINTER)?;
        let allocate = self.first_iteration(PROGRAM, "allocate_dataflow_buffers")?;
        let vector = list.vector;
        if !allocate.vectors().contains(&vector) {
            return Err(self.underivable(FIELD, "no loop walks through the list", [&allocate]));
        }
        let buffer = loaded(&allocate.first_element(vector.offset), 0);
        let ranges = allocate
            .passed(CORE_RANGES, "ranges", 0, &buffer)
            .ok_or_else(|| self.underivable(FIELD, "no function shows its cores", [&allocate]))?;
        // The loop skips aliases of other dataflow buffers first, then takes the addresses of borrowed buffers.
        let flags: Vec<(i64, i64)> = allocate
            .actions()
            .filter_map(|action| match action {
                Action::Compare {
                    left,
                    right: Value::Constant(constant),
                } => left
                    .loaded_from()
                    .filter(|from| from.base == buffer && from.width == 1)
                    .map(|from| (from.offset, *constant)),
                _ => None,
            })
            .collect();
        let (alias, borrowed) = match flags[..] {
            // Until 0.76.
            [] => (None, None),
            [(borrowed, 1)] => (None, Some(borrowed)),
            [(alias, 0), (borrowed, 1)] => (Some(alias), Some(borrowed)),
            _ => return Err(self.underivable(FIELD, "its flags can't be told apart", [&allocate])),
        };
        // The layout multiplies two numbers; `update_size` compares new values with the same two.
        let mut sizes = allocate.loaded_at(&buffer, 4);
        if let Ok(size) = self.first_iteration(DATAFLOW_BUFFER, "update_size") {
            let compared = size.loaded_at(&size.this(), 4);
            sizes.retain(|at| compared.contains(at));
        }
        let [entry_size, entries] = sizes[..] else {
            return Err(self.underivable(FIELD, "no function shows its size", [&allocate]));
        };
        // Each group of cores has a list of cores with their addresses, and the loop writes each address.
        let address = all_equal(allocate.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(to),
                offset,
                width: 4,
                ..
            } => {
                let location = MemoryLocation {
                    base: to.clone(),
                    offset: *offset,
                    width: 4,
                };
                location
                    .path_from(&buffer)
                    .filter(|path| path.derefs.len() == 2)
            }
            _ => None,
        }))
        .ok_or_else(|| self.underivable(FIELD, "no function shows its address", [&allocate]))?;
        Ok(DataflowBuffers {
            list,
            ranges,
            entry_size: FieldPath::direct(entry_size, 4),
            entries: FieldPath::direct(entries, 4),
            is_alias: alias.map(|at| FieldPath::direct(at, 1)),
            is_borrowed: borrowed.map(|at| FieldPath::direct(at, 1)),
            address,
        })
    }

    /// The semaphores.
    ///
    /// # Errors
    /// Like [`Self::circular_buffers`], or when two functions disagree.
    pub(super) fn semaphores(&self) -> Result<Semaphores, AbiError> {
        const FIELD: &str = "semaphores";
        let walker = self
            .first_iteration(PROGRAM, "semaphores_on_core")?
            .with_hidden_result();
        let vectors = walker.vectors();
        let [vector] = vectors[..] else {
            return Err(self.underivable(
                FIELD,
                "it isn't clear which vector the loop walks through",
                [&walker],
            ));
        };
        let list = self.list(FIELD, "semaphores", vector.stride)?;
        if list.vector != vector {
            return Err(self.underivable(FIELD, "two functions disagree", [&walker]));
        }
        let constructor = names::core_ranges_constructor(self.image, "Semaphore")
            .map(|function| FirstIteration::new(self.image, function))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Semaphore::Semaphore(CoreRangeSet const&, …)".into()],
            })?;
        let this = constructor.this();
        let ranges = constructor.constructed(CORE_RANGES, &this);
        let id = constructor.only_stored(&names::argument(2));
        let initial_value = constructor.only_stored(&names::argument(3));
        let (Some(ranges), Some(id), Some(initial_value)) = (ranges, id, initial_value) else {
            return Err(self.underivable(
                FIELD,
                "the constructor doesn't store its arguments as expected",
                [&constructor],
            ));
        };
        Ok(Semaphores {
            list,
            ranges,
            id: FieldPath::direct(id, 4),
            initial_value: FieldPath::direct(initial_value, 4),
        })
    }
}
