//! Where results may be written, and what is left when they cannot.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::{TempDir, tempdir};

use super::*;

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

fn json() -> String {
    let mut text = Vec::new();
    write_json_to(&mut text, &two_chips_summary()).expect("a Vec takes everything");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Both tell the same.
fn refused(path: &Path) -> WriteError {
    let before = check_writable(path).expect_err("refused before the trace");
    let after = write_json(path, &two_chips_summary()).expect_err("refused after it");
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

    write_json(&path, &two_chips_summary()).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), json());
    assert!(json().ends_with("}\n"));
    // As a plain file made with 0644 in this process gets, whatever the umask.
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let plain = directory.path().join("plain");
    fs::write(&plain, "").expect("written");
    assert_eq!(mode(&path), mode(&plain) & 0o644);
    assert_eq!(names(directory.path()), ["out.json", "plain"]);
}

#[test]
fn a_file_that_was_there_is_replaced_and_keeps_its_mode() {
    let directory = directory();
    let path = directory.path().join("out.json");
    fs::write(&path, "old").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
    check_writable(&path).expect("writable");
    assert_eq!(
        fs::read_to_string(&path).expect("there"),
        "old",
        "the check changes nothing"
    );

    write_json(&path, &two_chips_summary()).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), json());
    assert_eq!(
        fs::metadata(&path).expect("there").permissions().mode() & 0o777,
        0o640
    );
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
fn a_directory_is_no_file() {
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
fn a_file_is_no_directory() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let error = refused(&file.join("out.json"));
    assert!(matches!(error, WriteError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_place_that_nobody_can_write_is_refused() {
    // Even root makes no file here.
    let error = refused(Path::new("/proc/self/out.json"));
    let said = error.to_string();
    assert!(
        said.contains("/proc/self/out.json") && said.contains("choose"),
        "{said}"
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
    // Twice: to nothing yet, then to a file.
    for _ in 0..2 {
        check_writable(&link).expect("writable");
        write_json(&link, &two_chips_summary()).expect("written");
        assert!(link.is_symlink());
        let real = directory.path().join("real/out.json");
        assert_eq!(fs::read_to_string(real).expect("there"), json());
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
    write_json(null, &two_chips_summary()).expect("written");
    assert!(!fs::metadata(null).expect("there").is_file());
    let error = write_json(Path::new("/dev/full"), &two_chips_summary()).expect_err("full");
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
    write_json(&path, &two_chips_summary()).expect("written");
    assert_eq!(reader.join().expect("no panic"), json());
}

#[test]
fn an_open_file_of_our_own_is_written_to_and_not_replaced() {
    use std::os::fd::AsRawFd;
    let directory = directory();
    let path = directory.path().join("log");
    let mut file = fs::File::create(&path).expect("made");
    file.write_all(b"before\n").expect("written");
    let own = format!("/dev/fd/{}", file.as_raw_fd());
    check_writable(Path::new(&own)).expect("writable");
    write_json(Path::new(&own), &two_chips_summary()).expect("written");
    assert_eq!(
        fs::read_to_string(&path).expect("there"),
        format!("before\n{}", json())
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
fn a_reader_that_went_away_is_an_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write_json_to(&mut Gone, &two_chips_summary()).expect_err("nobody reads");
    let WriteError::Stream { source } = error else {
        panic!("{error}")
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
