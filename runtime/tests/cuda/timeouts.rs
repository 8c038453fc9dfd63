//! Kernels that fail, and kernels that never end.

use std::time::{Duration, Instant};

use mcc_runtime::{
    Device, DeviceError, DeviceKind, DeviceOptions, LaunchDims, StreamId, open_device,
};

use crate::fake::Driver;
use crate::open;
use crate::work::{ADD, add, image, launch};

/// A kernel that stores the two words of one that gave up, and traps.
const GIVE_UP: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .global .align 8 .u64 mcc_status;
.visible .entry give_up()
{
    .reg .pred %p<2>; .reg .b64 %rd<5>;
    ld.global.u64 %rd1, [mcc_status];
    setp.eq.u64 %p1, %rd1, 0;
    @%p1 bra STOP;
    mov.u64 %rd2, 0x4D43000100000007;
    mov.u64 %rd3, 0x0000000100000080;
    st.global.u64 [%rd1], %rd2;
    st.global.u64 [%rd1+8], %rd3;
STOP:
    trap;
    ret;
}
";

fn plain() -> LaunchDims {
    LaunchDims {
        grid: [1, 1, 1],
        block: 32,
        cluster: [1, 1, 1],
        smem_bytes: 0,
        programmatic: false,
    }
}

#[test]
fn a_kernel_that_gives_up_says_so() {
    Driver::default().run("timeouts::a_kernel_that_gives_up_says_so", |fake| {
        let mut device = open().expect("opens");
        let function = device
            .load_module(&image("give_up", GIVE_UP))
            .expect("loads");
        let shape = (plain(), Vec::new());
        let launched = device.launch(StreamId::MAIN, &launch(function, &shape, "the step"));
        launched.expect("its failure shows later");
        let err = device.synchronize().expect_err("trap");
        let text = err.to_string();
        assert!(matches!(err, DeviceError::Launch { .. }), "{text}");
        for part in [
            "give_up",
            "the step",
            "block 7",
            "thread 128",
            "full barrier",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        lost(&mut *device);
        drop(device);
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));
    });
}

fn lost(device: &mut dyn Device) {
    assert!(matches!(device.memory(), Err(DeviceError::Lost { .. })));
    assert!(matches!(
        device.alloc(16, "more"),
        Err(DeviceError::Lost { .. })
    ));
    assert!(matches!(
        device.synchronize(),
        Err(DeviceError::Lost { .. })
    ));
}

#[test]
fn a_kernel_that_never_ends_is_given_up() {
    let driver = Driver {
        settings: "hang=2",
        ..Driver::default()
    };
    driver.run("timeouts::a_kernel_that_never_ends_is_given_up", |fake| {
        let options = DeviceOptions {
            timeout: Duration::from_millis(200),
            ..DeviceOptions::default()
        };
        let mut device = open_device(DeviceKind::Cuda(0), &options).expect("opens");
        let function = device.load_module(&image("add", ADD)).expect("loads");
        let at = device.alloc(64, "a").expect("fits");
        let shape = add(at, at, 16, 1);
        for label in ["ends", "hangs"] {
            let launched = device.launch(StreamId::MAIN, &launch(function, &shape, label));
            launched.expect("launched");
        }
        let start = Instant::now();
        let err = device.synchronize().expect_err("never ends");
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "far beyond the limit"
        );
        let text = err.to_string();
        assert!(matches!(err, DeviceError::Timeout { .. }), "{text}");
        assert!(text.contains("hangs") && text.contains("add"), "{text}");
        lost(&mut *device);
        drop(device);
        // Nothing waited for what never ends, and nothing was taken from under it.
        assert_eq!(fake.complaints(), Vec::<String>::new());
        assert!(
            !fake
                .calls()
                .iter()
                .any(|call| call.ends_with("Synchronize"))
        );
    });
}
