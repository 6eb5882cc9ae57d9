//! Records of processes, and records that no probe point sends.

use tracer_common::{POINT_EXEC, POINT_EXIT, POINT_FORK, POINT_LINKED};

use super::*;
use crate::ledger::Exit;

#[test]
fn control_records_are_distinguished() {
    let mut stream = Stream::new(0);
    let mut control = |point, value: u64| stream.decode(&record(point, 0, &value.to_le_bytes()));
    for (value, stopped) in [(0, false), (1, true)] {
        let pid = PID;
        assert_eq!(
            control(POINT_LINKED, value),
            Ok(Decoded::Linked { pid, stopped })
        );
        let Ok(Decoded::Executed {
            event,
            stopped: was,
        }) = control(POINT_EXEC, value)
        else {
            panic!("no execution")
        };
        assert_eq!(
            (event.pid, event.kind, was),
            (PID, EventKind::Exec, stopped)
        );
    }
    let mut life = |point, value| match control(point, value) {
        Ok(Decoded::Life(event)) => event.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(life(POINT_FORK, 77), EventKind::Fork { child: 77 });
    let code = EventKind::Exit(Some(Exit::Code(3)));
    assert_eq!(life(POINT_EXIT, 3 << 8), code);
    let killed = EventKind::Exit(Some(Exit::Signal(9)));
    assert_eq!(life(POINT_EXIT, 9), killed);
    // With a core dump (bit 7).
    let aborted = EventKind::Exit(Some(Exit::Signal(6)));
    assert_eq!(life(POINT_EXIT, 6 | 0x80), aborted);
    // The kernel side sends this if it can't read the code.
    assert_eq!(life(POINT_EXIT, u64::MAX), EventKind::Exit(None));
}

#[test]
fn records_of_another_shape_are_refused() {
    let mut stream = Stream::new(0);
    assert_eq!(stream.decode(&[0; 7]), Err(DecodeError::Length(7)));
    assert_eq!(
        stream.decode(&record(POINT_EXIT, 0, &[0; 3])),
        Err(DecodeError::Length(27))
    );
    assert_eq!(
        stream.decode(&record(17, 0, &[0; 128])),
        Err(DecodeError::Point(17))
    );
}
