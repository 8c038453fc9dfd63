//! A time-boxed run of a target over seeded inputs, for tests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::source::Random;

/// Longest time of one input. Debug builds on a busy machine need most of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `target` on inputs made from seeds, from `seed` on, for `time`; prints
/// how many there were. `describe` shows an input to a person.
///
/// # Panics
/// When an input panics or takes too long, with the seed and the input.
pub fn run(
    name: &str,
    seed: u64,
    time: Duration,
    make: impl Fn(&mut Random) -> Vec<u8> + Copy + Send + 'static,
    target: fn(&[u8]),
    describe: fn(&[u8]) -> String,
) {
    let (sender, receiver) = mpsc::channel();
    let worker = std::thread::Builder::new()
        .name(format!("fuzz {name}"))
        .stack_size(2 << 20)
        .spawn(move || {
            let start = Instant::now();
            let mut at = seed;
            while start.elapsed() < time {
                let input = make(&mut Random(at));
                // A message before and after: the watch knows what hangs.
                if sender.send((at, None)).is_err() {
                    return;
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
                let message = outcome.err().map(|p| {
                    let text = p
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                    text.unwrap_or_default()
                });
                if let Some(m) = message {
                    // The other end is there until this one is gone.
                    let _ = sender.send((at, Some(m)));
                    return;
                }
                at += 1;
            }
        });
    let Ok(worker) = worker else {
        panic!("no thread for {name}");
    };
    let show = |at: u64| describe(&make(&mut Random(at)));
    let mut last = seed;
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok((at, None)) => last = at,
            Ok((at, Some(message))) => {
                panic!("{name}, seed {at}: {message}\n{}", show(at));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!(
                    "{name}, seed {last}: no end after {PATIENCE:?}\n{}",
                    show(last)
                );
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(
        worker.join().is_ok(),
        "{name}: the worker died at seed {last}"
    );
    println!("{name}: {} inputs in {time:?}", last - seed + 1);
}
