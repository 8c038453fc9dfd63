//! The tensor-core and conversion probes through the CUDA device, under the fake driver: what a GPU host will run,
//! with the simulator behind the driver's functions.

#[path = "../../fake-driver/tests/support/mod.rs"]
mod fake;

use mcc_kit::vectors::{self, ConversionOptions, VectorOptions, conversions};
use mcc_runtime::{DeviceKind, DeviceOptions, open_device};

#[test]
fn probes_run_on_the_cuda_device() {
    fake::Driver::default().run("probes_run_on_the_cuda_device", |_| {
        let mut device =
            open_device(DeviceKind::Cuda(0), &DeviceOptions::default()).expect("a GPU");
        let before = device.memory().expect("alive").free;
        let options = VectorOptions {
            results: 1,
            ..VectorOptions::default()
        };
        let report = vectors::run(device.as_mut(), &options).expect("runs");
        assert!(report.passed(), "{report}");
        assert!(report.results > 100_000, "{report}");
        assert!(!report.driver.is_empty());
        let options = ConversionOptions {
            inputs: 1 << 12,
            ..ConversionOptions::default()
        };
        let report = conversions::run(device.as_mut(), &options).expect("runs");
        assert!(report.passed(), "{report}");
        device.synchronize().expect("alive");
        assert_eq!(
            device.memory().expect("alive").free,
            before,
            "memory is given back"
        );
    });
}
