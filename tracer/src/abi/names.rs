//! TT-Metal's classes and functions by name, and the parameters that a mangled name lists.

use cpp_demangle::Symbol;

use super::{
    image::{Function, Image},
    interpreter::{ARGUMENTS, Base, Value},
};

/// The class that owns device memory, in newer and older releases.
pub(super) const ALLOCATORS: [&str; 2] = ["AllocatorImpl", "Allocator"];

/// The class that knows an allocator's free addresses.
pub(super) const FREE_LIST: &str = "allocator::FreeListOpt";

/// The class of programs.
pub(super) const PROGRAM: &str = "detail::ProgramImpl";

/// The class of sets of cores.
pub(super) const CORE_RANGES: &str = "CoreRangeSet";

/// Namespace `tt::tt_metal`, mangled.
const NAMESPACE: &str = "2tt8tt_metal";

/// A class or namespace within `tt::tt_metal`, such as `detail::ProgramImpl`, mangled.
fn nested(class: &str) -> String {
    let parts = class
        .split("::")
        .map(|part| format!("{}{part}", part.len()));
    parts.collect()
}

/// All overloads of the member function `name` of a class of `tt::tt_metal`, or of the function `name` of a
/// namespace.
pub(super) fn methods<'a>(image: &Image<'a>, class: &str, name: &str) -> Vec<Function<'a>> {
    let class = nested(class);
    ["_ZN", "_ZNK"]
        .iter()
        .flat_map(|start| {
            image.functions_beginning(&format!("{start}{NAMESPACE}{class}{}{name}E", name.len()))
        })
        .collect()
}

/// The `const` member function `name` that takes no arguments.
pub(super) fn getter<'a>(image: &Image<'a>, class: &str, name: &str) -> Option<Function<'a>> {
    methods(image, class, name)
        .into_iter()
        .find(|function| function.symbol.starts_with("_ZNK") && function.symbol.ends_with("Ev"))
}

/// The constructor of a class that takes an `IDevice*` first.
pub(super) fn device_constructor<'a>(image: &Image<'a>, class: &str) -> Option<Function<'a>> {
    ["C1", "C2"].iter().find_map(|kind| {
        let prefix = format!("_ZN{NAMESPACE}{}{class}{kind}EPNS0_7IDeviceE", class.len());
        image.functions_beginning(&prefix).into_iter().next()
    })
}

/// The constructor of a class that takes a `CoreRangeSet` first.
pub(super) fn core_ranges_constructor<'a>(image: &Image<'a>, class: &str) -> Option<Function<'a>> {
    ["C1", "C2"].iter().find_map(|kind| {
        let prefix = format!(
            "_ZN{NAMESPACE}{}{class}{kind}ERKNS0_12CoreRangeSetE",
            class.len()
        );
        image.functions_beginning(&prefix).into_iter().next()
    })
}

/// Whether a mangled name is that of a constructor of a class.
pub(super) fn is_constructor(symbol: &str, class: &str) -> bool {
    ["C1", "C2"]
        .iter()
        .any(|kind| symbol.starts_with(&format!("_ZN{NAMESPACE}{}{class}{kind}E", class.len())))
}

/// The destructor of a class, the one that doesn't free the object.
pub(super) fn destructor<'a>(image: &Image<'a>, class: &str) -> Option<Function<'a>> {
    ["D1", "D2"]
        .iter()
        .find_map(|kind| image.function(&format!("_ZN{NAMESPACE}{}{kind}Ev", nested(class))))
}

/// Whether a mangled name is that of [`destructor`].
pub(super) fn is_destructor(symbol: &str, class: &str) -> bool {
    ["D1", "D2"]
        .iter()
        .any(|kind| symbol.starts_with(&format!("_ZN{NAMESPACE}{}{class}{kind}Ev", class.len())))
}

/// The vtable's symbol of a class of `tt::tt_metal`.
pub(super) fn vtable(class: &str) -> String {
    format!("_ZTVN{NAMESPACE}{}E", nested(class))
}

/// Whether a mangled name is that of a member function of one of the classes.
pub(super) fn is_method(symbol: &str, classes: &[&str], name: &str) -> bool {
    classes.iter().any(|class| {
        ["_ZN", "_ZNK"].iter().any(|start| {
            let prefix = format!("{start}{NAMESPACE}{}{}{name}", nested(class), name.len());
            // An ABI tag may follow the name, as with functions that return a `std::string`.
            let rest = symbol.strip_prefix(&prefix);
            rest.is_some_and(|rest| rest.starts_with('E') || rest.starts_with('B'))
        })
    })
}

/// A mangled name in readable form, without TT-Metal's namespaces and without parameters:
/// `Buffer::size`.
pub(super) fn short(symbol: &str) -> String {
    let full = full(symbol);
    let name = full.split('(').next().unwrap_or(&full);
    name.replace("tt::tt_metal::", "")
        .replace("distributed::", "")
        .replace("allocator::", "")
}

fn full(symbol: &str) -> String {
    Symbol::new(symbol)
        .ok()
        .and_then(|name| name.demangle().ok())
        .unwrap_or_else(|| symbol.to_owned())
}

/// The types of a function's parameters, from its mangled name.
pub(super) fn parameters(symbol: &str) -> Vec<String> {
    let full = full(symbol);
    let Some(list) = full
        .find('(')
        .and_then(|open| full.get(open + 1..full.rfind(')')?))
    else {
        return Vec::new();
    };
    let mut parameters = Vec::new();
    let mut depth = 0;
    let mut current = String::new();
    for character in list.chars() {
        match character {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parameters.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(character);
    }
    if !current.trim().is_empty() {
        parameters.push(current.trim().to_owned());
    }
    parameters
}

/// The value of a function's argument number `slot` at its entry; `this` and a hidden result pointer
/// count. That is right if each parameter takes one integer register or eight bytes of stack (System V
/// ABI: pointers, references, integers, enums, and objects of up to eight bytes or passed by reference).
/// All parameters of `Buffer`'s constructors do.
pub(super) fn argument(slot: usize) -> Value {
    match ARGUMENTS.get(slot) {
        Some(register) => Value::argument(*register),
        None => Value::symbolic(Base::StackArgument(8 + 8 * (slot - ARGUMENTS.len()) as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ttnn 0.77.0.
    const CONSTRUCTOR: &str = "_ZN2tt8tt_metal6BufferC1EPNS0_7IDeviceEmmNS0_10BufferTypeERKNS0_18BufferShardingArgsESt8optionalIbES8_IN4ttsl10StrongTypeIhNS0_14SubDeviceIdTagEEEEbNS1_7PrivateE";

    #[test]
    fn parameters_are_split_at_top_level_commas_only() {
        assert_eq!(
            parameters(CONSTRUCTOR),
            [
                "tt::tt_metal::IDevice*",
                "unsigned long",
                "unsigned long",
                "tt::tt_metal::BufferType",
                "tt::tt_metal::BufferShardingArgs const&",
                "std::optional<bool>",
                "std::optional<ttsl::StrongType<unsigned char, tt::tt_metal::SubDeviceIdTag> >",
                "bool",
                "tt::tt_metal::Buffer::Private",
            ]
        );
        assert_eq!(
            parameters("_ZNK2tt8tt_metal6Buffer4sizeEv"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_seventh_argument_lies_behind_the_return_address() {
        assert_eq!(argument(0), Value::argument(tracer_common::register::RDI));
        assert_eq!(argument(5), Value::argument(tracer_common::register::R9));
        assert_eq!(argument(6), Value::symbolic(Base::StackArgument(8)));
        assert_eq!(argument(8), Value::symbolic(Base::StackArgument(24)));
    }

    #[test]
    fn names_are_short_and_readable() {
        assert_eq!(
            short("_ZNK2tt8tt_metal11distributed10MeshDevice2idEv"),
            "MeshDevice::id"
        );
        assert_eq!(short("not_mangled"), "not_mangled");
    }
}
