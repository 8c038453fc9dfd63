//! Modules, functions, and which launches are refused.

use super::*;

fn load_text(text: &[u8]) -> CUresult {
    let mut module = 0;
    let text: Vec<u8> = text.iter().copied().chain([0]).collect();
    unsafe { load(&mut module, text.as_ptr().cast()) }
}

#[test]
fn a_module_has_functions_and_globals() {
    let t = Fixture::open();
    let module = t.module();
    let add = t.function(module, c"add");
    assert_eq!(add, t.function(module, c"add"));
    let mut out = 0;
    let missing = unsafe { cuModuleGetFunction(&mut out, module, c"none".as_ptr()) };
    assert_eq!(missing, codes::NOT_FOUND);
    let slots: Vec<(usize, usize)> = (0..)
        .map_while(|i| {
            let (mut at, mut size) = (0, 0);
            let code = unsafe { cuFuncGetParamInfo(add, i, &mut at, &mut size) };
            (code == codes::SUCCESS).then_some((at, size))
        })
        .collect();
    assert_eq!(slots, [(0, 8), (8, 8), (16, 4), (20, 4)]);
    let (mut at, mut bytes) = (0, 0);
    ok(unsafe { cuModuleGetGlobal_v2(&mut at, &mut bytes, module, c"mcc_status".as_ptr()) });
    assert_eq!((bytes, t.read(at, 2)), (8, vec![7, 0]));
    ok(unsafe { cuModuleUnload(module) });
    assert_eq!(unsafe { cuModuleUnload(module) }, codes::INVALID_HANDLE);
    let (mut a, mut b) = (0, 0);
    let stale = unsafe { cuFuncGetParamInfo(add, 0, &mut a, &mut b) };
    assert_eq!(stale, codes::INVALID_HANDLE);
    assert_eq!(
        launch(add, t.stream(), 1, 32, 0, &[], &[]),
        codes::INVALID_HANDLE
    );
}

#[test]
fn images_that_do_not_load() {
    let t = Fixture::open();
    let ptx = String::from_utf8_lossy(PTX.to_bytes()).into_owned();
    assert_eq!(
        load_text(b"\x7fELF\x02\x01\x01 machine code"),
        codes::NO_BINARY_FOR_GPU
    );
    t.set("cubin", "222");
    assert_eq!(
        load_text(b"\x7fELF\x02\x01\x01"),
        codes::UNSUPPORTED_PTX_VERSION
    );
    let mut fake = FAKE_CUBIN.to_vec();
    fake.extend(ptx.bytes());
    ok(load_text(&fake));
    assert_eq!(load_text(b""), codes::INVALID_PTX);
    assert_eq!(
        load_text(ptx.replace("sm_90a", "sm_100a").as_bytes()),
        codes::INVALID_PTX
    );
    // A driver of CUDA 12.2 reads PTX 8.2.
    t.set("version", "12020");
    ok(load_text(
        ptx.replace(".version 8.0", ".version 8.2").as_bytes(),
    ));
    let newer = ptx.replace(".version 8.0", ".version 8.3");
    assert_eq!(load_text(newer.as_bytes()), codes::UNSUPPORTED_PTX_VERSION);
    t.set("cc", "10.0");
    assert_eq!(
        load_text(ptx.as_bytes()),
        codes::INVALID_PTX,
        "sm_90a is Hopper's alone"
    );
    ok(load_text(ptx.replace("sm_90a", "sm_90").as_bytes()));
}

#[test]
fn the_log_says_what_is_wrong() {
    let _t = Fixture::open();
    let text =
        CString::new(".version 8.0\n.target sm_90a\n.address_size 64\nnonsense").expect("text");
    let mut buffer = [1u8; 64];
    let options = [5u32, 6];
    let mut values: [*mut c_void; 2] = [buffer.as_mut_ptr().cast(), 64 as *mut c_void];
    let mut module = 0;
    let code = unsafe {
        cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            2,
            options.as_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(code, codes::INVALID_PTX);
    let log = CStr::from_bytes_until_nul(&buffer).expect("ended");
    assert_eq!(log.to_bytes().len(), values[1] as usize);
    assert!(log.to_string_lossy().contains("PTX"), "{log:?}");
    let unknown = unsafe {
        cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            1,
            [99].as_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(unknown, codes::INVALID_VALUE);
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    let t = Fixture::open();
    let (stream, module) = (t.stream(), t.module());
    let function = t.function(module, c"add");
    let at = t.alloc(4);
    let add = Add {
        function,
        stream,
        to: at,
        from: at,
        n: 0,
        add: 0,
    };
    let params = add.params();
    let go = |grid, block, shared, attrs: &[LaunchAttribute]| {
        launch(function, stream, grid, block, shared, attrs, &params)
    };
    ok(go(1, 1024, 48 << 10, &[]));
    let invalid = [
        go(0, 32, 0, &[]),
        go(1, 0, 0, &[]),
        go(1, 1025, 0, &[]),
        go(1, 32, (48 << 10) + 1, &[]),
        go(3, 32, 0, &[attribute(4, [2, 1, 1])]),
        go(1, 32, 0, &[attribute(1, [0; 3])]),
        go(1, 32, 0, &[attribute(6, [7, 0, 0])]),
        launch(function, stream, 1, 32, 0, &[], &[]),
        launch(
            function,
            stream,
            1,
            32,
            0,
            &[],
            &[params[0], null(), params[2], params[3]],
        ),
    ];
    assert_eq!(invalid, [codes::INVALID_VALUE; 9]);
    ok(go(
        4,
        32,
        0,
        &[
            attribute(4, [2, 1, 1]),
            attribute(6, [1, 0, 0]),
            attribute(8, [0; 3]),
        ],
    ));
    for blocks in [0, 16] {
        let cluster = attribute(4, [blocks, 1, 1]);
        assert_eq!(
            go(16, 32, 0, &[cluster]),
            codes::INVALID_CLUSTER_SIZE,
            "{blocks}"
        );
    }
    // Both limits can be lifted.
    ok(unsafe { cuFuncSetAttribute(function, 14, 1) });
    ok(go(16, 32, 0, &[attribute(4, [16, 1, 1])]));
    ok(unsafe { cuFuncSetAttribute(function, 8, 227 << 10) });
    ok(go(1, 32, 227 << 10, &[]));
    let more = unsafe { cuFuncSetAttribute(function, 8, (227 << 10) + 1) };
    assert_eq!(more, codes::INVALID_VALUE);
    assert_eq!(
        unsafe { cuFuncSetAttribute(function, 0, 1) },
        codes::INVALID_VALUE
    );
    ok(unsafe { cuStreamSynchronize(stream) });
}

#[test]
fn a_kernels_own_demands_hold() {
    let t = Fixture::open();
    let stream = t.stream();
    let big = t.function(t.module(), c"big");
    let word = 1u64;
    let params = [(&raw const word).cast()];
    let go = |grid, block, shared| launch(big, stream, grid, block, shared, &[], &params);
    ok(go(2, 32, 47 << 10));
    assert_eq!(go(2, 32, 48 << 10), codes::INVALID_VALUE, "1 KiB is static");
    assert_eq!(go(2, 64, 0), codes::INVALID_VALUE, "blocks of 32");
    assert_eq!(go(3, 32, 0), codes::INVALID_VALUE, "clusters of 2");
    let get = |attribute| {
        let mut value = -1;
        ok(unsafe { cuFuncGetAttribute(&mut value, attribute, big) });
        value
    };
    let values = [get(1), get(5), get(6), get(8), get(10), get(11), get(12)];
    assert_eq!(values, [1024, 80, 90, 47 << 10, 1, 2, 1]);
    ok(unsafe { cuStreamSynchronize(stream) });
}

#[test]
fn parameters_are_copied_at_the_call() {
    let t = Fixture::open();
    let (stream, module) = (t.stream(), t.module());
    let function = t.function(module, c"add");
    let at = t.alloc(4);
    ok(unsafe { cuMemsetD8Async(at, 0, 4, stream) });
    let (n, mut add) = (1u32, [3u32]);
    let params = [
        (&raw const at).cast(),
        (&raw const at).cast(),
        (&raw const n).cast(),
        add.as_ptr().cast(),
    ];
    ok(launch(function, stream, 1, 32, 0, &[], &params));
    add[0] = 1000;
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!((t.read(at, 1), add), (vec![3], [1000]));
}
