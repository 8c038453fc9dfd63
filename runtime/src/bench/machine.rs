//! What a device can do at most, measured: copies, products, launches.
//!
//! In: a device. Out: a [`Machine`]. Where the device has no clock, the figures of the data sheet, marked so.

use std::time::{Duration, Instant};

use mcc_bundle::Hardware;

use super::probes::{self, Matrix};
use super::report::{Kind, Machine};
use crate::device::{Device, FunctionId, Launch, LaunchDims, ModuleImage, SequenceKey, StreamId};
use crate::error::{DeviceError, RuntimeError};

/// Far above any L2, so that a copy is one of device memory.
const COPY_BYTES: u64 = 1 << 30;
/// Of each probe; the first half warms up and is left out.
const REPETITIONS: usize = 40;
/// One product takes about a millisecond: longer than the clock's grain by far.
const ROUNDS: u32 = 500;
/// Launches in a row.
const LAUNCHES: usize = 500;
/// Launches of a sequence.
const SEQUENCE: usize = 50;

/// The data sheet's figures, for a device without a clock.
pub fn nominal(hardware: &Hardware) -> Machine {
    Machine {
        kind: Kind::Prediction,
        copy_bytes_per_s: hardware.hbm_bytes_per_s as f64,
        fp8_flops: hardware.fp8_flops as f64,
        bf16_flops: hardware.bf16_flops as f64,
        launch_s: hardware.launch_ns as f64 * 1e-9,
        sequence_launch_s: None,
        round_trip_s: None,
    }
}

/// Measures a device that has a clock. Leaves no memory behind.
///
/// # Errors
/// When the device fails, or has less than 2 GiB of memory free.
pub fn measure(device: &mut dyn Device) -> Result<Machine, RuntimeError> {
    device.set_timing(true)?;
    let copy_bytes_per_s = copy(device)?;
    let fp8_flops = product(device, Matrix::Fp8)?;
    let bf16_flops = product(device, Matrix::Bf16)?;
    device.set_timing(false)?;
    let launches = launches(device)?;
    Ok(Machine {
        kind: Kind::Measured,
        copy_bytes_per_s,
        fp8_flops,
        bf16_flops,
        launch_s: launches.one_by_one,
        sequence_launch_s: Some(launches.in_sequence),
        round_trip_s: Some(launches.round_trip),
    })
}

/// A kernel of this module, loaded.
fn load(device: &mut dyn Device, kernel: &str, ptx: &str) -> Result<FunctionId, DeviceError> {
    device.load_module(&ModuleImage {
        kernel,
        ptx,
        cubin: None,
    })
}

fn dims(grid: u32, block: u32, smem_bytes: u32) -> LaunchDims {
    LaunchDims {
        grid: [grid, 1, 1],
        block,
        cluster: [1, 1, 1],
        smem_bytes,
        programmatic: false,
    }
}

/// Median device time of a launch, the first half of the repetitions left out.
fn median_of(device: &mut dyn Device, launch: &Launch<'_>) -> Result<f64, DeviceError> {
    device.take_timings()?;
    for _ in 0..REPETITIONS {
        device.launch(StreamId::MAIN, launch)?;
    }
    let times = device.take_timings()?;
    let late = times[times.len() / 2..].iter().map(|time| time.duration);
    Ok(median(late.collect()))
}

/// Of these times, in seconds; 0 of none.
pub(super) fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
}

/// A rate; 0 where no time passed.
fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// The better of a copy kernel and of the driver's own copy, in bytes read and written a second.
fn copy(device: &mut dyn Device) -> Result<f64, RuntimeError> {
    let (from, to) = (
        device.alloc(COPY_BYTES, "the copy probe's source")?,
        device.alloc(COPY_BYTES, "the copy probe's target")?,
    );
    device.fill(from, 0x5a, COPY_BYTES)?;
    let function = load(device, probes::COPY, &probes::copy())?;
    // Two blocks of 512 threads with four loads of 16 bytes each: 64 KiB in flight on each SM.
    let grid = 2 * device.props().sms;
    let chunks = probes::copy_chunks(COPY_BYTES / 16, grid);
    let mut params = Vec::new();
    params.extend_from_slice(&from.to_le_bytes());
    params.extend_from_slice(&to.to_le_bytes());
    params.extend_from_slice(&u32::try_from(chunks).unwrap_or(u32::MAX).to_le_bytes());
    let launch = Launch {
        function,
        dims: dims(grid, probes::COPY_BLOCK, 0),
        params: &params,
        label: "copy probe",
    };
    let by_kernel = rate((2 * 16 * chunks) as f64, median_of(device, &launch)?);
    // A copy of the driver has no device time of its own; many in a row leave the host's share out.
    let copies = 20_u32;
    device.copy(from, to, COPY_BYTES)?;
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..copies {
        device.copy(from, to, COPY_BYTES)?;
    }
    device.synchronize()?;
    let seconds = start.elapsed().as_secs_f64() / f64::from(copies);
    let by_driver = rate(2.0 * COPY_BYTES as f64, seconds);
    device.free(to)?;
    device.free(from)?;
    Ok(by_kernel.max(by_driver))
}

/// Operations a second of products whose operands lie in shared memory.
fn product(device: &mut dyn Device, matrix: Matrix) -> Result<f64, RuntimeError> {
    let sms = device.props().sms;
    let bytes = u64::from(sms) * u64::from(probes::MATRIX_BLOCK) * 4;
    let out = device.alloc(bytes, "the product probe's sums")?;
    let function = load(device, probes::MATRIX, &probes::matrix(matrix))?;
    let params = product_params(out, ROUNDS);
    let launch = Launch {
        function,
        dims: dims(sms, probes::MATRIX_BLOCK, probes::MATRIX_SMEM),
        params: &params,
        label: "product probe",
    };
    let seconds = median_of(device, &launch)?;
    device.free(out)?;
    let flops = u64::from(sms) * u64::from(ROUNDS) * matrix.flops_per_round();
    Ok(rate(flops as f64, seconds))
}

fn product_params(out: u64, rounds: u32) -> Vec<u8> {
    let mut params = out.to_le_bytes().to_vec();
    params.extend_from_slice(&rounds.to_le_bytes());
    params
}

/// Host times of empty kernels, in seconds.
struct Launches {
    one_by_one: f64,
    in_sequence: f64,
    round_trip: f64,
}

fn launches(device: &mut dyn Device) -> Result<Launches, RuntimeError> {
    let function = load(device, probes::EMPTY, &probes::empty())?;
    let launch = Launch {
        function,
        dims: dims(1, 32, 0),
        params: &[],
        label: "empty probe",
    };
    let mut timed = |run: &mut dyn FnMut(&mut dyn Device) -> Result<(), RuntimeError>| {
        run(device)?;
        device.synchronize()?;
        let start = Instant::now();
        run(device)?;
        device.synchronize()?;
        Ok::<f64, RuntimeError>(start.elapsed().as_secs_f64())
    };
    let one_by_one = timed(&mut |device| {
        for _ in 0..LAUNCHES {
            device.launch(StreamId::MAIN, &launch)?;
        }
        Ok(())
    })?;
    let sequence = vec![launch; SEQUENCE];
    // A key that no model counts up to.
    let key = SequenceKey(u64::MAX);
    let rounds = LAUNCHES / SEQUENCE;
    let in_sequence = timed(&mut |device| {
        for _ in 0..rounds {
            device
                .launch_sequence(key, &sequence)
                .map_err(|err| err.source)?;
        }
        Ok(())
    })?;
    let round_trip = timed(&mut |device| {
        for _ in 0..LAUNCHES {
            device.launch(StreamId::MAIN, &launch)?;
            device.synchronize()?;
        }
        Ok(())
    })?;
    Ok(Launches {
        one_by_one: one_by_one / LAUNCHES as f64,
        in_sequence: in_sequence / (rounds * SEQUENCE) as f64,
        round_trip: round_trip / LAUNCHES as f64,
    })
}
