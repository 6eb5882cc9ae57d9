//! Finds and interprets the member functions of one library.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{
    AbiError,
    dwarf::Members,
    image::{Function, Image},
    interpreter::Analysis,
    listing,
    method::{Method, this},
    names::{self, ALLOCATORS},
};

/// Derives fields and probe points from the functions of one library.
pub(super) struct Deriver<'a> {
    pub image: &'a Image<'a>,
    /// Where members lie according to the library's debug information, where it has any.
    pub members: Members,
    analyses: RefCell<HashMap<u64, Rc<Analysis>>>,
    /// The path from a `Buffer` to its `BufferImpl`; empty where the fields stand in `Buffer`.
    prefix: Vec<i64>,
}

impl<'a> Deriver<'a> {
    /// Finds out whether a buffer's fields stand in `Buffer` or in `BufferImpl`.
    ///
    /// # Errors
    /// When `Buffer::page_size()`, which every release has out of line, is missing or doesn't just
    /// return the field.
    pub(super) fn new(image: &'a Image<'a>, members: Members) -> Result<Self, AbiError> {
        let mut deriver = Self {
            image,
            members,
            analyses: RefCell::default(),
            prefix: Vec::new(),
        };
        let page_size = deriver
            .accessor("page_size")
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Buffer::page_size() const".into()],
            })?;
        let path = page_size.returned().map(|evidence| evidence.path);
        let Some(path) = path.filter(|path| path.derefs.len() <= 1) else {
            return Err(AbiError::Underivable {
                field: "page_size",
                reason: "Buffer::page_size() doesn't just return it".into(),
                code: listing::function(&page_size.function),
            });
        };
        deriver.prefix = path.derefs;
        Ok(deriver)
    }

    /// Interprets a member function of the object to which `prefix` leads from a `Buffer`.
    pub(super) fn interpret(&self, function: Function<'a>, prefix: Vec<i64>) -> Method<'a> {
        let analysis = Rc::clone(
            self.analyses
                .borrow_mut()
                .entry(function.address)
                .or_insert_with(|| Rc::new(Analysis::all_paths(self.image, &function))),
        );
        Method {
            function,
            analysis,
            this: this(),
            prefix,
        }
    }

    /// A member function that isn't overloaded, or a function of a namespace.
    pub(super) fn method(&self, class: &str, name: &str) -> Option<Method<'a>> {
        let function = names::methods(self.image, class, name).into_iter().next()?;
        Some(self.interpret(function, Vec::new()))
    }

    /// Like [`Self::method`], for a function that every library must have.
    ///
    /// # Errors
    /// When the library lacks it.
    pub(super) fn required(&self, class: &str, name: &str) -> Result<Method<'a>, AbiError> {
        self.method(class, name)
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![format!("tt::tt_metal::{class}::{name}()")],
            })
    }

    /// A member function of `Buffer`.
    pub(super) fn accessor(&self, name: &str) -> Option<Method<'a>> {
        self.method("Buffer", name)
    }

    /// A member function of `BufferImpl`, or of `Buffer` if the library doesn't have it in `BufferImpl`.
    pub(super) fn buffer_method(&self, name: &str) -> Option<Method<'a>> {
        match self.method("BufferImpl", name) {
            Some(method) => Some(Method {
                prefix: self.prefix.clone(),
                ..method
            }),
            None => self.accessor(name),
        }
    }

    /// The constructor of `BufferImpl`, or of `Buffer` where there is none, that takes a device.
    ///
    /// # Errors
    /// When the library has neither.
    pub(super) fn constructor(&self) -> Result<Method<'a>, AbiError> {
        if let Some(function) = names::device_constructor(self.image, "BufferImpl") {
            return Ok(self.interpret(function, self.prefix.clone()));
        }
        names::device_constructor(self.image, "Buffer")
            .map(|function| self.interpret(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Buffer::Buffer(IDevice*, …)".into()],
            })
    }

    /// The overload of `create` that makes a non-owning buffer. It takes an address, so three numbers
    /// follow the device.
    ///
    /// # Errors
    /// When the library has none.
    pub(super) fn create(&self) -> Result<Method<'a>, AbiError> {
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
            .map(|function| self.interpret(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![
                    "tt::tt_metal::Buffer::create(IDevice*, address, size, page_size, …)".into(),
                ],
            })
    }

    /// A member function of the allocator's class, which has different names in different releases.
    pub(super) fn allocator_method(&self, name: &str) -> Option<Method<'a>> {
        ALLOCATORS.iter().find_map(|class| self.method(class, name))
    }

    /// The functions by which a `shared_ptr` destroys a `Buffer` that `make_shared` created.
    pub(super) fn disposers(&self) -> Vec<Method<'a>> {
        self.image
            .functions_beginning("_ZNSt23_Sp_counted_ptr_inplaceIN2tt8tt_metal6BufferE")
            .into_iter()
            .filter(|function| function.symbol.ends_with("10_M_disposeEv"))
            .map(|function| self.interpret(function, Vec::new()))
            .collect()
    }

    /// `Buffer::~Buffer()`.
    pub(super) fn destructor(&self) -> Option<Method<'a>> {
        names::destructor(self.image, "Buffer").map(|function| self.interpret(function, Vec::new()))
    }
}

/// Addresses of functions whose compilation units contain the complete definitions of their classes.
pub(super) fn compiled_with_classes(image: &Image<'_>) -> Vec<u64> {
    let methods = [
        ("Buffer", "page_size"),
        ("BufferImpl", "allocate_impl"),
        ("Device", "id"),
        ("Device", "num_dram_channels"),
        ("distributed::MeshDevice", "id"),
        ("distributed::MeshDeviceImpl", "id"),
    ];
    methods
        .iter()
        .flat_map(|(class, name)| names::methods(image, class, name))
        .map(|function| function.address)
        .collect()
}
