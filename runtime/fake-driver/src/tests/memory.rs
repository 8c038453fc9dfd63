//! Memory of the device, of the host, and addresses apart from memory; tensor maps.

use super::*;
use crate::abi::{MemAccessDesc, MemAllocationProp, MemLocation};

const PAGE: usize = 2 << 20;
const HERE: MemLocation = MemLocation { kind: 1, id: 0 };
const PROP: MemAllocationProp = MemAllocationProp {
    kind: 1,
    handle_types: 0,
    location: HERE,
    win32: null(),
    alloc_flags: [0; 8],
};
const READ_WRITE: MemAccessDesc = MemAccessDesc {
    location: HERE,
    flags: 3,
};

fn physical() -> u64 {
    let mut handle = 0;
    ok(unsafe { cuMemCreate(&mut handle, PAGE, &PROP, 0) });
    handle
}

fn map(at: u64, handle: u64) {
    ok(unsafe { cuMemMap(at, PAGE, 0, handle, 0) });
    ok(unsafe { cuMemSetAccess(at, PAGE, &READ_WRITE, 1) });
}

#[test]
fn allocations_are_accounted_for() {
    let t = Fixture::open();
    t.set("memory", "1048576");
    let (mut free, mut total) = (0, 0);
    ok(unsafe { mem::cuMemGetInfo_v2(&mut free, &mut total) });
    assert_eq!((free, total), (1 << 20, 1 << 20));
    let at = t.alloc(1000);
    assert_eq!(at % 256, 0);
    // Not zeros: a program that relies on them is wrong on hardware.
    assert_eq!(t.read(at, 1), [u32::MAX]);
    ok(unsafe { mem::cuMemGetInfo_v2(&mut free, &mut total) });
    assert_eq!(free, (1 << 20) - 1024);
    let mut more = 0;
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut more, 1 << 20) },
        codes::OUT_OF_MEMORY
    );
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(&mut more, 0) },
        codes::INVALID_VALUE
    );
    assert_eq!(
        unsafe { mem::cuMemAlloc_v2(null_mut(), 1) },
        codes::INVALID_VALUE
    );
    assert_eq!(unsafe { mem::cuMemFree_v2(at + 256) }, codes::INVALID_VALUE);
    ok(unsafe { mem::cuMemFree_v2(at) });
    assert_eq!(unsafe { mem::cuMemFree_v2(at) }, codes::INVALID_VALUE);
    assert_eq!(live(c"memory"), 0);
    let stream = t.stream();
    // Freed, and over the end.
    assert_eq!(
        unsafe { cuMemsetD8Async(at, 0, 4, stream) },
        codes::INVALID_VALUE
    );
    let at = t.alloc(8);
    assert_eq!(
        unsafe { cuMemsetD8Async(at, 0, 9, stream) },
        codes::INVALID_VALUE
    );
}

#[test]
fn memory_that_is_freed_too_early_is_found() {
    let t = Fixture::open();
    let stream = t.stream();
    let at = t.alloc(64);
    ok(unsafe { cuMemsetD8Async(at, 0, 64, stream) });
    ok(unsafe { mem::cuMemFree_v2(at) });
    assert!(
        complaints()[0].contains("were freed while"),
        "{:?}",
        complaints()
    );
    assert_eq!(
        unsafe { cuStreamSynchronize(stream) },
        codes::ILLEGAL_ADDRESS
    );
    assert_eq!(
        unsafe { cuStreamSynchronize(stream) },
        codes::ILLEGAL_ADDRESS,
        "sticky"
    );
}

#[test]
fn kernels_reach_pinned_memory() {
    let t = Fixture::open();
    let (stream, module) = (t.stream(), t.module());
    let words = t.pinned(32);
    words.fill(1);
    let mut at = 0;
    let host = words.as_mut_ptr();
    let device =
        |at: &mut u64, p: *mut u32| unsafe { mem::cuMemHostGetDevicePointer_v2(at, p.cast(), 0) };
    ok(device(&mut at, unsafe { host.add(2) }));
    let function = t.function(module, c"add");
    ok(Add {
        function,
        stream,
        to: at,
        from: at,
        n: 2,
        add: 41,
    }
    .launch());
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(words[..5], [1, 1, 42, 42, 1]);
    // Memory that was not asked to be mapped has no address on the device.
    let mut plain = null_mut();
    ok(unsafe { mem::cuMemHostAlloc(&mut plain, 64, 0) });
    assert_eq!(device(&mut at, plain.cast()), codes::INVALID_VALUE);
    assert_eq!(device(&mut at, &mut 0), codes::INVALID_VALUE);
    ok(unsafe { mem::cuMemFreeHost(plain) });
    assert_eq!(unsafe { mem::cuMemFreeHost(plain) }, codes::INVALID_VALUE);
}

#[test]
fn pages_are_mapped_as_they_are_needed() {
    let t = Fixture::open();
    let (stream, module) = (t.stream(), t.module());
    let mut granularity = 0;
    ok(unsafe { cuMemGetAllocationGranularity(&mut granularity, &PROP, 0) });
    assert_eq!(granularity, PAGE);
    let mut base = 0;
    ok(unsafe { cuMemAddressReserve(&mut base, 4 * PAGE, 0, 0, 0) });
    assert_eq!(base % PAGE as u64, 0);
    let fill = |at: u64, len: usize| unsafe { cuMemsetD8Async(at, 1, len, stream) };
    assert_eq!(fill(base, 1), codes::INVALID_VALUE, "nothing is mapped");
    let (a, b) = (physical(), physical());
    ok(unsafe { cuMemMap(base, PAGE, 0, a, 0) });
    assert_eq!(fill(base, 1), codes::INVALID_VALUE, "no access yet");
    ok(unsafe { cuMemSetAccess(base, PAGE, &READ_WRITE, 1) });
    map(base + PAGE as u64, b);
    // A handle may go before its mapping.
    ok(unsafe { cuMemRelease(a) });
    assert_eq!(unsafe { cuMemRelease(a) }, codes::INVALID_VALUE);
    assert_eq!((live(c"physical"), live(c"mapping")), (1, 2));
    ok(fill(base, 2 * PAGE));
    assert_eq!(fill(base, 2 * PAGE + 1), codes::INVALID_VALUE);
    // A kernel goes over the seam, and then over the end.
    let function = t.function(module, c"add");
    let seam = base + PAGE as u64 - 4;
    let mut add = Add {
        function,
        stream,
        to: seam,
        from: seam,
        n: 2,
        add: 1,
    };
    ok(add.launch());
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(
        t.read(seam - 4, 4),
        [0x0101_0101, 0x0101_0102, 0x0101_0102, 0x0101_0101]
    );

    // Unmapped memory takes its bytes along.
    assert_eq!(unsafe { cuMemUnmap(base, PAGE / 2) }, codes::INVALID_VALUE);
    ok(unsafe { cuMemUnmap(base + PAGE as u64, PAGE) });
    map(base + 2 * PAGE as u64, b);
    assert_eq!(
        t.read(base + 2 * PAGE as u64, 2),
        [0x0101_0102, 0x0101_0101]
    );
    // Also when others take their place before they are mapped again.
    ok(unsafe { cuMemUnmap(base + 2 * PAGE as u64, PAGE) });
    let c = physical();
    map(base + 2 * PAGE as u64, c);
    assert_eq!(t.read(base + 2 * PAGE as u64, 1), [u32::MAX]);
    ok(unsafe { cuMemUnmap(base + 2 * PAGE as u64, PAGE) });
    ok(unsafe { cuMemRelease(c) });
    map(base + 2 * PAGE as u64, b);
    assert_eq!(
        t.read(base + 2 * PAGE as u64, 2),
        [0x0101_0102, 0x0101_0101]
    );
    assert_eq!(
        unsafe { cuMemMap(base, PAGE, 0, b, 0) },
        codes::INVALID_VALUE,
        "in use"
    );
    let other = base + 3 * PAGE as u64;
    assert_eq!(
        unsafe { cuMemMap(other, PAGE, 0, b, 0) },
        codes::NOT_SUPPORTED
    );
    assert_eq!(
        unsafe { cuMemAddressFree(base, 4 * PAGE) },
        codes::INVALID_VALUE,
        "mapped"
    );
    add.n = 3;
    ok(add.launch());
    assert_eq!(
        unsafe { cuStreamSynchronize(stream) },
        codes::ILLEGAL_ADDRESS
    );
    // Releases work even now, and report the error.
    for at in [base, base + 2 * PAGE as u64] {
        assert_eq!(unsafe { cuMemUnmap(at, PAGE) }, codes::ILLEGAL_ADDRESS);
    }
    assert_eq!(unsafe { cuMemRelease(b) }, codes::ILLEGAL_ADDRESS);
    assert_eq!(
        unsafe { cuMemAddressFree(base, 4 * PAGE) },
        codes::ILLEGAL_ADDRESS
    );
    for kind in [c"physical", c"mapping", c"reservation"] {
        assert_eq!(live(kind), 0, "{kind:?}");
    }
}

#[test]
fn mapped_memory_is_accounted_for() {
    let t = Fixture::open();
    t.set("memory", "4194304");
    let mut base = 0;
    ok(unsafe { cuMemAddressReserve(&mut base, 16 * PAGE, 0, 0, 0) });
    let (a, b) = (physical(), physical());
    let mut c = 0;
    assert_eq!(
        unsafe { cuMemCreate(&mut c, PAGE, &PROP, 0) },
        codes::OUT_OF_MEMORY
    );
    map(base, a);
    ok(unsafe { cuMemRelease(a) });
    assert_eq!(
        unsafe { cuMemCreate(&mut c, PAGE, &PROP, 0) },
        codes::OUT_OF_MEMORY
    );
    ok(unsafe { cuMemUnmap(base, PAGE) });
    ok(unsafe { cuMemCreate(&mut c, PAGE, &PROP, 0) });
    assert_ne!(b, c);
    for bytes in [0, PAGE / 2] {
        assert_eq!(
            unsafe { cuMemCreate(&mut c, bytes, &PROP, 0) },
            codes::INVALID_VALUE
        );
    }
}

#[test]
fn tensor_maps_are_checked() {
    let _t = Fixture::open();
    #[repr(align(64))]
    struct Map([u8; 128]);
    let mut map = Map([0; 128]);
    struct Args {
        element: u32,
        rank: u32,
        address: u64,
        stride: u64,
        width: u32,
        interleave: u32,
        swizzle: u32,
        fill: u32,
        shift: usize,
    }
    let mut encode = |change: fn(&mut Args)| {
        let mut a = Args {
            element: 9,
            rank: 2,
            address: 0x7000_0000_0100,
            stride: 256,
            width: 64,
            interleave: 0,
            swizzle: 3,
            fill: 0,
            shift: 0,
        };
        change(&mut a);
        let out = map.0.as_mut_ptr().wrapping_add(a.shift).cast();
        unsafe {
            cuTensorMapEncodeTiled(
                out,
                a.element,
                a.rank,
                a.address as *mut c_void,
                [128, 4, 1, 1, 1].as_ptr(),
                [a.stride, 1024, 1024, 1024].as_ptr(),
                [a.width, 4, 1, 1, 1].as_ptr(),
                [1; 5].as_ptr(),
                a.interleave,
                a.swizzle,
                2,
                a.fill,
            )
        }
    };
    ok(encode(|_| {}));
    let wrong: [fn(&mut Args); 10] = [
        |a| a.element = 13,
        |a| a.rank = 0,
        |a| a.rank = 6,
        |a| a.address += 8,
        |a| a.stride += 8,
        |a| a.width = 72,
        |a| a.interleave = 1,
        |a| a.swizzle = 4,
        |a| (a.element, a.width, a.fill) = (0, 64, 1),
        |a| a.shift = 32,
    ];
    for (i, change) in wrong.into_iter().enumerate() {
        assert_eq!(encode(change), codes::INVALID_VALUE, "{i}");
    }
}
