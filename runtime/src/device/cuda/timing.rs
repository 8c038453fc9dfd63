//! Times of launches on the device's own clock.
//!
//! In: launches, while timing is on. Out: when each began and how long it ran.
//! Holds: an event before and one after each launch; events are used again. An event between two kernels keeps them
//! apart, so that timed kernels do not overlap.

use std::time::Duration;

use cudarc::driver::sys::{CUevent, CUstream};

use super::CudaDevice;
use super::failure::{Failure, call};
use super::handles::Owned;
use crate::device::DeviceTime;
use crate::error::DeviceError;

/// Events before and after a launch.
pub(super) struct Clock {
    before: Owned<CUevent>,
    after: Owned<CUevent>,
}

/// Timed launches that nobody has asked for yet.
#[derive(Default)]
pub(super) struct Timing {
    on: bool,
    launches: Vec<Clock>,
    spare: Vec<Clock>,
    /// The last launch whose time was told, and its start: later ones are counted from it, because the driver
    /// tells differences in single precision.
    last: Option<(Clock, f64)>,
}

impl Timing {
    pub const fn is_on(&self) -> bool {
        self.on
    }
}

impl CudaDevice {
    /// Marks the start of a launch, when it is to be timed.
    pub(super) fn start_clock(&mut self, stream: CUstream) -> Result<Option<Clock>, DeviceError> {
        if !self.timing.on {
            return Ok(None);
        }
        let clock = match self.timing.spare.pop() {
            Some(clock) => clock,
            None => self.new_clock().map_err(|failure| self.failed(failure))?,
        };
        if let Err(failure) = clock.before.record(stream) {
            self.timing.spare.push(clock);
            return Err(self.failed(failure));
        }
        Ok(Some(clock))
    }

    fn new_clock(&self) -> Result<Clock, Failure> {
        Ok(Clock {
            before: Owned::<CUevent>::create(&self.context, true)?,
            after: Owned::<CUevent>::create(&self.context, true)?,
        })
    }

    /// Marks the end of a launch.
    pub(super) fn stop_clock(
        &mut self,
        clock: Option<Clock>,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        let Some(clock) = clock else {
            return Ok(());
        };
        if let Err(failure) = clock.after.record(stream) {
            self.timing.spare.push(clock);
            return Err(self.failed(failure));
        }
        self.timing.launches.push(clock);
        Ok(())
    }

    /// A launch that was not made.
    pub(super) fn drop_clock(&mut self, clock: Option<Clock>) {
        self.timing.spare.extend(clock);
    }

    pub(super) fn switch_timing(&mut self, on: bool) {
        let timing = &mut self.timing;
        timing.on = on;
        timing.spare.append(&mut timing.launches);
        timing
            .spare
            .extend(timing.last.take().map(|(clock, _)| clock));
    }

    pub(super) fn timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError> {
        if !self.timing.on {
            return Ok(Vec::new());
        }
        self.drain()?;
        let mut times = Vec::with_capacity(self.timing.launches.len());
        let mut launches = core::mem::take(&mut self.timing.launches).into_iter();
        for clock in &mut launches {
            let told = self.tell(&clock);
            match told {
                Ok((start, duration)) => {
                    times.push(DeviceTime {
                        start: Duration::from_secs_f64(start.max(0.0)),
                        duration: Duration::from_secs_f64(duration.max(0.0)),
                    });
                    let before = self.timing.last.replace((clock, start));
                    self.timing.spare.extend(before.map(|(clock, _)| clock));
                }
                Err(failure) => {
                    // The others' times would have no start to be counted from.
                    self.timing.spare.push(clock);
                    self.timing.spare.extend(launches);
                    return Err(self.failed(failure));
                }
            }
        }
        Ok(times)
    }

    /// Start and duration of a launch that has ended, in seconds.
    fn tell(&self, clock: &Clock) -> Result<(f64, f64), Failure> {
        let start = match &self.timing.last {
            None => 0.0,
            Some((last, start)) => start + self.between(&last.before, &clock.before)?,
        };
        Ok((start, self.between(&clock.before, &clock.after)?))
    }

    fn between(&self, from: &Owned<CUevent>, to: &Owned<CUevent>) -> Result<f64, Failure> {
        let mut milliseconds = 0.0_f32;
        let api = self.context.api();
        // SAFETY: both events are live and were made with times; writes one number.
        unsafe {
            call!(
                api,
                cuEventElapsedTime(&raw mut milliseconds, from.raw(), to.raw())
            )
        }?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}
