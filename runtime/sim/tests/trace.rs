//! The time line: what it says of a pipeline, and that it costs and changes
//! nothing.

mod common;

use std::collections::BTreeMap;

use common::*;
use mcc_sim::{
    ClusterTrace, Completion, Gpu, GpuConfig, LaunchConfig, LaunchTrace, SimError, TraceEngine,
    TraceEvent, TraceKind, TraceLimits, TracePoint, TraceWait,
};

fn traced(completion: Completion, limits: TraceLimits) -> Gpu {
    Gpu::new(GpuConfig {
        completion,
        threads: 2,
        trace: Some(limits),
        ..GpuConfig::default()
    })
}

/// Warp 1 counts to 100, then loads 256 bytes; warp 0 waits for them and
/// meets warp 1 at barrier 0.
const LOAD: &str = r"
    .reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
    .shared .align 128 .b8 tile[256]; .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [x]; mov.u32 %r1, %tid.x; mov.u32 %r2, tile; mov.u32 %r3, bar;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra SET; mbarrier.init.shared::cta.b64 [%r3], 1; SET:
    bar.sync 0;
    setp.lt.u32 %p1, %r1, 32;
    @%p1 bra WAIT;
    mov.u32 %r4, 0;
    COUNT: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 100; @%p2 bra COUNT;
    setp.ne.u32 %p1, %r1, 32;
    @%p1 bra MEET;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 256, [%r3];
    bra MEET;
    WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra WAIT;
    MEET: bar.sync 0;
    ret;";

fn load(completion: Completion, limits: TraceLimits, blocks: u32) -> LaunchTrace {
    let gpu = traced(completion, limits);
    let m = common::load(&gpu, &kernel(".param .u64 x", LOAD));
    let x = upload(&gpu, &[7; 256]);
    launch(&gpu, &m, &LaunchConfig::new(blocks, 64), &[Arg::U64(x)]).expect("runs");
    let mut traces = gpu.take_traces();
    assert_eq!(traces.len(), 1);
    assert!(gpu.take_traces().is_empty());
    traces.remove(0)
}

/// Spans of one warp, in order.
fn warp(c: &ClusterTrace, index: u32) -> Vec<&TraceEvent> {
    let of = |e: &&TraceEvent| match e.what {
        TraceKind::Run { warp } | TraceKind::Wait { warp, .. } => warp == index,
        _ => false,
    };
    let mut out: Vec<&TraceEvent> = c.events.iter().filter(of).collect();
    out.sort_by_key(|e| e.from);
    out
}

fn find(c: &ClusterTrace, what: impl Fn(TraceKind) -> bool) -> &TraceEvent {
    let found = c.events.iter().find(|e| what(e.what));
    found.unwrap_or_else(|| panic!("{:#?}", c.events))
}

#[test]
fn a_wait_ends_with_its_phase() {
    for completion in ALL {
        let t = load(completion, TraceLimits::default(), 1);
        assert_eq!((t.kernel.as_str(), t.of, t.clusters.len()), ("k", 1, 1));
        let c = &t.clusters[0];
        assert_eq!((c.lost, &c.blocks[..]), (0, &[[0; 3]][..]));
        let is_mbarrier = |p| matches!(p, TracePoint::Mbarrier { .. });
        let phase = find(
            c,
            |k| matches!(k, TraceKind::Phase { point, index: 0 } if is_mbarrier(point)),
        );
        let wait = find(
            c,
            |k| matches!(k, TraceKind::Wait { warp: 0, wait: TraceWait::At(p) } if is_mbarrier(p)),
        );
        let copy = find(c, |k| {
            matches!(
                k,
                TraceKind::Async {
                    warp: 1,
                    engine: TraceEngine::BulkLoad,
                    bytes: 256
                }
            )
        });
        assert_eq!((phase.to, phase.to), (wait.to, copy.to), "{completion:?}");
        // The 100 rounds of three instructions come first.
        assert!(
            copy.from > 300 && wait.from < 30,
            "{completion:?} {copy:?} {wait:?}"
        );
        // Both warps are accounted for without gap or overlap.
        for w in 0..2 {
            let spans = warp(c, w);
            assert_eq!(spans.first().map(|e| e.from), Some(0));
            assert!(spans.windows(2).all(|p| p[0].to == p[1].from), "{spans:#?}");
            assert!(
                spans.iter().all(|e| e.to > e.from && e.line > 0),
                "{spans:#?}"
            );
        }
        assert_eq!(
            c.end,
            warp(c, 0)
                .iter()
                .chain(&warp(c, 1))
                .map(|e| e.to)
                .max()
                .expect("spans")
        );
    }
}

#[test]
fn late_copies_take_time() {
    let t = load(Completion::Late, TraceLimits::default(), 1);
    let is_copy = |k| matches!(k, TraceKind::Async { .. });
    let copy = find(&t.clusters[0], is_copy);
    assert!(copy.to > copy.from, "{copy:?}");
    let t = load(Completion::Early, TraceLimits::default(), 1);
    let copy = find(&t.clusters[0], is_copy);
    assert_eq!(copy.to, copy.from);
}

#[test]
fn traces_are_bounded_and_repeat() {
    let limits = TraceLimits {
        clusters: 3,
        events: 5,
    };
    let t = load(Completion::Random(7), limits, 8);
    assert_eq!(t.of, 8);
    let order: Vec<u64> = t.clusters.iter().map(|c| c.cluster).collect();
    assert_eq!(order, [0, 1, 2]);
    assert!(t.clusters.iter().all(|c| c.events.len() == 5 && c.lost > 0));
    assert_eq!(t, load(Completion::Random(7), limits, 8));
}

#[test]
fn phases_count_and_named_barriers_meet() {
    let t = load(Completion::Early, TraceLimits::default(), 1);
    let c = &t.clusters[0];
    let mut phases: BTreeMap<TracePoint, Vec<(u64, u64, u64)>> = BTreeMap::new();
    for e in &c.events {
        if let TraceKind::Phase { point, index } = e.what {
            phases.entry(point).or_default().push((index, e.from, e.to));
        }
    }
    let bar = &phases[&TracePoint::Named { block: 0, id: 0 }];
    assert_eq!(bar.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(bar[0].2, bar[1].1);
    assert_eq!(phases.len(), 2);
}

#[test]
fn a_dead_lock_leaves_a_trace() {
    let gpu = traced(Completion::Early, TraceLimits::default());
    let body = ".reg .b32 %r<2>; .reg .pred %p<2>; mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32;
        @%p1 bra A; bar.sync 2, 64; A: bar.sync 1, 64; ret;";
    let m = common::load(&gpu, &kernel("", body));
    let error = launch(&gpu, &m, &LaunchConfig::new(1, 64), &[]).expect_err("stuck");
    assert!(matches!(error, SimError::Deadlock(_)), "{error}");
    let t = gpu.take_traces().remove(0);
    let mut stuck: Vec<(u32, TraceWait)> = Vec::new();
    for e in &t.clusters[0].events {
        if let TraceKind::Wait { warp, wait } = e.what {
            stuck.push((warp, wait));
        }
    }
    let at = |id| TraceWait::At(TracePoint::Named { block: 0, id });
    assert_eq!(stuck, [(0, at(1)), (1, at(2))]);
}

#[test]
fn nothing_is_kept_unasked() {
    let gpu = gpu(Completion::Early);
    let m = common::load(&gpu, &kernel("", "ret;"));
    launch(&gpu, &m, &LaunchConfig::new(1, 32), &[]).expect("runs");
    assert!(gpu.take_traces().is_empty());
}
