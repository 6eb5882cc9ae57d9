//! The results of several test programs, summed up.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::sh;

/// The results of several test programs, summed up.
#[derive(Default)]
pub(crate) struct Totals {
    pub passed: u64,
    pub failed: u64,
    ignored: u64,
    pub failures: Vec<String>,
}

impl Totals {
    /// Runs a test program, copies its output to `to`, and counts its results.
    pub(crate) fn run(&mut self, command: &mut Command, mut to: impl io::Write) -> Result<()> {
        let shown = sh::show(command);
        let (reader, writer) = io::pipe().context("make a pipe")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("can't start `{shown}`"))?;
        // The command still holds the writing ends of the pipe: close them, or reading never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let failed_before = self.failed;
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.with_context(|| format!("output of `{shown}`"))?;
            to.write_all(&line)?;
            to.write_all(b"\n")?;
            to.flush()?;
            self.read(&String::from_utf8_lossy(&line));
        }
        let status = child
            .wait()
            .with_context(|| format!("wait for `{shown}`"))?;
        // A test program that was killed prints no result.
        if !status.success() && self.failed == failed_before {
            self.failed += 1;
            self.failures.push(format!("`{shown}` ended with {status}"));
        }
        Ok(())
    }

    fn read(&mut self, line: &str) {
        let line = without_colours(line);
        if let Some((_, counts)) = line.split_once("test result: ") {
            // ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
            for (word, total) in [
                (" passed", &mut self.passed),
                (" failed", &mut self.failed),
                (" ignored", &mut self.ignored),
            ] {
                *total += counts
                    .split_once(word)
                    .and_then(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            // libtest-mimic pads names to a column.
            self.failures.push(name.trim_end().to_owned());
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
            failures: _,
        } = self;
        write!(f, "{passed} passed, {failed} failed")?;
        if *ignored > 0 {
            write!(f, ", {ignored} skipped")?;
        }
        Ok(())
    }
}

/// The line without terminal escapes: `ESC [ … letter` and `ESC ( B`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => {
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
            Some('(') => {
                chars.next();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn results_are_summed_up() {
        let mut totals = Totals::default();
        totals.read("test a::b ... ok");
        totals.read("test a::c   ... \x1b[31mFAILED\x1b(B\x1b[m");
        totals.read(
            "test result: FAILED. 41 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!(totals.to_string(), "41 passed, 1 failed");
        totals.read(
            "test result: \x1b[32mok\x1b(B\x1b[m. 5 passed; 0 failed; 2 ignored; 0 measured; \
             0 filtered out; finished in 0.00s",
        );
        assert_eq!(totals.to_string(), "46 passed, 1 failed, 2 skipped");
        assert_eq!(totals.failures, ["a::c"]);
    }
}
