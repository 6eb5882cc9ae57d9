//! The member functions that are asked.

use std::rc::Rc;

use super::{
    AbiError,
    derive::{ALLOCATORS, Deriver},
    image::{Function, Image},
    interpreter::Analysis,
    names,
    witness::{Testimony, this},
};

impl<'a> Deriver<'a> {
    pub(super) fn testimony(&self, function: Function<'a>, prefix: Vec<i64>) -> Testimony<'a> {
        let analysis = Rc::clone(
            self.analyses
                .borrow_mut()
                .entry(function.address)
                .or_insert_with(|| Rc::new(Analysis::of(self.image, &function))),
        );
        Testimony {
            function,
            analysis,
            this: this(),
            prefix,
        }
    }

    /// A member function that isn't overloaded.
    pub fn method(&self, class: &str, name: &str) -> Option<Testimony<'a>> {
        let function = names::methods(self.image, class, name).into_iter().next()?;
        Some(self.testimony(function, Vec::new()))
    }

    pub(super) fn required(&self, class: &str, name: &str) -> Result<Testimony<'a>, AbiError> {
        self.method(class, name)
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![format!("tt::tt_metal::{class}::{name}()")],
            })
    }

    /// A member function of `Buffer`.
    pub(super) fn accessor(&self, name: &str) -> Option<Testimony<'a>> {
        self.method("Buffer", name)
    }

    /// A member function of the class that holds the fields, or of `Buffer`.
    pub(super) fn holder(&self, name: &str) -> Option<Testimony<'a>> {
        match self.method("BufferImpl", name) {
            Some(testimony) => Some(Testimony {
                prefix: self.prefix.clone(),
                ..testimony
            }),
            None => self.accessor(name),
        }
    }

    pub(super) fn constructor(&self) -> Result<Testimony<'a>, AbiError> {
        if let Some(function) = names::device_constructor(self.image, "BufferImpl") {
            return Ok(self.testimony(function, self.prefix.clone()));
        }
        names::device_constructor(self.image, "Buffer")
            .map(|function| self.testimony(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Buffer::Buffer(IDevice*, …)".into()],
            })
    }

    /// The overload of `create` that makes a non-owning buffer: the one with an address, so with
    /// three numbers behind the device.
    ///
    /// # Errors
    /// When the library has none.
    pub fn create(&self) -> Result<Testimony<'a>, AbiError> {
        ["BufferImpl", "Buffer"]
            .iter()
            .flat_map(|class| names::methods(self.image, class, "create"))
            .find(|function| {
                let parameters = names::parameters(function.symbol);
                parameters
                    .first()
                    .is_some_and(|kind| kind.ends_with("IDevice*"))
                    && parameters
                        .iter()
                        .skip(1)
                        .take_while(|kind| *kind == "unsigned long")
                        .count()
                        == 3
            })
            .map(|function| self.testimony(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![
                    "tt::tt_metal::Buffer::create(IDevice*, address, size, page_size, …)".into(),
                ],
            })
    }

    /// A member function of the allocator, under whichever name the release has it.
    pub fn allocator_method(&self, name: &str) -> Option<Testimony<'a>> {
        ALLOCATORS.iter().find_map(|class| self.method(class, name))
    }

    /// The functions by which a `shared_ptr` ends the `Buffer` that `make_shared` made.
    pub fn disposers(&self) -> Vec<Testimony<'a>> {
        self.image
            .functions_beginning("_ZNSt23_Sp_counted_ptr_inplaceIN2tt8tt_metal6BufferE")
            .into_iter()
            .filter(|function| function.symbol.ends_with("10_M_disposeEv"))
            .map(|function| self.testimony(function, Vec::new()))
            .collect()
    }

    /// `Buffer::~Buffer()`.
    pub fn destructor(&self) -> Option<Testimony<'a>> {
        names::destructor(self.image, "Buffer").map(|function| self.testimony(function, Vec::new()))
    }
}

/// Functions whose source files know their classes' members: addresses.
pub fn compiled_with_classes(image: &Image<'_>) -> Vec<u64> {
    let asked = [
        ("Buffer", "page_size"),
        ("BufferImpl", "allocate_impl"),
        ("Device", "id"),
        ("Device", "num_dram_channels"),
        ("distributed::MeshDevice", "id"),
        ("distributed::MeshDeviceImpl", "id"),
    ];
    asked
        .iter()
        .flat_map(|(class, name)| names::methods(image, class, name))
        .map(|function| function.address)
        .collect()
}
