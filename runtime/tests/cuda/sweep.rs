//! Every call of the driver fails in turn: errors are typed, nothing leaks, and a retry works unless the device is
//! lost.

use mcc_runtime::DeviceError;

use crate::fake::{Driver, Fake};
use crate::open;
use crate::work::work;

/// More than the small staging block, so that the ring is used.
const LARGE: usize = 300 << 10;

/// What the attempt with a failure gave, and what the same device gave when asked again.
type Attempt = (
    Result<Vec<Vec<u8>>, DeviceError>,
    Option<Result<Vec<Vec<u8>>, DeviceError>>,
);

fn attempt() -> Attempt {
    let mut device = match open() {
        Ok(device) => device,
        Err(err) => return (Err(err), None),
    };
    let first = work(&mut *device, LARGE);
    let again = first.is_err().then(|| work(&mut *device, LARGE));
    (first, again)
}

/// Calls that give something back: their failure has nobody to tell.
fn releases(call: &str) -> bool {
    let word = |w| call.contains(w);
    ["Destroy", "Free", "Release", "Unload", "Unmap"]
        .into_iter()
        .any(word)
}

fn sweep(test: &str, codes: &[u32], sticky: bool) {
    // Nothing depends on fresh memory here, and zeros are cheaper; kernels are too small for threads.
    let driver = Driver {
        settings: "poison=off,threads=1",
        ..Driver::default()
    };
    driver.run(test, |fake| {
        let expected = attempt().0.expect("runs");
        // The driver's functions are looked up once a process: the second time is like all that follow.
        fake.reset();
        let mut device = open().expect("opens");
        let again = work(&mut *device, LARGE).expect("runs");
        assert!(again == expected);
        let working = fake.calls().len();
        drop(device);
        let calls = fake.calls();
        assert!(working > 100, "{calls:?}");
        for &code in codes {
            for (n, call) in calls.iter().enumerate() {
                // Of polling, the first two are enough.
                let before = &calls[n.saturating_sub(2)..n];
                let polls = call == "cuStreamQuery" && before.iter().all(|b| b == call);
                if !polls {
                    let failure = Failure {
                        nth: n as u64 + 1,
                        call,
                        code,
                        sticky,
                        silent: n >= working || releases(call),
                    };
                    one(fake, &failure, &expected);
                }
            }
        }
    });
}

/// One call that fails.
struct Failure<'a> {
    nth: u64,
    call: &'a str,
    code: u32,
    /// Whether the process is lost with it.
    sticky: bool,
    /// Whether there is nobody to tell: the device is being dropped, or only gives something back.
    silent: bool,
}

fn one(fake: &Fake, failure: &Failure<'_>, expected: &[Vec<u8>]) {
    let Failure {
        nth,
        call,
        code,
        sticky,
        silent,
    } = *failure;
    let at = format!("call {nth}, {call}, failing with {code}");
    fake.reset();
    fake.fail(nth, code);
    let (first, again) = attempt();
    assert_eq!(fake.fail_none(), 0, "{at}: it was not made");
    match &first {
        Ok(got) => {
            assert!(got == expected, "{at}: wrong results");
            assert!(silent, "{at}: nobody was told");
        }
        Err(err) => named(err, call, code, &at),
    }
    if let Some(again) = again {
        match again {
            Ok(got) => assert!(got == expected && !sticky, "{at}: the same device again"),
            Err(DeviceError::Lost { by }) => assert!(sticky && !by.is_empty(), "{at}: {by}"),
            Err(err) => panic!("{at}: the same device again: {err}"),
        }
    }
    let kinds = [
        "context",
        "memory",
        "pinned",
        "reservation",
        "physical",
        "mapping",
        "module",
        "stream",
        "event",
        "capture",
        "graph",
        "graph_exec",
    ];
    for kind in kinds {
        assert_eq!(fake.live(kind), 0, "{at}: {kind} left");
    }
    assert_eq!(fake.complaints(), Vec::<String>::new(), "{at}");
    // A device that is opened now works, unless the process is lost.
    let (fresh, _) = attempt();
    match fresh {
        Ok(got) => assert!(got == expected && !sticky, "{at}: another device"),
        Err(_) if sticky => {}
        Err(err) => panic!("{at}: another device: {err}"),
    }
}

/// The error says which call failed and what is to be done, or is one of those that say more.
fn named(err: &DeviceError, call: &str, code: u32, at: &str) {
    let text = err.to_string();
    match err {
        DeviceError::Driver {
            call: named,
            code: c,
            ..
        } => {
            assert_eq!((*named, *c), (call, code), "{at}: {text}");
        }
        DeviceError::OutOfMemory { total, .. } => {
            assert!(
                code == 2 && *total > 0 && text.contains(call),
                "{at}: {text}"
            );
        }
        DeviceError::Launch { .. } | DeviceError::Module { .. } => {
            assert!(text.contains(call), "{at}: {text}");
        }
        DeviceError::TensorMap(_) => assert_eq!(call, "cuTensorMapEncodeTiled", "{at}: {text}"),
        DeviceError::Lost { by } => assert!(by.contains(call), "{at}: {text}"),
        other => panic!("{at}: {other}"),
    }
}

#[test]
fn failures_that_pass() {
    // Out of memory, and a number that this driver has no name for.
    sweep("sweep::failures_that_pass", &[2, 12345], false);
}

#[test]
fn failures_that_stay() {
    // An uncorrectable error of the memory, and a launch failure.
    sweep("sweep::failures_that_stay", &[214, 719], true);
}
