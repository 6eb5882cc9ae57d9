//! Sizes in the format of the terminal.

/// A size of at least a KiB, such as `1.50 MiB`.
pub fn human_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = units
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0)
        .expect("a KiB or more");
    let hundredths = (bytes * 100 + (1 << (shift - 1))) >> shift;
    format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
}
