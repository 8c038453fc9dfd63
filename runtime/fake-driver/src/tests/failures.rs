//! Errors: those that a test asks for, those of kernels, and what stays afterwards.

use super::*;

#[test]
fn nothing_works_before_its_time() {
    let t = Fixture::bare();
    let mut n = 0;
    ok(unsafe { cuDriverGetVersion(&mut n) });
    assert_eq!(n, 12040);
    assert_eq!(unsafe { cuDeviceGetCount(&mut n) }, codes::NOT_INITIALIZED);
    assert_eq!(unsafe { cuInit(1) }, codes::INVALID_VALUE);
    t.set("devices", "0");
    assert_eq!(unsafe { cuInit(0) }, codes::NO_DEVICE);
    t.set("devices", "2");
    ok(unsafe { cuInit(0) });
    ok(unsafe { cuDeviceGetCount(&mut n) });
    assert_eq!(n, 2);
    assert_eq!(unsafe { cuDeviceGet(&mut n, 2) }, codes::INVALID_DEVICE);
    let mut at = 0;
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut at, 4) },
        codes::INVALID_CONTEXT
    );
    assert_eq!(unsafe { cuCtxSetCurrent(1) }, codes::INVALID_CONTEXT);
    let mut context = 0;
    ok(unsafe { cuDevicePrimaryCtxRetain(&mut context, 1) });
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut at, 4) },
        codes::INVALID_CONTEXT
    );
    ok(unsafe { cuCtxSetCurrent(context) });
    ok(unsafe { mem::cuMemAlloc_v2(&mut at, 4) });
    // In this thread alone.
    let other = std::thread::spawn(|| unsafe { mem::cuMemAlloc_v2(&mut 0, 4) });
    assert_eq!(other.join().expect("no panic"), codes::INVALID_CONTEXT);
    // What a released context leaves behind stays counted.
    ok(unsafe { cuDevicePrimaryCtxRelease_v2(1) });
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut at, 4) },
        codes::INVALID_CONTEXT
    );
    assert_eq!(
        unsafe { cuDevicePrimaryCtxRelease_v2(1) },
        codes::INVALID_CONTEXT
    );
    assert_eq!(
        (live(c"context"), live(c"memory"), live(c""), live(c"x")),
        (0, 1, 1, -1)
    );
}

#[test]
fn a_device_is_what_the_settings_say() {
    let t = Fixture::bare();
    t.set("sms", "114");
    t.set("cc", "8.0");
    ok(unsafe { cuInit(0) });
    let get = |attribute| {
        let mut value = -1;
        let code = unsafe { cuDeviceGetAttribute(&mut value, attribute, 0) };
        (code, value)
    };
    assert_eq!([get(16), get(75), get(76)], [(0, 114), (0, 8), (0, 0)]);
    assert_eq!(get(100_000).0, codes::INVALID_VALUE);
    let mut name = [1; 8];
    ok(unsafe { cuDeviceGetName(name.as_mut_ptr(), 8, 0) });
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"NVIDIA ");
    assert_eq!(set("cc", "9"), -1);
    assert_eq!(set("nothing", "9"), -1);
}

#[test]
fn settings_are_read_from_a_list() {
    let mut s = crate::settings::Settings::default();
    s.read("fail=cuMemAlloc_v2:3:2,version=12020, cc=8.0,fail=#7:999,late=0,poison=off,hang=2")
        .expect("legal");
    assert_eq!(
        (s.version, s.cc, s.poison, s.hang),
        (12020, (8, 0), None, Some(2))
    );
    assert_eq!(s.order, crate::settings::Order::Eager);
    assert_eq!(s.failures.len(), 2);
    for wrong in [
        "x",
        "x=1",
        "fail=a",
        "sms=-1",
        "order=never",
        "fault=1",
        "fail=a:b:2",
    ] {
        assert!(s.read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_nth_call_fails_as_asked() {
    let t = Fixture::open();
    let before = mcc_fake_calls();
    mcc_fake_fail(2, codes::OUT_OF_MEMORY);
    t.set("fail", "cuMemAlloc_v2:4:999");
    let mut at = 0;
    let codes: Vec<u32> = (0..5)
        .map(|_| unsafe { mem::cuMemAlloc_v2(&mut at, 4) })
        .collect();
    assert_eq!(codes, [0, 2, 0, 999, 0]);
    assert_eq!((live(c"memory"), mcc_fake_calls() - before), (3, 5));
    let name = unsafe { CStr::from_ptr(mcc_fake_call_name(before)) };
    assert_eq!(name, c"cuMemAlloc_v2");
    assert!(mcc_fake_call_name(mcc_fake_calls()).is_null());
    // A release that reports a failure has released all the same.
    t.set("fail", "cuMemFree_v2:1:1");
    assert_eq!(unsafe { mem::cuMemFree_v2(at) }, codes::INVALID_VALUE);
    assert_eq!(live(c"memory"), 2);
    mcc_fake_fail(1, codes::UNKNOWN);
    assert_eq!(mcc_fake_fail_none(), 1);
    ok(unsafe { mem::cuMemAlloc_v2(&mut at, 4) });
}

#[test]
fn a_sticky_code_sticks() {
    let t = Fixture::open();
    let (at, stream) = (t.alloc(4), t.stream());
    ok(unsafe { cuMemsetD8Async(at, 0, 4, stream) });
    t.set("fail", "cuStreamSynchronize:1:719");
    assert_eq!(unsafe { cuStreamSynchronize(stream) }, codes::LAUNCH_FAILED);
    let mut more = 0;
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut more, 4) },
        codes::LAUNCH_FAILED
    );
    assert_eq!(unsafe { cuStreamQuery(stream) }, codes::LAUNCH_FAILED);
    // The driver still says which it is, and releases still work.
    ok(unsafe { cuDriverGetVersion(&mut 0) });
    assert_eq!(unsafe { mem::cuMemFree_v2(at) }, codes::LAUNCH_FAILED);
    assert_eq!(unsafe { cuStreamDestroy_v2(stream) }, codes::LAUNCH_FAILED);
    assert_eq!(
        unsafe { cuDevicePrimaryCtxRelease_v2(0) },
        codes::LAUNCH_FAILED
    );
    assert_eq!(live(c""), 0);
    // A new context does not help; only a new process does.
    let mut context = 0;
    let again = unsafe { cuDevicePrimaryCtxRetain(&mut context, 0) };
    assert_eq!(again, codes::LAUNCH_FAILED);
}

#[test]
fn faults_of_kernels_show_at_the_next_wait() {
    for (kernel, code) in [
        (c"wild", codes::ILLEGAL_ADDRESS),
        (c"stop", codes::LAUNCH_FAILED),
    ] {
        let t = Fixture::open();
        let (stream, event) = (t.stream(), t.event());
        let function = t.function(t.module(), kernel);
        ok(launch(function, stream, 1, 32, 0, &[], &[]));
        ok(unsafe { cuEventRecord(event, stream) });
        assert_eq!(unsafe { cuEventSynchronize(event) }, code);
        assert_eq!(unsafe { cuEventQuery(event) }, code);
        let mut text = [0; 256];
        let len = unsafe { mcc_fake_fault(text.as_mut_ptr(), text.len()) };
        let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        assert!(len > 20 && text.contains("PTX line"), "{text}");
    }
}

#[test]
fn an_eager_fault_shows_at_a_later_call() {
    let t = Fixture::open();
    t.set("order", "eager");
    let (stream, function) = (t.stream(), t.function(t.module(), c"wild"));
    ok(launch(function, stream, 1, 32, 0, &[], &[]));
    let mut at = 0;
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut at, 4) },
        codes::ILLEGAL_ADDRESS
    );
}

#[test]
fn a_kernel_that_never_ends_is_never_ready() {
    // By dead-lock, and by a test's wish.
    for wish in [false, true] {
        let t = Fixture::open();
        let stream = t.stream();
        if wish {
            t.set("hang", "1");
        }
        let name = if wish { c"add" } else { c"spin" };
        let function = t.function(t.module(), name);
        if wish {
            ok(Add {
                function,
                stream,
                to: 0,
                from: 0,
                n: 0,
                add: 0,
            }
            .launch());
        } else {
            ok(launch(function, stream, 1, 1, 0, &[], &[]));
        }
        for _ in 0..10 {
            assert_eq!(unsafe { cuStreamQuery(stream) }, codes::NOT_READY);
        }
        let at = t.alloc(4);
        assert_eq!(live(c"memory"), 1);
        // Others go on.
        let other = t.stream();
        ok(unsafe { cuMemsetD8Async(at, 0, 4, other) });
        ok(unsafe { cuStreamSynchronize(other) });
        assert_eq!(complaints(), Vec::<String>::new());
        // A blocking call on hardware would never come back.
        assert_eq!(
            unsafe { cuStreamSynchronize(stream) },
            codes::LAUNCH_TIMEOUT
        );
        assert_eq!(mcc_fake_complaints(), 1);
        let mut text = [0; 64];
        unsafe { mcc_fake_complaint(0, text.as_mut_ptr(), text.len()) };
        let text = unsafe { CStr::from_ptr(text.as_ptr()) };
        assert_eq!(text, c"a call waits for a kernel that never ends");
    }
}

#[test]
fn a_kernel_fails_by_a_tests_wish() {
    let t = Fixture::open();
    t.set("fault", "2:715");
    let stream = t.stream();
    let function = t.function(t.module(), c"add");
    let at = t.alloc(4);
    let add = Add {
        function,
        stream,
        to: at,
        from: at,
        n: 1,
        add: 0,
    };
    ok(add.launch());
    ok(unsafe { cuStreamSynchronize(stream) });
    ok(add.launch());
    assert_eq!(
        unsafe { cuStreamSynchronize(stream) },
        codes::ILLEGAL_INSTRUCTION
    );
}

#[test]
fn codes_have_names() {
    let mut name = null();
    let mut line = null();
    ok(unsafe { codes::cuGetErrorName(700, &mut name) });
    ok(unsafe { codes::cuGetErrorString(700, &mut line) });
    let text = |p| unsafe { CStr::from_ptr(p) };
    assert_eq!(text(name), c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert!(
        text(line)
            .to_string_lossy()
            .contains("illegal memory access")
    );
    ok(unsafe { codes::cuGetErrorName(0, &mut name) });
    assert_eq!(text(name), c"CUDA_SUCCESS");
    assert_eq!(
        unsafe { codes::cuGetErrorName(4242, &mut name) },
        codes::INVALID_VALUE
    );
    assert!(name.is_null());
}
