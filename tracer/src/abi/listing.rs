//! A function's code as readable text.

use iced_x86::{Decoder, DecoderOptions, Formatter as _, IntelFormatter};

use super::{image::Function, names};

/// How many instructions of a function are shown at most.
const MAX_LINES: usize = 60;

/// One instruction as text.
pub(crate) fn instruction(instruction: &iced_x86::Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_space_after_operand_separator(true);
    options.set_uppercase_hex(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// A function's code, one instruction per line, below the function's name and address.
pub(super) fn function(function: &Function<'_>) -> String {
    let decoder = Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE);
    let mut lines = vec![format!(
        "{} at {:#x}:",
        names::short(function.symbol),
        function.address
    )];
    for (i, decoded) in decoder.into_iter().enumerate() {
        if i == MAX_LINES {
            lines.push("    …".into());
            break;
        }
        lines.push(format!("    {:x}: {}", decoded.ip(), instruction(&decoded)));
    }
    lines.join("\n")
}
