//! The simulated device against the definitions, and the judgement itself.

use mcc_runtime::{DeviceOptions, SimDevice};

use super::*;

#[test]
fn the_simulated_device_follows_the_definitions() {
    let mut device = SimDevice::new(&DeviceOptions::default());
    let options = ConversionOptions {
        inputs: 1 << 15,
        ..ConversionOptions::default()
    };
    let report = run(&mut device, &options).expect("the probe runs");
    assert!(report.passed(), "{report}");
    assert_eq!(report.instructions.len(), OPS.len());
    for i in &report.instructions {
        let expected = if i.exhaustive { 1 << 16 } else { 1 << 15 };
        assert_eq!(i.results, expected, "{}", i.instruction);
    }
    assert_eq!(
        device.memory().expect("alive").free,
        DeviceOptions::default().global_bytes
    );
}

#[test]
fn every_pattern_is_tried() {
    let mut seen = [vec![false; 1 << 16], vec![false; 1 << 16]];
    for i in 0..1 << 16 {
        let [x, _, _] = operands(Inputs::AllHalves, 1, 0, i, 1 << 16);
        seen[0][(x & 0xffff) as usize] = true;
        seen[1][(x >> 16) as usize] = true;
    }
    assert!(seen.iter().flatten().all(|&s| s));
    // With the default count every upper half of an FP32 operand is there.
    let total = ConversionOptions::default().inputs as usize;
    let mut upper = vec![false; 1 << 16];
    for i in 0..total / 2 {
        upper[(operands(Inputs::F32, 1, 0, i, total)[0] >> 16) as usize] = true;
    }
    assert!(upper.iter().all(|&s| s));
}

#[test]
fn wrong_results_are_counted_and_bounds_hold() {
    let exact = OPS
        .iter()
        .find(|op| op.name == "add.rn.f32")
        .expect("listed");
    let mut found = Found::default();
    let operands = [1f32.to_bits(), 2f32.to_bits(), 0];
    found.add(exact, operands, 3f32.to_bits(), 1);
    assert_eq!(found.mismatches, 0);
    found.add(exact, operands, 3f32.to_bits() + 1, 1);
    found.add(exact, operands, 3f32.to_bits() + 2, 1);
    assert_eq!((found.mismatches, found.first.len()), (2, 1));
    assert_eq!(found.first[0].model, "40400000");

    let ex2 = |x: f32, device: u32| judge(f64::exp2, true, Bound::Ulps(2), x.to_bits(), device);
    let one = 1f32.to_bits();
    assert!(ex2(0.0, one + 2).within && !ex2(0.0, one + 3).within);
    assert_eq!(ex2(0.0, one - 3).ulps, 3);
    assert!(!ex2(0.0, f32::NAN.to_bits()).within && ex2(f32::NAN, f32::NAN.to_bits()).within);
    // 2^-130 is flushed; a subnormal result is an error of many units.
    assert!(ex2(-130.0, 0).within && !ex2(-130.0, 1 << 19).within);
    // The least normal number may be flushed when it was rounded up to.
    assert!(ex2(-126.0 - 1e-5, 0).within);
    let rsqrt = |device: f32| {
        let value = |x: f64| 1.0 / x.sqrt();
        judge(
            value,
            false,
            Bound::Relative(-22.9),
            4f32.to_bits(),
            device.to_bits(),
        )
    };
    assert!(rsqrt(0.5).within && rsqrt(0.5 + f32::EPSILON / 2.0).within);
    assert!(!rsqrt(0.5 + f32::EPSILON).within && !rsqrt(f32::INFINITY).within);
}
