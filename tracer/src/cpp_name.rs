//! Demangled C++ names, shortened to what they name.

/// The name alone of a demangled function: without its return type, parameters, template arguments,
/// and what is local to it. `void tt::f<int>(int)::{lambda()#1}::operator()() const` becomes `tt::f`.
pub fn qualified(demangled: &str) -> String {
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
            // Behind the return type, or before a `[clone …]`.
            ' ' if rest.starts_with('[') => break,
            ' ' if !name.ends_with("operator") => name.clear(),
            _ => name.push(c),
        }
    }
    name
}

/// Whether the last part of a name is an operator that may go on with a bracket.
fn ends_in_operator(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    last.strip_prefix("operator").is_some_and(|symbol| {
        symbol.len() < 2 && !symbol.starts_with(|c: char| c.is_alphanumeric())
    })
}

/// Whether a qualified name ends in another one: `tt::Buffer::view` in `Buffer::view`, and not in
/// `fer::view`.
pub fn ends_in(qualified: &str, end: &str) -> bool {
    qualified
        .strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_stands_before_the_parameters() {
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
    fn a_name_ends_in_whole_parts_of_it() {
        assert!(ends_in("tt::tt_metal::Buffer::view", "Buffer::view"));
        assert!(ends_in("Buffer::view", "Buffer::view"));
        assert!(!ends_in("tt::MeshBuffer::view", "Buffer::view"));
    }
}
