//! Where results may be written, and what is left when they can't be.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::{TempDir, tempdir};

use super::*;

/// Longer than what a writer buffers.
fn content() -> String {
    "{\"schema_version\": 1}\n".repeat(4096)
}

fn write(path: &Path) -> Result<(), WriteError> {
    write_whole(path, |writer| writer.write_all(content().as_bytes()))
}

fn directory() -> TempDir {
    tempdir().expect("a temporary directory")
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("readable")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

/// The error of the check, which the write repeats.
fn refused(path: &Path) -> WriteError {
    let before = check_writable(path).expect_err("refused before the trace");
    let after = write(path).expect_err("refused after it");
    assert_eq!(before.to_string(), after.to_string());
    before
}

#[test]
fn a_new_file_is_whole_and_readable_by_others() {
    let directory = directory();
    let path = directory.path().join("out.json");
    check_writable(&path).expect("writable");
    assert_eq!(
        names(directory.path()),
        [] as [&str; 0],
        "the check leaves nothing"
    );

    write(&path).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), content());
    // The mode of a plain file that this process creates with 0644, whatever the umask.
    let plain = directory.path().join("plain");
    fs::write(&plain, "").expect("written");
    assert_eq!(mode(&path), mode(&plain) & 0o644);
    assert_eq!(names(directory.path()), ["out.json", "plain"]);
}

#[test]
fn an_existing_file_is_replaced_and_keeps_its_mode() {
    let directory = directory();
    let path = directory.path().join("out.json");
    fs::write(&path, "old").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
    check_writable(&path).expect("writable");
    assert_eq!(
        fs::read_to_string(&path).expect("there"),
        "old",
        "the check changes nothing"
    );

    write(&path).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), content());
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn a_write_that_fails_leaves_the_existing_file_and_nothing_else() {
    let directory = directory();
    let path = directory.path().join("out.json");
    fs::write(&path, "old").expect("written");
    let error = write_whole(&path, |writer| {
        writer.write_all(content().as_bytes())?;
        Err(io::ErrorKind::StorageFull.into())
    });
    let error = error.expect_err("it failed");
    assert!(matches!(error, WriteError::NoSpace { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("there"), "old");
    assert_eq!(names(directory.path()), ["out.json"]);
}

#[test]
fn a_missing_directory_is_named() {
    let directory = directory();
    let missing = directory.path().join("no/such");
    let error = refused(&missing.join("out.json"));
    assert!(matches!(&error, WriteError::NoDirectory { directory, .. } if *directory == missing));
    assert!(error.to_string().contains("mkdir"), "{error}");
    let error = refused(&directory.path().join("new/"));
    assert!(matches!(error, WriteError::NoDirectory { .. }), "{error}");
}

#[test]
fn a_directory_is_refused_as_a_file() {
    let directory = directory();
    let error = refused(directory.path());
    assert!(matches!(error, WriteError::IsDirectory { .. }), "{error}");
    assert!(error.to_string().contains("summary.json"), "{error}");
    assert!(matches!(refused(Path::new("")), WriteError::Empty));
    assert!(matches!(
        refused(Path::new("..")),
        WriteError::IsDirectory { .. }
    ));
}

#[test]
fn a_file_is_refused_as_a_directory() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let error = refused(&file.join("out.json"));
    assert!(matches!(error, WriteError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_directory_that_even_root_cannot_write_is_refused() {
    let error = refused(Path::new("/proc/self/out.json"));
    let message = error.to_string();
    assert!(
        message.contains("/proc/self/out.json") && message.contains("choose"),
        "{message}"
    );
    let error = refused(Path::new("/sys/kernel/out.json"));
    assert!(
        matches!(
            error,
            WriteError::DirectoryNotWritable { .. } | WriteError::ReadOnly { .. }
        ),
        "{error}"
    );
}

#[test]
fn a_symbolic_link_is_written_through() {
    let directory = directory();
    fs::create_dir(directory.path().join("real")).expect("made");
    let link = directory.path().join("link.json");
    symlink("real/out.json", &link).expect("linked");
    // The target doesn't exist the first time, and does the second time.
    for _ in 0..2 {
        check_writable(&link).expect("writable");
        write(&link).expect("written");
        assert!(link.is_symlink());
        let real = directory.path().join("real/out.json");
        assert_eq!(fs::read_to_string(real).expect("there"), content());
    }
}

#[test]
fn a_loop_of_symbolic_links_is_refused() {
    let directory = directory();
    let link = directory.path().join("loop");
    symlink("loop", &link).expect("linked");
    assert!(matches!(refused(&link), WriteError::TooManyLinks { .. }));
}

#[test]
fn a_device_is_written_to_and_stays_a_device() {
    let null = Path::new("/dev/null");
    check_writable(null).expect("writable");
    write(null).expect("written");
    assert!(!fs::metadata(null).expect("there").is_file());
    let error = write(Path::new("/dev/full")).expect_err("full");
    assert!(matches!(error, WriteError::NoSpace { .. }), "{error}");
}

#[test]
fn a_fifo_is_written_to_and_the_check_does_not_wait_for_its_reader() {
    let directory = directory();
    let path = directory.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
    check_writable(&path).expect("writable");
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || fs::read_to_string(path).expect("read"))
    };
    write(&path).expect("written");
    assert_eq!(reader.join().expect("no panic"), content());
}

#[test]
fn an_open_file_of_our_own_is_written_to_and_not_replaced() {
    use std::os::fd::AsRawFd;
    let directory = directory();
    let path = directory.path().join("log");
    let mut file = File::create(&path).expect("made");
    file.write_all(b"before\n").expect("written");
    let own = format!("/dev/fd/{}", file.as_raw_fd());
    check_writable(Path::new(&own)).expect("writable");
    write(Path::new(&own)).expect("written");
    assert_eq!(
        fs::read_to_string(&path).expect("there"),
        format!("before\n{}", content())
    );
    check_writable(Path::new("/dev/stdout")).expect("writable");
}

#[test]
fn a_socket_is_refused() {
    let directory = directory();
    let path = directory.path().join("socket");
    let _listener = UnixListener::bind(&path).expect("bound");
    assert!(matches!(
        refused(&path),
        WriteError::NotAFile { what: "socket", .. }
    ));
}

#[test]
fn a_stream_whose_reader_is_gone_is_an_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write_stream(&mut Gone, |writer| writer.write_all(b"{}"));
    let WriteError::Stream { source } = error.expect_err("nobody reads") else {
        panic!("an error of the stream")
    };
    assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn lines_go_to_a_file_as_they_come() {
    let directory = directory();
    let path = directory.path().join("events.jsonl");
    fs::write(&path, "old").expect("written");
    let mut writer = open_lines(&path).expect("opened");
    writer.write_all(b"{}\n").expect("written");
    writer.flush().expect("flushed");
    assert_eq!(fs::read_to_string(&path).expect("there"), "{}\n");
    let error = open_lines(&directory.path().join("no/events"))
        .err()
        .expect("refused");
    assert!(matches!(error, WriteError::NoDirectory { .. }), "{error}");
}
