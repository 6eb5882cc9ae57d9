//! Programs under test: how a test starts them, exchanges lines with them, signals them and waits for their end.

use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::DEADLINE;

/// A child of this test. Dropping it kills the child.
pub struct Process {
    shown: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    /// How many bytes of stdout [`Self::line`] has returned.
    read: usize,
}

/// The end of a [`Process`], and its output.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Process {
    /// Starts the command with pipes for stdin, stdout and stderr.
    pub fn spawn(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {shown}: {error}"));
        let stdout = Output::collect(child.stdout.take().expect("stdout is piped"));
        let stderr = Output::collect(child.stderr.take().expect("stderr is piped"));
        Self {
            shown,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            read: 0,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its stdin.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        let sent = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        if let Err(error) = sent {
            panic!(
                "{} takes no more lines ({error}): {}",
                self.shown,
                self.output_so_far()
            );
        }
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line of its stdout, without the line break.
    pub fn line(&mut self) -> String {
        let line = self.stdout.line_from(self.read);
        let Some(line) = line else {
            panic!(
                "{} printed no further line: {}",
                self.shown,
                self.output_so_far()
            );
        };
        self.read += line.len();
        let text = String::from_utf8(line).expect("UTF-8");
        text.trim_end_matches('\n').to_owned()
    }

    pub fn is_running(&mut self) -> bool {
        let ended = self.child.try_wait().expect("a child can be waited for");
        ended.is_none()
    }

    /// Sends the child a signal.
    pub fn signal(&mut self, signal: Signal) {
        // The child has not been waited for, so the kernel can't have given its pid to another process.
        assert!(
            self.is_running(),
            "{} ended: {}",
            self.shown,
            self.output_so_far()
        );
        let pid = i32::try_from(self.pid()).expect("a pid is an i32");
        let pid = Pid::from_raw(pid).expect("a pid is not 0");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Closes its stdin and waits for its end.
    pub fn finish(mut self) -> Finished {
        self.close_stdin();
        self.wait()
    }

    /// Waits for its end and leaves its stdin open.
    pub fn wait(&mut self) -> Finished {
        let mut status = None;
        wait_for(&format!("the end of {}", self.shown), || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        Finished {
            status: status.expect("waited for"),
            stdout: self.stdout.all(),
            stderr: String::from_utf8_lossy(&self.stderr.all()).into_owned(),
        }
    }

    /// Its stderr until now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    fn output_so_far(&self) -> String {
        let stdout = self.stdout.so_far();
        format!(
            "\n--- stdout\n{}\n--- stderr\n{}",
            String::from_utf8_lossy(&stdout),
            self.stderr()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the child has ended.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}: {}", self.shown, self.output_so_far());
        }
    }
}

impl Finished {
    /// Its exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics with its whole output unless it ended with that code.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.code(),
            Some(code),
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.text(),
            self.stderr
        );
        self
    }

    /// Its stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Waits until the condition holds. If it never does, the panic says that the test waited for `what`.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What has come through a pipe so far.
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut block = [0; 1 << 16];
            loop {
                let count = pipe.read(&mut block).unwrap_or(0);
                let mut state = writer.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.bytes.extend_from_slice(&block[..count]);
                state.ended = count == 0;
                writer.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        output
    }

    /// Waits until `find` returns something, or until the pipe ends or the deadline passes.
    fn wait<T>(&self, find: impl Fn(&OutputState) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.ended {
                return None;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn line_from(&self, start: usize) -> Option<Vec<u8>> {
        self.wait(|state| {
            let rest = &state.bytes[start..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            Some(rest[..=end].to_owned())
        })
    }

    /// Everything, to the pipe's end.
    fn all(&self) -> Vec<u8> {
        self.wait(|state| state.ended.then(|| state.bytes.clone()))
            .unwrap_or_else(|| self.so_far())
    }

    fn so_far(&self) -> Vec<u8> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes.clone()
    }
}
