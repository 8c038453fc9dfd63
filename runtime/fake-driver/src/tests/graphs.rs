//! Captures and graphs.

use super::*;
use crate::abi::KernelNodeParams;

/// A stream that captures, a kernel, and a word of memory that is 0.
struct Captured {
    t: Fixture,
    add: Add,
}

fn capturing() -> Captured {
    let t = Fixture::open();
    let stream = t.stream();
    let function = t.function(t.module(), c"add");
    let at = t.alloc(4);
    ok(unsafe { cuMemsetD8Async(at, 0, 4, stream) });
    ok(unsafe { cuStreamSynchronize(stream) });
    ok(unsafe { cuStreamBeginCapture_v2(stream, 0) });
    let add = Add {
        function,
        stream,
        to: at,
        from: at,
        n: 1,
        add: 1,
    };
    Captured { t, add }
}

fn end(stream: Handle) -> (CUresult, Handle) {
    let mut graph = 1;
    (unsafe { cuStreamEndCapture(stream, &mut graph) }, graph)
}

/// The one node on which the next work would depend.
fn last_node(stream: Handle) -> Handle {
    let (mut status, mut id, mut graph) = (9, 0, 0);
    let (mut nodes, mut count) = (null(), 0);
    ok(unsafe {
        cuStreamGetCaptureInfo_v2(
            stream,
            &mut status,
            &mut id,
            &mut graph,
            &mut nodes,
            &mut count,
        )
    });
    assert_eq!((status, count), (1, 1));
    let node = unsafe { *nodes };
    let mut edges = (&raw const status).cast();
    ok(unsafe {
        cuStreamGetCaptureInfo_v3(
            stream,
            &mut status,
            &mut id,
            &mut graph,
            &mut nodes,
            &mut edges,
            &mut count,
        )
    });
    assert_eq!((status, count, edges), (1, 1, null()));
    assert_eq!(unsafe { *nodes }, node);
    node
}

fn instantiate(graph: Handle) -> Handle {
    let mut exec = 0;
    ok(unsafe { cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
    exec
}

fn update(exec: Handle, node: Handle, add: &Add) -> CUresult {
    let params = add.params();
    let params = KernelNodeParams {
        func: add.function,
        grid: [1; 3],
        block: [32, 1, 1],
        shared_bytes: 0,
        kernel_params: params.as_ptr(),
        extra: null(),
        kern: 0,
        ctx: 0,
    };
    unsafe { cuGraphExecKernelNodeSetParams_v2(exec, node, &params) }
}

#[test]
fn a_graph_repeats_what_was_captured_with_new_parameters() {
    let Captured { t, mut add } = capturing();
    let stream = add.stream;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        ok(add.launch());
        nodes.push(last_node(stream));
        add.add *= 10;
    }
    let (code, graph) = end(stream);
    ok(code);
    assert_eq!(
        (mcc_fake_pending(), live(c"capture"), live(c"graph")),
        (0, 0, 1)
    );
    let exec = instantiate(graph);
    ok(unsafe { cuGraphLaunch(exec, stream) });
    // Changes hold for later launches alone.
    add.add = 500;
    ok(update(exec, nodes[1], &add));
    ok(unsafe { cuGraphLaunch(exec, stream) });
    assert_eq!(mcc_fake_kernels(), 0);
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(t.read(add.to, 1), [111 + 601]);

    assert_eq!(update(exec, 5, &add), codes::INVALID_VALUE);
    add.function = 0;
    assert_eq!(update(exec, nodes[0], &add), codes::INVALID_HANDLE);
    // Nodes go with their graph; what was made of it stays.
    ok(unsafe { cuGraphDestroy(graph) });
    add.function = t.function(t.module(), c"add");
    assert_eq!(update(exec, nodes[0], &add), codes::INVALID_VALUE);
    assert_eq!(unsafe { cuGraphDestroy(graph) }, codes::INVALID_VALUE);
    ok(unsafe { cuGraphLaunch(exec, stream) });
    ok(unsafe { cuGraphExecDestroy(exec) });
    assert_eq!(unsafe { cuGraphLaunch(exec, stream) }, codes::INVALID_VALUE);
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(t.read(add.to, 1), [111 + 601 + 601]);
}

#[test]
fn calls_that_wait_are_illegal_in_a_capture_and_end_it() {
    type Call = fn(&Captured) -> CUresult;
    let calls: [(&str, Call); 7] = [
        ("cuStreamSynchronize", |c| unsafe {
            cuStreamSynchronize(c.add.stream)
        }),
        ("cuStreamQuery", |c| unsafe { cuStreamQuery(c.add.stream) }),
        ("cuMemAlloc", |_| unsafe { mem::cuMemAlloc_v2(&mut 0, 4) }),
        ("cuModuleLoadData", |_| unsafe {
            load(&mut 0, PTX.as_ptr().cast())
        }),
        ("cuEventQuery", |c| unsafe { cuEventQuery(c.t.event()) }),
        ("pageable copy", |c| unsafe {
            cuMemcpyHtoDAsync_v2(c.add.to, [0u8; 4].as_ptr().cast(), 4, c.add.stream)
        }),
        ("cuGraphLaunch", |c| unsafe {
            cuGraphLaunch(0, c.add.stream)
        }),
    ];
    for (name, call) in calls {
        let c = capturing();
        assert_eq!(call(&c), codes::STREAM_CAPTURE_UNSUPPORTED, "{name}");
        assert_eq!(c.add.launch(), codes::STREAM_CAPTURE_INVALIDATED, "{name}");
        assert_eq!(
            end(c.add.stream),
            (codes::STREAM_CAPTURE_INVALIDATED, 0),
            "{name}"
        );
        // Over and done with.
        ok(c.add.launch());
        ok(unsafe { cuStreamSynchronize(c.add.stream) });
        assert_eq!(end(c.add.stream).0, codes::ILLEGAL_STATE);
    }
}

#[test]
fn a_relaxed_capture_lets_others_work() {
    let t = Fixture::open();
    let (stream, other) = (t.stream(), t.stream());
    ok(unsafe { cuStreamBeginCapture_v2(stream, 2) });
    t.alloc(4);
    ok(unsafe { cuStreamSynchronize(other) });
    assert_eq!(
        unsafe { cuStreamBeginCapture_v2(stream, 2) },
        codes::ILLEGAL_STATE
    );
    ok(end(stream).0);
    assert_eq!(
        unsafe { cuStreamBeginCapture_v2(stream, 3) },
        codes::INVALID_VALUE
    );
    ok(unsafe { cuStreamBeginCapture_v2(stream, 1) });
    // A thread-local capture ends where it began, and binds that thread alone.
    let elsewhere = std::thread::spawn(move || {
        let mut context = 0;
        ok(unsafe { cuDevicePrimaryCtxRetain(&mut context, 0) });
        ok(unsafe { cuCtxSetCurrent(context) });
        let mut at = 0;
        (end(stream).0, unsafe { mem::cuMemAlloc_v2(&mut at, 4) })
    });
    let codes = elsewhere.join().expect("no panic");
    assert_eq!(codes, (codes::STREAM_CAPTURE_WRONG_THREAD, codes::SUCCESS));
    let mut at = 0;
    let here = unsafe { mem::cuMemAlloc_v2(&mut at, 4) };
    assert_eq!(here, codes::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream).0, codes::STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn events_fork_and_join_a_capture() {
    for join in [true, false] {
        let Captured { t, mut add } = capturing();
        let (origin, side) = (add.stream, t.stream());
        let (forked, joined) = (t.event(), t.event());
        ok(add.launch());
        ok(unsafe { cuEventRecord(forked, origin) });
        ok(unsafe { cuStreamWaitEvent(side, forked, 0) });
        add.stream = side;
        ok(add.launch());
        ok(unsafe { cuEventRecord(joined, side) });
        assert_eq!(mcc_fake_pending(), 0, "the other stream captures, too");
        if join {
            ok(unsafe { cuStreamWaitEvent(origin, joined, 0) });
        }
        let (code, graph) = end(origin);
        if !join {
            assert_eq!((code, graph), (codes::STREAM_CAPTURE_UNJOINED, 0));
            continue;
        }
        ok(code);
        ok(unsafe { cuGraphLaunch(instantiate(graph), origin) });
        ok(unsafe { cuStreamSynchronize(origin) });
        assert_eq!(t.read(add.to, 1), [2]);
        assert_eq!(unsafe { cuEventSynchronize(joined) }, codes::CAPTURED_EVENT);
        assert_eq!(
            unsafe { cuStreamWaitEvent(side, joined, 0) },
            codes::CAPTURED_EVENT
        );
    }
}

#[test]
fn a_capture_depends_on_nothing_outside() {
    let Captured { t, add } = capturing();
    let (other, event) = (t.stream(), t.event());
    ok(unsafe { cuEventRecord(event, other) });
    let waited = unsafe { cuStreamWaitEvent(add.stream, event, 0) };
    assert_eq!(waited, codes::STREAM_CAPTURE_ISOLATION);
    assert_eq!(end(add.stream).0, codes::STREAM_CAPTURE_INVALIDATED);
    // Nor on another capture.
    for stream in [add.stream, other] {
        ok(unsafe { cuStreamBeginCapture_v2(stream, 2) });
    }
    ok(unsafe { cuEventRecord(event, other) });
    let merged = unsafe { cuStreamWaitEvent(add.stream, event, 0) };
    assert_eq!(merged, codes::STREAM_CAPTURE_MERGE);
    for stream in [add.stream, other] {
        assert_eq!(end(stream).0, codes::STREAM_CAPTURE_INVALIDATED);
    }
    assert_eq!(live(c"capture"), 0);
}

#[test]
fn independent_nodes_run_in_the_order_that_hurts() {
    let Captured { t, add } = capturing();
    let side = t.stream();
    let (forked, joined) = (t.event(), t.event());
    ok(unsafe { cuEventRecord(forked, add.stream) });
    ok(unsafe { cuStreamWaitEvent(side, forked, 0) });
    // Both write the same word, and nothing orders them: the later one runs first.
    ok(unsafe { cuMemsetD8Async(add.to, 1, 4, add.stream) });
    ok(unsafe { cuMemsetD8Async(add.to, 2, 4, side) });
    ok(unsafe { cuEventRecord(joined, side) });
    ok(unsafe { cuStreamWaitEvent(add.stream, joined, 0) });
    let (code, graph) = end(add.stream);
    ok(code);
    ok(unsafe { cuGraphLaunch(instantiate(graph), side) });
    ok(unsafe { cuStreamSynchronize(side) });
    assert_eq!(t.read(add.to, 1), [0x0101_0101]);
}

#[test]
fn a_failed_end_still_ends() {
    let Captured { t, add } = capturing();
    t.set("fail", "cuStreamEndCapture:1:2");
    assert_eq!(end(add.stream), (codes::OUT_OF_MEMORY, 1));
    assert_eq!(live(c"capture"), 0);
    ok(unsafe { cuStreamSynchronize(add.stream) });
}
