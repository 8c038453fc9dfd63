//! Waiting with a limit: the driver's own waits have none.
//!
//! In: a question that the driver answers with "done" or "not yet". Out: whether it was done in time.
//! Holds: the answer of work that ends within [`SPIN`] is seen at once; later the thread sleeps between questions,
//! so that a long wait costs no core.

use std::thread;
use std::time::{Duration, Instant};

use super::failure::{Failure, NOT_READY};

/// How long to ask without a pause: a short decode step, whose time a sleep of 50 us and more (the timer slack of
/// Linux) would show in; longer ones do not see it.
const SPIN: Duration = Duration::from_millis(1);

/// Longest pause between questions.
const LONGEST_PAUSE: Duration = Duration::from_micros(50);

/// Asks until it is done or the time is over; whether it is done.
pub(super) fn wait(
    limit: Duration,
    mut done: impl FnMut() -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    if done()? {
        return Ok(true);
    }
    let start = Instant::now();
    let mut pause = Duration::from_micros(1);
    loop {
        let waited = start.elapsed();
        if waited < SPIN {
            core::hint::spin_loop();
        } else {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if done()? {
            return Ok(true);
        }
        if waited >= limit {
            return Ok(false);
        }
    }
}

/// The answer of `cuStreamQuery` or `cuEventQuery`.
pub(super) fn finished(answer: Result<(), Failure>) -> Result<bool, Failure> {
    match answer {
        Ok(()) => Ok(true),
        Err(failure) if failure.code == NOT_READY => Ok(false),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_costs_one_question() {
        let mut asked = 0;
        let done = wait(Duration::ZERO, || {
            asked += 1;
            Ok(true)
        });
        assert_eq!((done, asked), (Ok(true), 1));
    }

    #[test]
    fn what_is_never_done_ends() {
        let limit = Duration::from_millis(3);
        let start = Instant::now();
        assert_eq!(wait(limit, || Ok(false)), Ok(false));
        assert!(start.elapsed() >= limit);
    }

    #[test]
    fn a_failure_ends_the_wait() {
        let answer = |code| finished(super::super::failure::check("cuStreamQuery", code));
        assert_eq!(answer(0), Ok(true));
        assert_eq!(answer(NOT_READY), Ok(false));
        let failed = wait(Duration::from_secs(60), || answer(719));
        assert_eq!(failed.map_err(|failure| failure.code), Err(719));
    }
}
