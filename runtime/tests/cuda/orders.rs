//! The device computes what the simulated one does, in whatever order the streams run.

use crate::fake::Driver;
use crate::work::work;
use crate::{open, simulated};

/// Beyond a slot of the staging ring, so that slots are used again.
const LARGE: usize = 40 << 20;

fn compare(name: &str, order: &str, large: usize) {
    let driver = Driver {
        settings: order,
        ..Driver::default()
    };
    driver.run(name, |fake| {
        let expected = work(&mut *simulated(), large).expect("runs");
        let mut device = open().expect("opens");
        for _ in 0..2 {
            let got = work(&mut *device, large).expect("runs");
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(got == expected, "output {i} differs");
            }
        }
        assert!(fake.kernels() > 30);
        drop(device);
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));
    });
}

#[test]
fn late() {
    compare("orders::late", "order=late", LARGE);
}

#[test]
fn eager() {
    compare("orders::eager", "order=eager", LARGE);
}

#[test]
fn random() {
    let driver = Driver::default();
    driver.run("orders::random", |fake| {
        const LARGE: usize = 600 << 10;
        let expected = work(&mut *simulated(), LARGE).expect("runs");
        for seed in 0..20 {
            fake.reset();
            fake.set("order", &format!("random:{seed}"));
            let mut device = open().expect("opens");
            let got = work(&mut *device, LARGE).expect("runs");
            assert!(got == expected, "seed {seed}");
            drop(device);
            assert_eq!(
                (fake.live(""), fake.complaints()),
                (0, vec![]),
                "seed {seed}"
            );
        }
    });
}
