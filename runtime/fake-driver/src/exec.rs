//! Runs what streams have queued.
//!
//! In: queues. Out: memory, changed, or a sticky error. Holds: a stream's work runs in its order; between streams
//! only event waits order anything, so everything else is left as long as nobody asks for it.

use std::time::Instant;

use mcc_sim::{FaultKind, SimError};

use crate::abi::{CUresult, Handle};
use crate::codes::{self, Answer};
use crate::launch::Launch;
use crate::state::Driver;
use crate::stream::{Source, Work};

/// What became of a stream that was to go on.
enum Step {
    /// A piece of work ran, here or in a stream that this one waits for.
    Ran,
    /// There is nothing to do.
    Idle,
    /// A kernel never ends.
    Hung,
}

/// Why work failed.
enum Failure {
    Code(CUresult, String),
    /// It never ends.
    Hang,
}

impl Driver {
    /// Lets a stream do one piece of work.
    pub fn advance(&mut self, handle: Handle) {
        self.step(handle);
    }

    /// Runs a stream until its queue is empty.
    pub fn finish(&mut self, handle: Handle) -> Answer {
        while self.streams.get(&handle).is_some_and(|s| !s.idle()) {
            if let Step::Hung = self.step(handle) {
                return Err(self.hang());
            }
        }
        self.sticky.map_or(Ok(()), Err)
    }

    /// Runs a stream until a point in it is reached.
    pub fn finish_point(&mut self, point: &crate::stream::Point) -> Answer {
        while self.sticky.is_none() && !point.is_reached() {
            match self.step(point.stream) {
                Step::Ran => {}
                Step::Hung => return Err(self.hang()),
                // The stream's work was dropped with its context.
                Step::Idle => break,
            }
        }
        self.sticky.map_or(Ok(()), Err)
    }

    /// A blocking call on hardware would not come back. Here it does, and the test sees that it was made.
    fn hang(&mut self) -> CUresult {
        self.complain("a call waits for a kernel that never ends".to_owned());
        self.fail(
            codes::LAUNCH_TIMEOUT,
            "a call waited for a kernel that never ends".to_owned(),
        );
        codes::LAUNCH_TIMEOUT
    }

    /// Runs all that can run, in the order of the streams.
    pub fn run_everything(&mut self) {
        let handles: Vec<Handle> = self.streams.keys().copied().collect();
        for handle in handles {
            while self.streams.get(&handle).is_some_and(|s| !s.idle()) {
                if !matches!(self.step(handle), Step::Ran) {
                    break;
                }
            }
        }
    }

    /// Runs one piece of work of any stream.
    pub fn run_something(&mut self) {
        let busy = |s: &crate::stream::Stream| !s.idle();
        let streams = self.streams.iter().filter(|(_, s)| busy(s));
        let handles: Vec<Handle> = streams.map(|(&handle, _)| handle).collect();
        if !handles.is_empty() {
            let pick = self.next_random() as usize % handles.len();
            self.step(handles[pick]);
        }
    }

    /// One piece of work of this stream, or of the one that it waits for.
    fn step(&mut self, handle: Handle) -> Step {
        let mut at = handle;
        // Longer chains than there are streams are circles.
        for _ in 0..=self.streams.len() {
            if self.sticky.is_some() {
                return Step::Idle;
            }
            let Some(stream) = self.streams.get_mut(&at) else {
                return Step::Idle;
            };
            if stream.hung {
                return Step::Hung;
            }
            match stream.queue.front() {
                None => return Step::Idle,
                Some(Work::Wait(point)) if !point.is_reached() => at = point.stream,
                Some(_) => {
                    let work = stream.queue.pop_front();
                    let result = work.map_or(Ok(()), |work| self.run(&work));
                    return self.settle(at, result);
                }
            }
        }
        Step::Hung
    }

    fn settle(&mut self, handle: Handle, result: Result<(), Failure>) -> Step {
        let step = match result {
            Ok(()) => Step::Ran,
            Err(Failure::Code(code, what)) => {
                self.fail(code, what);
                Step::Ran
            }
            Err(Failure::Hang) => {
                if let Some(stream) = self.streams.get_mut(&handle) {
                    stream.hung = true;
                }
                Step::Hung
            }
        };
        let done = |s: &crate::stream::Stream| s.destroyed && s.idle();
        if self.streams.get(&handle).is_some_and(done) {
            self.streams.remove(&handle);
        }
        step
    }

    fn run(&mut self, work: &Work) -> Result<(), Failure> {
        let gpu = self.gpu();
        let illegal = |err: SimError| Failure::Code(codes::ILLEGAL_ADDRESS, err.to_string());
        let freed = || {
            let what = "a copy uses pinned memory that was freed before it ran";
            Failure::Code(codes::ILLEGAL_ADDRESS, what.to_owned())
        };
        match work {
            Work::Upload { to, from, bytes } => match from {
                Source::Staged(data) => gpu.write(*to, data).map_err(illegal),
                Source::Pinned(host) => {
                    self.pinned_at(*host, *bytes).ok_or_else(freed)?;
                    // SAFETY: these bytes lie in a live pinned allocation.
                    let data = unsafe { std::slice::from_raw_parts(*host as *const u8, *bytes) };
                    gpu.write(*to, data).map_err(illegal)
                }
            },
            Work::Download { to, from, bytes } => {
                self.pinned_at(*to, *bytes).ok_or_else(freed)?;
                // SAFETY: as above; the program under test waits before it looks.
                let data = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) };
                gpu.read(*from, data).map_err(illegal)
            }
            Work::Copy { to, from, bytes } => {
                let mut data = vec![0; *bytes];
                gpu.read(*from, &mut data).map_err(illegal)?;
                gpu.write(*to, &data).map_err(illegal)
            }
            Work::Fill { to, byte, bytes } => gpu.fill(*to, *byte, *bytes as u64).map_err(illegal),
            Work::Kernel(launch) => self.run_kernel(launch),
            Work::Record(point) => {
                // Only the first time counts; a point is recorded once.
                let _ = point.reached.set(Instant::now());
                Ok(())
            }
            Work::Wait(_) => Ok(()),
        }
    }

    fn run_kernel(&mut self, launch: &Launch) -> Result<(), Failure> {
        self.kernels += 1;
        let nth = self.kernels;
        if self.settings.hang == Some(nth) {
            return Err(Failure::Hang);
        }
        if let Some(&(_, code)) = self.settings.faults.iter().find(|f| f.0 == nth) {
            let what = format!("kernel {nth}, `{}`, was made to fail", launch.kernel);
            return Err(Failure::Code(code, what));
        }
        if !self.modules.contains_key(&launch.module) {
            self.complain(format!(
                "the module of kernel `{}` was unloaded before the kernel ran",
                launch.kernel
            ));
        }
        let ran = self
            .gpu()
            .launch(&launch.code, &launch.kernel, &launch.config, &launch.params);
        match ran {
            Ok(_) => Ok(()),
            Err(err) => match code_of(&err) {
                Some(code) => Err(Failure::Code(code, err.to_string())),
                None => {
                    if self.settings.verbose {
                        eprintln!("fake driver: never ends: {err}");
                    }
                    self.fault = err.to_string();
                    Err(Failure::Hang)
                }
            },
        }
    }
}

/// What hardware would report; `None` when it would go on forever.
fn code_of(err: &SimError) -> Option<CUresult> {
    match err {
        SimError::Deadlock(_) => None,
        SimError::Fault(fault) => match fault.kind {
            FaultKind::InstructionLimit(_) => None,
            FaultKind::OutOfBounds { .. } => Some(codes::ILLEGAL_ADDRESS),
            FaultKind::Misaligned { .. } => Some(codes::MISALIGNED_ADDRESS),
            FaultKind::Illegal(_) | FaultKind::TensorMap(_) | FaultKind::Descriptor { .. } => {
                Some(codes::ILLEGAL_INSTRUCTION)
            }
            FaultKind::Trap | FaultKind::Divergent { .. } | FaultKind::Mbarrier { .. } => {
                Some(codes::LAUNCH_FAILED)
            }
            FaultKind::Exited { .. } => Some(codes::LAUNCH_FAILED),
            // Hardware would let these race; here that is to be seen.
            FaultKind::EarlyAccess { .. } | FaultKind::NoGridWait | FaultKind::Race(_) => {
                Some(codes::LAUNCH_FAILED)
            }
        },
        _ => Some(codes::LAUNCH_FAILED),
    }
}
