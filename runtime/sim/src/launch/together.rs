//! Launches: on one device, or on several at once.
//!
//! In: a kernel, its grid and its parameters for each device. Out: what each
//! launch did, or the first fault. All of them run in one schedule, so that
//! they may wait for each other.

use super::queues::{self, Ways};
use super::{Gpu, LaunchConfig, LaunchStats, Module};
use crate::error::SimError;

/// One kernel on one device, for [`launch_together`].
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    pub gpu: &'a Gpu,
    pub module: &'a Module,
    pub kernel: &'a str,
    pub config: LaunchConfig,
    pub params: &'a [u8],
}

/// Runs kernels on several devices at once, each to its end: they may wait for
/// each other, through memory of any device that is a [`Gpu::peer`] of theirs.
/// Host threads are those of the first device.
pub fn launch_together(launches: &[Launch<'_>]) -> Result<Vec<LaunchStats>, SimError> {
    let ways = Ways {
        lines: launches.iter().map(std::slice::from_ref).collect(),
        dies: vec![None; launches.len()],
        together: true,
        paced: false,
    };
    let mut all = Vec::new();
    let mut first: Option<queues::Ended> = None;
    for ended in queues::run(&ways)? {
        all.extend_from_slice(&ended.stats);
        let sooner = match (&first, &ended.failure) {
            (Some(f), Some(new)) => f.failure.as_ref().is_none_or(|old| new.job < old.job),
            (None, failed) => failed.is_some(),
            _ => false,
        };
        if sooner {
            first = Some(ended);
        }
    }
    match first.and_then(|f| f.failure) {
        Some(failure) => Err(failure.error),
        None => Ok(all),
    }
}
