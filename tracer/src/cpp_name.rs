//! Demangled C++ names, shortened to what they name.

/// The qualified name of a demangled function, without return type, parameters, template arguments and
/// local entities. `void tt::f<int>(int)::{lambda()#1}::operator()() const` becomes `tt::f`.
pub(crate) fn qualified(demangled: &str) -> String {
    const ANONYMOUS: &str = "(anonymous namespace)";
    let mut name = String::new();
    let mut depth = 0_usize;
    let mut rest = demangled;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with(ANONYMOUS) {
            if depth == 0 {
                name.push_str(ANONYMOUS);
            }
            rest = &rest[ANONYMOUS.len()..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        let of_operator = depth == 0 && ends_in_operator(&name);
        match c {
            '<' | '>' | '(' | ')' | '-' | '[' | ']' if of_operator => name.push(c),
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            '(' => break,
            // A space ends the return type, or precedes a `[clone …]`.
            ' ' if rest.starts_with('[') => break,
            ' ' if !name.ends_with("operator") => name.clear(),
            _ => name.push(c),
        }
    }
    name
}

/// The qualified name of a mangled function, up to its first template arguments, which become `…`. For an
/// entity that is local to a function: that function's name. `None` if the name uses substitutions or is no
/// name of a function.
pub(crate) fn nested_name(mangled: &str) -> Option<String> {
    let mut rest = mangled.strip_prefix("_Z")?.trim_start_matches('Z');
    let is_nested = if let Some(nested) = rest.strip_prefix('N') {
        // The qualifiers of a member function: `const`, `volatile`, `&` and the like.
        rest = nested.trim_start_matches(['r', 'V', 'K', 'R', 'O']);
        true
    } else {
        false
    };
    let mut parts: Vec<String> = Vec::new();
    if let Some(behind) = rest.strip_prefix("St") {
        parts.push("std".to_owned());
        rest = behind;
    }
    loop {
        // `L` marks a name with internal linkage.
        let name = rest.strip_prefix('L').unwrap_or(rest);
        if let Some((part, behind)) = source_name(name) {
            parts.push(match part {
                part if part.starts_with("_GLOBAL__N_") => "(anonymous namespace)".to_owned(),
                part => part.to_owned(),
            });
            rest = behind;
            // ABI tags, such as `[abi:cxx11]`.
            while let Some((_, behind)) = rest.strip_prefix('B').and_then(source_name) {
                rest = behind;
            }
        } else if rest.starts_with('C') || rest.starts_with('D') {
            let class = parts.last()?;
            let is_destructor = rest.starts_with('D');
            parts.push(format!("{}{class}", if is_destructor { "~" } else { "" }));
            break;
        } else {
            break;
        }
        if !is_nested {
            break;
        }
    }
    if parts.is_empty() || parts == ["std"] {
        return None;
    }
    let arguments = if rest.starts_with('I') { "<…>" } else { "" };
    Some(parts.join("::") + arguments)
}

/// A source name, which follows its length, and the rest.
fn source_name(mangled: &str) -> Option<(&str, &str)> {
    let digits = mangled.bytes().take_while(u8::is_ascii_digit).count();
    let length = mangled[..digits].parse().ok()?;
    mangled[digits..].split_at_checked(length)
}

/// Whether the last part of a name is an operator whose symbol may continue with a bracket, `<`, `>` or `-`.
fn ends_in_operator(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    last.strip_prefix("operator").is_some_and(|symbol| {
        symbol.len() < 2 && !symbol.starts_with(|c: char| c.is_alphanumeric())
    })
}

/// Whether a qualified name ends in whole parts of another one: `tt::Buffer::view` ends in `Buffer::view`, but
/// not in `fer::view`.
pub(crate) fn ends_in(qualified: &str, end: &str) -> bool {
    qualified
        .strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_is_what_precedes_the_parameters() {
        for (demangled, name) in [
            ("main", "main"),
            (
                "tt::tt_metal::BufferImpl::view(tt::tt_metal::Buffer&, tt::tt_metal::BufferRegion const&)",
                "tt::tt_metal::BufferImpl::view",
            ),
            (
                "tt::tt_metal::(anonymous namespace)::view_device(ttnn::Tensor const&)",
                "tt::tt_metal::(anonymous namespace)::view_device",
            ),
            (
                "std::vector<int, std::allocator<int> >::push_back(int&&)",
                "std::vector::push_back",
            ),
            ("void tt::f<(tt::Kind)1>(int)", "tt::f"),
            (
                "tt::f(std::function<void (int)>)::{lambda()#1}::operator()() const",
                "tt::f",
            ),
            (
                "std::ostream& tt::operator<<(std::ostream&, int)",
                "tt::operator<<",
            ),
            (
                "tt::Less::operator()(int, int) const",
                "tt::Less::operator()",
            ),
            ("tt::Pointer::operator->() const", "tt::Pointer::operator->"),
            ("tt::f(int) [clone .cold]", "tt::f"),
            ("tt::f [clone .cold]", "tt::f"),
            ("", ""),
            (">>)(", ")"),
        ] {
            assert_eq!(qualified(demangled), name, "{demangled}");
        }
    }

    #[test]
    fn a_mangled_name_is_read_up_to_its_template_arguments() {
        for (mangled, name) in [
            // The first four are from ttnn 0.66.0 and 0.81.1.
            (
                "_ZN4ttnn16device_operation6detail6launchITkNS0_22DeviceOperationConceptENS_10operations9binary_ng\
                 23BinaryNgDeviceOperationEEENT_21tensor_return_value_tERKNS6_22operation_attributes_tE",
                "ttnn::device_operation::detail::launch<…>",
            ),
            (
                "_ZZN8nanobind6detail11func_createILb0ELb1EZZN4ttnn10decorators39resolve_composite_operation_ca",
                "nanobind::detail::func_create<…>",
            ),
            (
                "_ZZZN4ttnn10decorators39resolve_composite_operation_call_methodIZNS_10operations13data_movement6det",
                "ttnn::decorators::resolve_composite_operation_call_method<…>",
            ),
            (
                "_ZN4ttnn12_GLOBAL__N_111view_deviceITkNS",
                "ttnn::(anonymous namespace)::view_device<…>",
            ),
            ("_ZNK2tt6BufferC2EPNS_7IDeviceE", "tt::Buffer::Buffer"),
            ("_ZN2tt6BufferD0Ev", "tt::Buffer::~Buffer"),
            ("_ZN2ttL4nameB5cxx11EvITk", "tt::name"),
            ("_ZNSt6vectorITk", "std::vector<…>"),
            ("_Z4mainITk", "main<…>"),
        ] {
            assert_eq!(nested_name(mangled).as_deref(), Some(name), "{mangled}");
        }
        for unknown in [
            "main",
            "_Z",
            "_ZN",
            "_ZNSt",
            "_ZN9short",
            "_ZTV3foo",
            "_ZThn16_N2tt",
            "_ZNK1éE",
            "_ZNC",
        ] {
            assert_eq!(nested_name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_name_ends_in_whole_parts_of_it() {
        assert!(ends_in("tt::tt_metal::Buffer::view", "Buffer::view"));
        assert!(ends_in("Buffer::view", "Buffer::view"));
        assert!(!ends_in("tt::MeshBuffer::view", "Buffer::view"));
    }
}
