//! The library as a program finds it: by its name, with its settings in the environment.

#[path = "support/mod.rs"]
mod fake;

use std::ffi::c_int;

use fake::{Driver, Fake};

fn version(fake: &Fake) -> c_int {
    type Version = unsafe extern "C" fn(*mut c_int) -> u32;
    // SAFETY: the function's type, as in <cuda.h>.
    let function = unsafe { fake.library.get::<Version>(b"cuDriverGetVersion") };
    let mut version = 0;
    // SAFETY: writes one int.
    let code = unsafe { function.expect("exported")(&raw mut version) };
    assert_eq!(code, 0);
    version
}

fn has(fake: &Fake, name: &str) -> bool {
    // SAFETY: the symbol is not used.
    unsafe { fake.library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
}

#[test]
fn settings_come_from_the_environment() {
    let driver = Driver {
        settings: "version=12020,fail=cuDriverGetVersion:2:999",
        ..Driver::default()
    };
    driver.run("settings_come_from_the_environment", |fake| {
        assert_eq!(version(fake), 12020);
        assert_eq!(fake.calls(), ["cuDriverGetVersion"]);
        assert_eq!(fake.fail_none(), 1);
        fake.set("version", "13000");
        assert_eq!(version(fake), 13000);
        assert_eq!((fake.live(""), fake.kernels(), fake.pending()), (0, 0, 0));
        fake.reset();
        assert_eq!((version(fake), fake.calls().len()), (12020, 1));
        assert!(fake.complaints().is_empty());
    });
}

#[test]
fn an_old_driver_lacks_functions() {
    let driver = Driver {
        settings: "version=12010",
        without: &["cuFuncGetParamInfo", "cuStreamGetCaptureInfo_v3"],
    };
    driver.run("an_old_driver_lacks_functions", |fake| {
        assert!(!has(fake, "cuFuncGetParamInfo") && !has(fake, "cuStreamGetCaptureInfo_v3"));
        assert!(has(fake, "cuFuncGetAttribute") && has(fake, "cuStreamGetCaptureInfo_v2"));
        assert_eq!(version(fake), 12010);
    });
}
