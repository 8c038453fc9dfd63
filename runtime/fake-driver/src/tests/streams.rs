//! Order: what runs when, and what a program that orders too little sees.

use super::*;

const N: usize = 100;

fn upload(to: DevicePtr, from: &[u32], stream: Handle) {
    ok(unsafe { cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), 4 * from.len(), stream) });
}

#[test]
fn a_kernel_runs_when_something_waits_for_it() {
    let t = Fixture::open();
    let (stream, module) = (t.stream(), t.module());
    let (host, back) = (t.pinned(N), t.pinned(N));
    let at = t.alloc(4 * N);
    let words: Vec<u32> = (0..N as u32).collect();
    host.copy_from_slice(&words);
    upload(at, host, stream);
    let add = Add {
        function: t.function(module, c"add"),
        stream,
        to: at,
        from: at,
        n: N as u32,
        add: 5,
    };
    ok(add.launch());
    ok(unsafe { cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), at, 4 * N, stream) });
    // Nothing has happened so far: fresh memory is poisoned.
    assert_eq!(
        (mcc_fake_kernels(), mcc_fake_pending(), back[0]),
        (0, 3, u32::MAX)
    );
    // A query lets one piece of work run.
    assert_eq!(unsafe { cuStreamQuery(stream) }, codes::NOT_READY);
    assert_eq!((mcc_fake_kernels(), mcc_fake_pending()), (0, 2));
    ok(unsafe { cuStreamSynchronize(stream) });
    assert!(
        back.iter().zip(&words).all(|(b, w)| *b == w + 5),
        "{back:?}"
    );
    ok(unsafe { cuStreamQuery(stream) });
}

#[test]
fn a_slot_that_is_reused_too_early_gives_wrong_data() {
    for early in [true, false] {
        let t = Fixture::open();
        let (stream, event) = (t.stream(), t.event());
        let slot = t.pinned(N);
        let (a, b) = (t.alloc(4 * N), t.alloc(4 * N));
        slot.fill(1);
        upload(a, slot, stream);
        ok(unsafe { cuEventRecord(event, stream) });
        if !early {
            ok(unsafe { cuEventSynchronize(event) });
        }
        slot.fill(2);
        upload(b, slot, stream);
        ok(unsafe { cuStreamSynchronize(stream) });
        let first = if early { 2 } else { 1 };
        assert_eq!((t.read(a, 1)[0], t.read(b, 1)[0]), (first, 2));
    }
}

#[test]
fn a_stream_sees_anothers_upload_only_after_a_wait() {
    for wait in [true, false] {
        let t = Fixture::open();
        let (copies, compute) = (t.stream(), t.stream());
        let (event, module) = (t.event(), t.module());
        let host = t.pinned(N);
        let (at, out) = (t.alloc(4 * N), t.alloc(4 * N));
        host.fill(10);
        upload(at, host, copies);
        ok(unsafe { cuEventRecord(event, copies) });
        if wait {
            ok(unsafe { cuStreamWaitEvent(compute, event, 0) });
        }
        // Recording it again moves the event, not the wait.
        ok(unsafe { cuEventRecord(event, compute) });
        ok(unsafe { cuEventDestroy_v2(event) });
        let add = Add {
            function: t.function(module, c"add"),
            stream: compute,
            to: out,
            from: at,
            n: N as u32,
            add: 1,
        };
        ok(add.launch());
        ok(unsafe { cuStreamSynchronize(compute) });
        // Without the wait the kernel has read the poison.
        assert_eq!(t.read(out, 1)[0], if wait { 11 } else { 0 });
    }
}

#[test]
fn pageable_memory_is_read_at_the_call_and_written_before_it_returns() {
    let t = Fixture::open();
    let stream = t.stream();
    let at = t.alloc(4 * N);
    let mut words = vec![3u32; N];
    upload(at, &words, stream);
    words.fill(4);
    ok(unsafe { cuMemsetD8Async(at + 4, 9, 4, stream) });
    ok(unsafe { cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), at, 4 * N, stream) });
    assert_eq!(words[..3], [3, 0x0909_0909, 3]);
}

#[test]
fn other_orders_give_the_same_to_a_program_that_orders_enough() {
    for order in ["late", "eager", "random:1", "random:2", "random:3"] {
        let t = Fixture::open();
        t.set("order", order);
        let (copies, compute) = (t.stream(), t.stream());
        let (uploaded, used) = (t.event(), t.event());
        let function = t.function(t.module(), c"add");
        let (slot, at, sum) = (t.pinned(N), t.alloc(4 * N), t.alloc(4 * N));
        for round in 1..5 {
            ok(unsafe { cuEventSynchronize(uploaded) });
            slot.fill(round);
            ok(unsafe { cuStreamWaitEvent(copies, used, 0) });
            upload(at, slot, copies);
            ok(unsafe { cuEventRecord(uploaded, copies) });
            ok(unsafe { cuStreamWaitEvent(compute, uploaded, 0) });
            let (stream, n) = (compute, N as u32);
            let (to, from) = (sum, at);
            ok(Add {
                function,
                stream,
                to,
                from,
                n,
                add: 100 * round,
            }
            .launch());
            ok(unsafe { cuEventRecord(used, compute) });
        }
        ok(unsafe { cuStreamSynchronize(compute) });
        assert_eq!(t.read(sum, N), vec![404; N], "{order}");
        assert_eq!(complaints(), Vec::<String>::new());
    }
}

#[test]
fn random_order_runs_ahead_of_a_missing_wait() {
    // The other way round than `late`: an upload overtakes the kernel that still needs the old bytes.
    let overtaken = (0..20u64).any(|seed| {
        let t = Fixture::open();
        t.set("order", &format!("random:{seed}"));
        let (copies, compute) = (t.stream(), t.stream());
        let function = t.function(t.module(), c"add");
        let (slot, at, out) = (t.pinned(N), t.alloc(4 * N), t.alloc(4 * N));
        slot.fill(1);
        upload(at, slot, copies);
        ok(unsafe { cuStreamSynchronize(copies) });
        let (stream, n, to, from) = (compute, N as u32, out, at);
        ok(Add {
            function,
            stream,
            to,
            from,
            n,
            add: 0,
        }
        .launch());
        slot.fill(2);
        upload(at, slot, copies);
        ok(unsafe { cuStreamSynchronize(compute) });
        t.read(out, 1)[0] == 2
    });
    assert!(overtaken);
}

#[test]
fn events_know_when_they_were_reached() {
    let t = Fixture::open();
    let stream = t.stream();
    let (start, end) = (t.event(), t.event());
    let mut untimed = 0;
    ok(unsafe { cuEventCreate(&mut untimed, 2) });
    let ms = std::cell::Cell::new(-1.0f32);
    let elapsed = |a, b| unsafe { cuEventElapsedTime(ms.as_ptr(), a, b) };
    // Never recorded.
    assert_eq!(elapsed(start, end), codes::INVALID_HANDLE);
    ok(unsafe { cuEventQuery(start) });
    for event in [start, untimed, end] {
        ok(unsafe { cuEventRecord(event, stream) });
    }
    assert_eq!(elapsed(start, end), codes::NOT_READY);
    assert_eq!(unsafe { cuEventQuery(start) }, codes::NOT_READY);
    ok(unsafe { cuEventQuery(start) });
    assert_eq!(elapsed(start, end), codes::NOT_READY);
    ok(unsafe { cuEventSynchronize(end) });
    ok(elapsed(start, end));
    assert_eq!(elapsed(untimed, end), codes::INVALID_HANDLE);
    assert!(ms.get() >= 0.0);
    ok(unsafe { cuEventDestroy_v2(end) });
    assert_eq!(elapsed(start, end), codes::INVALID_HANDLE);
    assert_eq!(unsafe { cuEventDestroy_v2(end) }, codes::INVALID_HANDLE);
}

#[test]
fn a_destroyed_stream_still_does_its_work() {
    let t = Fixture::open();
    let (a, b) = (t.stream(), t.stream());
    let event = t.event();
    let at = t.alloc(4);
    ok(unsafe { cuMemsetD8Async(at, 1, 4, a) });
    ok(unsafe { cuEventRecord(event, a) });
    ok(unsafe { cuStreamDestroy_v2(a) });
    assert_eq!(unsafe { cuStreamQuery(a) }, codes::INVALID_HANDLE);
    assert_eq!(live(c"stream"), 1);
    ok(unsafe { cuStreamWaitEvent(b, event, 0) });
    ok(unsafe { cuStreamSynchronize(b) });
    assert_eq!(t.read(at, 1)[0], 0x0101_0101);
}

#[test]
fn the_default_stream_and_stale_handles_are_refused() {
    let t = Fixture::open();
    let at = t.alloc(4);
    assert_eq!(
        unsafe { cuMemsetD8Async(at, 0, 4, 0) },
        codes::INVALID_HANDLE
    );
    let stream = t.stream();
    ok(unsafe { cuStreamDestroy_v2(stream) });
    assert_eq!(
        unsafe { cuStreamSynchronize(stream) },
        codes::INVALID_HANDLE
    );
    assert_eq!(unsafe { cuStreamDestroy_v2(stream) }, codes::INVALID_HANDLE);
    let mut out = 0;
    assert_eq!(
        unsafe { cuStreamCreateWithPriority(&mut out, 4, 0) },
        codes::INVALID_VALUE
    );
}
