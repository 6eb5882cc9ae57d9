//! Where a program's single circular buffers, dataflow buffers and semaphores lie.

use super::{
    AbiError,
    interpreter::Action,
    names,
    points::PROGRAM,
    programs::{CORE_RANGES, CircularBuffers, DataflowBuffers, Inquiry, Semaphores, path},
    value::{Place, Value},
    walks::{FirstTurn, all_equal, loaded},
};

/// In newer and older releases.
const CIRCULAR_BUFFERS: [&str; 2] = ["CircularBufferImpl", "CircularBuffer"];
const DATAFLOW_BUFFER: &str = "experimental::dfb::detail::DataflowBufferImpl";

/// The length of a `std::shared_ptr`, whose first word points to the object.
const SHARED_POINTER: i64 = 16;

impl Inquiry<'_> {
    pub(super) fn circular_buffers(&self) -> Result<CircularBuffers, AbiError> {
        const FIELD: &str = "circular buffers";
        let list = self.list(FIELD, "circular_buffers", SHARED_POINTER)?;
        let class = CIRCULAR_BUFFERS
            .into_iter()
            .find(|class| !names::methods(self.image, class, "address").is_empty())
            .unwrap_or(CIRCULAR_BUFFERS[0]);
        let is_on = self.turn(class, "is_on_logical_corerange")?;
        let ranges = is_on
            .passed(CORE_RANGES, "intersects", 0, &is_on.this())
            .ok_or_else(|| self.doubt(FIELD, "which cores isn't told", [&is_on]))?;
        let assign = self.turn(class, "assign_global_address")?;
        let address = self.turn(class, "address")?;
        let this = address.this();
        // `address()` returns one of two numbers: a local one that is optional, whose flag it looks at,
        // and the one that `assign_global_address()` writes.
        let flag = address
            .actions()
            .find_map(|action| match action {
                Action::Compare {
                    left,
                    right: Value::Constant(0),
                } => left
                    .place()
                    .filter(|place| place.base == this && place.width == 1)
                    .map(|place| place.offset),
                _ => None,
            })
            .ok_or_else(|| self.doubt(FIELD, "`address` looks at no flag", [&address]))?;
        let local = flag - 4;
        let global = assign
            .only_written(4)
            .ok_or_else(|| self.doubt(FIELD, "no global address is assigned", [&assign]))?;
        let mut returned = address.returns().filter_map(Value::place).peekable();
        let is_either =
            |place: &Place| place.base == this && [local, global].contains(&place.offset);
        if returned.peek().is_none() || !returned.all(is_either) {
            return Err(self.doubt(FIELD, "the two addresses aren't told", [&address]));
        }
        // Which one is told by an `optional<uint32_t>` of the configuration, tested as a whole, here or
        // in its accessor: its flag is the fifth byte.
        let configuration = "CircularBufferConfig";
        let accessor = "globally_allocated_address";
        let asked = address
            .passed(configuration, accessor, 0, &this)
            .and_then(|config| {
                let asked = self.turn(configuration, accessor).ok()?;
                let place = asked.returned()?.place()?.clone();
                (place.base == asked.this() && place.width == 8).then_some(config + place.offset)
            });
        let tested = all_equal(address.actions().filter_map(|action| match action {
            Action::Load(place) if place.base == this && place.width == 8 => Some(place.offset),
            _ => None,
        }));
        let is_global = asked
            .or(tested)
            .map(|optional| optional + 4)
            .ok_or_else(|| self.doubt(FIELD, "whether it is global isn't told", [&address]))?;
        // The configuration begins with its size; the address that it may have comes next.
        let size = is_global - 8;
        if let Ok(set_size) = self.turn(class, "set_total_size")
            && set_size.only_stored(&names::argument(1)) != Some(size)
        {
            return Err(self.doubt(FIELD, "its size is in doubt", [&set_size, &address]));
        }
        Ok(CircularBuffers {
            list,
            ranges,
            size: path(size, 4),
            local: path(local, 4),
            has_local: path(flag, 1),
            is_global: path(is_global, 1),
            global: path(global, 4),
        })
    }

    pub(super) fn dataflow_buffers(&self) -> Result<DataflowBuffers, AbiError> {
        const FIELD: &str = "dataflow buffers";
        let list = self.list(FIELD, "dataflow_buffers", SHARED_POINTER)?;
        let allocate = self.turn(PROGRAM, "allocate_dataflow_buffers")?;
        let vector = list.vector;
        if !allocate.vectors().contains(&vector) {
            return Err(self.doubt(FIELD, "the list isn't walked through", [&allocate]));
        }
        let buffer = loaded(&allocate.first_element(vector.offset), 0);
        let ranges = allocate
            .passed(CORE_RANGES, "ranges", 0, &buffer)
            .ok_or_else(|| self.doubt(FIELD, "which cores isn't told", [&allocate]))?;
        // First it leaves out those that are an alias of another, then it takes a borrowed address.
        let flags: Vec<(i64, i64)> = allocate
            .actions()
            .filter_map(|action| match action {
                Action::Compare {
                    left,
                    right: Value::Constant(constant),
                } => left
                    .place()
                    .filter(|place| place.base == buffer && place.width == 1)
                    .map(|place| (place.offset, *constant)),
                _ => None,
            })
            .collect();
        let (alias, borrowed) = match flags[..] {
            // Until 0.76.
            [] => (None, None),
            [(borrowed, 1)] => (None, Some(borrowed)),
            [(alias, 0), (borrowed, 1)] => (Some(alias), Some(borrowed)),
            _ => return Err(self.doubt(FIELD, "whose memory it is isn't told", [&allocate])),
        };
        // Two numbers are multiplied to be laid out; a new size is compared with them.
        let mut sizes = allocate.loaded_at(&buffer, 4);
        if let Ok(size) = self.turn(DATAFLOW_BUFFER, "update_size") {
            let compared = size.loaded_at(&size.this(), 4);
            sizes.retain(|at| compared.contains(at));
        }
        let [entry_size, entries] = sizes[..] else {
            return Err(self.doubt(FIELD, "its size isn't told", [&allocate]));
        };
        // Each group of cores has a list of cores with their addresses, which are written one by one.
        let address = all_equal(allocate.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(to),
                offset,
                width: 4,
                ..
            } => {
                let place = Place {
                    base: to.clone(),
                    offset: *offset,
                    width: 4,
                };
                place
                    .path_from(&buffer)
                    .filter(|path| path.derefs.len() == 2)
            }
            _ => None,
        }))
        .ok_or_else(|| self.doubt(FIELD, "its address isn't told", [&allocate]))?;
        Ok(DataflowBuffers {
            list,
            ranges,
            entry_size: path(entry_size, 4),
            entries: path(entries, 4),
            is_alias: alias.map(|at| path(at, 1)),
            is_borrowed: borrowed.map(|at| path(at, 1)),
            address,
        })
    }

    pub(super) fn semaphores(&self) -> Result<Semaphores, AbiError> {
        const FIELD: &str = "semaphores";
        let walker = self.turn(PROGRAM, "semaphores_on_core")?.after_result();
        let walked = walker.vectors();
        let [vector] = walked[..] else {
            return Err(self.doubt(FIELD, "which vector is walked isn't clear", [&walker]));
        };
        let list = self.list(FIELD, "semaphores", vector.stride)?;
        if list.vector != vector {
            return Err(self.doubt(FIELD, "two functions disagree", [&walker]));
        }
        let constructor = names::core_ranges_constructor(self.image, "Semaphore")
            .map(|function| FirstTurn::of_function(self.image, function))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Semaphore::Semaphore(CoreRangeSet const&, …)".into()],
            })?;
        let this = constructor.this();
        let ranges = constructor.constructed(CORE_RANGES, &this);
        let id = constructor.only_stored(&names::argument(2));
        let initial_value = constructor.only_stored(&names::argument(3));
        let (Some(ranges), Some(id), Some(initial_value)) = (ranges, id, initial_value) else {
            return Err(self.doubt(FIELD, "what it is made of isn't told", [&constructor]));
        };
        Ok(Semaphores {
            list,
            ranges,
            id: path(id, 4),
            initial_value: path(initial_value, 4),
        })
    }
}
