//! The CUDA device on the fake driver (`runtime/fake-driver`): the calls that it makes, without a GPU.
//!
//! Each test runs in a child process that finds the fake driver as `libcuda.so.1`. Results are compared with the
//! simulated device's bit for bit: both run the same simulator, so a difference is one of order or of addresses.

#[path = "../../fake-driver/tests/support/mod.rs"]
mod fake;
mod model;
mod open;
mod orders;
#[path = "../support/parts.rs"]
mod parts;
#[path = "../support/rows.rs"]
mod rows;
mod sweep;
mod timeouts;
mod work;

use mcc_runtime::{Device, DeviceError, DeviceKind, DeviceOptions, open_device};

fn open() -> Result<Box<dyn Device>, DeviceError> {
    open_device(DeviceKind::Cuda(0), &DeviceOptions::default())
}

fn simulated() -> Box<dyn Device> {
    open_device(DeviceKind::Sim, &DeviceOptions::default()).expect("always there")
}
