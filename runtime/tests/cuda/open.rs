//! Opening a device and loading kernels: drivers that are too old, GPUs that are not there or of another kind.

use mcc_runtime::{DeviceError, DeviceKind, DeviceOptions, ModuleImage, open_device};

use crate::fake::Driver;
use crate::open;
use crate::work::{ADD, image};

fn refused(test: &str, settings: &str, without: &[&str], check: impl Fn(&DeviceError) -> bool) {
    let driver = Driver { settings, without };
    driver.run(test, |fake| {
        let err = open().err().expect("refused");
        assert!(check(&err) && err.is_environment(), "{err:?}");
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));
    });
}

#[test]
fn a_driver_that_is_too_old() {
    let name = "open::a_driver_that_is_too_old";
    refused(name, "version=12020", &[], |err| {
        let versions = |found: &str, needed: &str| (found, needed) == ("12.2", "12.4");
        matches!(err, DeviceError::DriverTooOld { found, needed, .. } if versions(found, needed))
    });
}

#[test]
fn a_driver_that_lacks_a_function() {
    let name = "open::a_driver_that_lacks_a_function";
    let without = ["cuFuncGetParamInfo"];
    refused(name, "version=12020", &without, |err| {
        let named = |why: &str| why.contains("cuFuncGetParamInfo");
        matches!(err, DeviceError::DriverTooOld { found, why, .. } if found == "12.2" && named(why))
    });
}

#[test]
fn no_gpu() {
    refused("open::no_gpu", "devices=0", &[], |err| {
        matches!(err, DeviceError::NoGpu)
    });
}

#[test]
fn fewer_gpus_than_asked_for() {
    let driver = Driver {
        settings: "devices=2",
        ..Driver::default()
    };
    driver.run("open::fewer_gpus_than_asked_for", |fake| {
        let open = |n| open_device(DeviceKind::Cuda(n), &DeviceOptions::default());
        let err = open(2).err().expect("refused");
        assert!(
            matches!(err, DeviceError::NoOrdinal { asked: 2, found: 2 }),
            "{err}"
        );
        let device = open(1).expect("opens");
        let props = device.props();
        assert_eq!((props.sms, props.arch.as_str()), (132, "sm_90a"));
        assert!(props.name.contains("H100") && props.driver == "12.4" && props.asynchronous);
        drop(device);
        assert_eq!(fake.live(""), 0);
    });
}

#[test]
fn another_architecture() {
    let driver = Driver {
        settings: "cc=10.0,name=NVIDIA B200",
        ..Driver::default()
    };
    driver.run("open::another_architecture", |_| {
        // The model compares it with the bundle's.
        let device = open().expect("opens");
        assert_eq!(device.props().arch, "sm_100a");
    });
}

#[test]
fn memory_that_is_not_there() {
    let driver = Driver {
        settings: "memory=16777216",
        ..Driver::default()
    };
    driver.run("open::memory_that_is_not_there", |_| {
        let mut device = open().expect("opens");
        let before = device.memory().expect("asks");
        assert_eq!(before.total, 16 << 20);
        let err = device.alloc(1 << 30, "the weights").expect_err("too much");
        let DeviceError::OutOfMemory {
            bytes,
            what,
            free,
            total,
            ..
        } = &err
        else {
            panic!("{err}");
        };
        assert_eq!(
            (*bytes, what.as_str(), *free, *total),
            (1 << 30, "the weights", before.free, 16 << 20)
        );
        // A cache that has grown stays when it cannot grow more.
        let cache = device.reserve(64 << 20, "cache").expect("addresses");
        device.commit(cache, 2 << 20).expect("fits");
        let err = device.commit(cache, 32 << 20).expect_err("too much");
        assert!(matches!(err, DeviceError::OutOfMemory { .. }), "{err}");
        assert_eq!(device.committed(cache).expect("known"), 2 << 20);
        device.free(cache).expect("frees");
        assert_eq!(device.memory().expect("asks"), before);
    });
}

/// An ELF file of 64 bytes, with nothing in it.
fn empty_cubin() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // No sections or program headers; the header's own size.
    elf[52..54].copy_from_slice(&64u16.to_le_bytes());
    elf
}

#[test]
fn a_cubin_that_the_driver_does_not_take() {
    Driver::default().run("open::a_cubin_that_the_driver_does_not_take", |fake| {
        let cubin = empty_cubin();
        let image = ModuleImage {
            cubin: Some(&cubin),
            ..image("add", ADD)
        };
        for code in ["209", "222", "200"] {
            fake.reset();
            fake.set("cubin", code);
            let mut device = open().expect("opens");
            let loaded = device.load_module(&image);
            let function = loaded.expect("the PTX is taken");
            assert_eq!(device.param_layout(function).expect("known").len(), 4);
        }
    });
}

#[test]
fn code_that_does_not_load() {
    Driver::default().run("open::code_that_does_not_load", |fake| {
        let mut device = open().expect("opens");
        let err = device
            .load_module(&image("add", "not PTX"))
            .expect_err("refused");
        assert!(
            matches!(&err, DeviceError::Module { kernel, .. } if kernel == "add"),
            "{err}"
        );
        // What the driver's compiler said is in it.
        assert!(err.to_string().contains("no .version"), "{err}");
        let err = device
            .load_module(&image("sub", ADD))
            .expect_err("not there");
        assert!(
            matches!(&err, DeviceError::NoKernel { kernel } if kernel == "sub"),
            "{err}"
        );
        assert_eq!(fake.live("module"), 0);
        device
            .load_module(&image("add", ADD))
            .expect("the device goes on");
    });
}
