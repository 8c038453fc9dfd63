//! Bugs that only some schedules or some GPUs would show, each planted into a
//! right kernel by taking out or changing one thing: the checkers name it with
//! both lines and what is missing, whatever the schedule.

mod common;

use common::*;
use mcc_sim::{Completion, FaultKind, LaunchConfig, LaunchStats, Race, Rule, SimError};

/// One change of a right kernel, and what is found.
struct Bug {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    rule: Rule,
    /// Words of the report.
    says: &'static str,
}

const fn bug(
    what: &'static str,
    from: &'static str,
    to: &'static str,
    rule: Rule,
    says: &'static str,
) -> Bug {
    Bug {
        what,
        from,
        to,
        rule,
        says,
    }
}

fn run(
    params: &str,
    body: &str,
    cfg: &LaunchConfig,
    bytes: usize,
    completion: Completion,
) -> Result<LaunchStats, SimError> {
    let gpu = gpu(completion);
    let text = format!(
        "{HEADER}\n.extern .shared .align 1024 .b8 smem[];\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    );
    let m = load(&gpu, &text);
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7 % 120) as u8).collect();
    let input = upload(&gpu, &data);
    let out = upload(&gpu, &vec![0; bytes]);
    launch(&gpu, &m, cfg, &[Arg::U64(input), Arg::U64(out)])
}

/// Runs the kernel as it is, which must be clean, and with each bug, which must
/// be found under every schedule.
fn each(params: &str, body: &str, cfg: &LaunchConfig, bytes: usize, bugs: &[Bug]) {
    for completion in ALL {
        run(params, body, cfg, bytes, completion).unwrap_or_else(|e| panic!("{completion:?}: {e}"));
    }
    for b in bugs {
        assert_eq!(body.matches(b.from).count(), 1, "{}: {}", b.what, b.from);
        let wrong = body.replace(b.from, b.to);
        for completion in ALL {
            let found = run(params, &wrong, cfg, bytes, completion);
            // Whoever comes too late for a block finds it gone.
            if b.rule == Rule::EndsEarly
                && matches!(&found, Err(SimError::Fault(f)) if matches!(f.kind, FaultKind::Exited { .. }))
            {
                continue;
            }
            let race = race(&found)
                .unwrap_or_else(|| panic!("{}, {completion:?}: not found, but {found:?}", b.what));
            // Whoever comes too early may come before anything is written.
            if b.rule == Rule::Race && race.rule == Rule::Uninitialised {
                continue;
            }
            assert_eq!(race.rule, b.rule, "{}, {completion:?}: {race}", b.what);
            assert!(race.to_string().contains(b.says), "{}: {race}", b.what);
        }
    }
}

fn race<T>(result: &Result<T, SimError>) -> Option<&Race> {
    match result {
        Err(SimError::Fault(f)) => match &f.kind {
            FaultKind::Race(r) => Some(r),
            _ => None,
        },
        _ => None,
    }
}

const POINTERS: &str = ".param .u64 input, .param .u64 out";

/// 64 threads: a bulk load of 1 KiB, each thread adds one to 16 bytes, a bulk
/// store of the result.
const COPY: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, smem; mov.u32 %r2, bar; mov.u32 %r3, %tid.x;
    setp.ne.u32 %p1, %r3, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r2], 1;
    fence.mbarrier_init.release.cluster;
    READY:
    bar.sync 0;
    @%p1 bra WAIT;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 1024;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 1024, [%r2];
    WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
    @!%p2 bra WAIT;
    shl.b32 %r4, %r3, 4; add.u32 %r5, %r1, %r4;
    ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r5];
    add.u32 %r6, %r6, 1;
    st.shared.v4.b32 [%r5], {%r6, %r7, %r8, %r9};
    fence.proxy.async.shared::cta;
    bar.sync 1;
    @%p1 bra DONE;
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r1], 1024;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
    DONE:
    ret;";

#[test]
fn a_pipeline_of_bulk_copies() {
    let cfg = LaunchConfig {
        dynamic_smem: 2048,
        ..LaunchConfig::new(1, 64)
    };
    let wait = "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;\n    @!%p2 bra WAIT;";
    each(
        POINTERS,
        COPY,
        &cfg,
        1024,
        &[
            bug(
                "no wait for the load",
                wait,
                "",
                Rule::Race,
                "mbarrier at shared address",
            ),
            bug(
                "wrong parity",
                "[%r2], 0;\n",
                "[%r2], 1;\n",
                Rule::Race,
                "has not waited for that phase",
            ),
            bug(
                "no fence after the initialisation",
                "fence.mbarrier_init.release.cluster;",
                "",
                Rule::BarrierInit,
                "fence.mbarrier_init",
            ),
            bug(
                "no barrier after the initialisation",
                "bar.sync 0;",
                "",
                Rule::BarrierInit,
                "no barrier makes its initialisation visible",
            ),
            bug(
                "no proxy fence before the store",
                "fence.proxy.async.shared::cta;",
                "",
                Rule::ProxyFence,
                "fence.proxy.async",
            ),
            bug(
                "the proxy fence is for the other space",
                "fence.proxy.async.shared::cta;",
                "fence.proxy.async.global;",
                Rule::ProxyFence,
                "fence.proxy.async",
            ),
            bug(
                "the proxy fence comes too late",
                "fence.proxy.async.shared::cta;\n    bar.sync 1;",
                "bar.sync 1;\n    @!%p1 fence.proxy.async.shared::cta;\n@%p1 bra DONE; add.u32 %r6, %r6, 1; st.shared.b32 [%r1], %r6;",
                Rule::ProxyFence,
                "written by lane 0 of warp 0",
            ),
            bug(
                "no barrier before the store",
                "bar.sync 1;",
                "",
                Rule::Race,
                "no barrier",
            ),
            bug(
                "the source is freed too early",
                "cp.async.bulk.wait_group.read 0;",
                "",
                Rule::EndsEarly,
                "wait_group.read",
            ),
            bug(
                "the group is not committed",
                "cp.async.bulk.commit_group;",
                "",
                Rule::EndsEarly,
                "wait_group.read",
            ),
            bug(
                "the source is reused too early",
                "cp.async.bulk.wait_group.read 0;",
                "st.shared.b32 [%r1], %r3;\n cp.async.bulk.wait_group.read 0;",
                Rule::Race,
                "wait_group.read by the thread",
            ),
            bug(
                "the object is overwritten",
                "add.u32 %r6, %r6, 1;",
                "st.shared.b32 [%r2+4], %r6;",
                Rule::BarrierObject,
                "live mbarrier",
            ),
            bug(
                "the object is initialised again",
                "add.u32 %r6, %r6, 1;",
                "@!%p1 mbarrier.init.shared::cta.b64 [%r2], 1;",
                Rule::BarrierObject,
                "mbarrier.inval",
            ),
            bug(
                "bytes that never come",
                "DONE:",
                "DONE: @!%p1 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 512;",
                Rule::TransactionBytes,
                "still expects 512 bytes",
            ),
            bug(
                "the load is not waited for by anyone",
                "DONE:",
                "DONE: @!%p1 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 512;\n @!%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd1], 512, [%r2];",
                Rule::EndsEarly,
                "no thread has waited for",
            ),
        ],
    );
}

/// Two copies signal an mbarrier that expects the bytes of one: it depends on
/// the order in which they come whether the phase completes too early or never.
#[test]
fn bytes_that_do_not_add_up() {
    let cfg = LaunchConfig {
        dynamic_smem: 2048,
        ..LaunchConfig::new(1, 64)
    };
    let wrong = COPY.replace(
        "_, [%r2], 1024;",
        "_, [%r2], 512;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd1], 512, [%r2];",
    );
    for completion in ALL {
        match run(POINTERS, &wrong, &cfg, 1024, completion) {
            Err(SimError::Deadlock(d)) => assert!(d.to_string().contains("-1024 bytes"), "{d}"),
            found => {
                let race = race(&found).unwrap_or_else(|| panic!("{completion:?}: {found:?}"));
                let words = race.to_string();
                assert!(words.contains("has not waited for that phase"), "{words}");
            }
        }
    }
}

/// Two warps exchange words through shared memory, then lanes of one warp do.
const EXCHANGE: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, smem; mov.u32 %r3, %tid.x;
    mul.wide.u32 %rd3, %r3, 4; add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
    ld.global.b32 %r4, [%rd1];
    shl.b32 %r5, %r3, 2; add.u32 %r6, %r1, %r5;
    st.shared.b32 [%r6], %r4;
    bar.sync 0;
    xor.b32 %r7, %r5, 128; add.u32 %r7, %r7, %r1;
    ld.shared.b32 %r8, [%r7];
    bar.sync 1;
    st.shared.b32 [%r6], %r8;
    bar.warp.sync -1;
    xor.b32 %r9, %r5, 4; add.u32 %r9, %r9, %r1;
    ld.shared.b32 %r10, [%r9];
    mov.u32 %r11, %ctaid.x; add.u32 %r10, %r10, %r11;
    mul.wide.u32 %rd4, %r11, 256; add.s64 %rd2, %rd2, %rd4;
    st.global.b32 [%rd2], %r10;
    ret;";

#[test]
fn threads_that_exchange_words() {
    let cfg = LaunchConfig {
        dynamic_smem: 1024,
        ..LaunchConfig::new(2, 64)
    };
    each(
        POINTERS,
        EXCHANGE,
        &cfg,
        512,
        &[
            bug(
                "read before the barrier",
                "bar.sync 0;",
                "",
                Rule::Race,
                "no barrier",
            ),
            bug(
                "written before all have read",
                "bar.sync 1;",
                "",
                Rule::Race,
                "no barrier",
            ),
            bug(
                "lanes of one warp",
                "bar.warp.sync -1;",
                "",
                Rule::Race,
                "bar.warp.sync",
            ),
            bug(
                "only half of the warp meets",
                "bar.warp.sync -1;",
                "and.b32 %r12, %r3, 1; setp.eq.u32 %p2, %r12, 0; @%p2 bar.warp.sync 0x55555555;",
                Rule::Race,
                "bar.warp.sync",
            ),
            bug(
                "a word that nobody wrote",
                "ld.shared.b32 %r10, [%r9];",
                "ld.shared.b32 %r10, [%r9+512];",
                Rule::Uninitialised,
                "nothing has written",
            ),
            bug(
                "blocks write one place",
                "add.s64 %rd2, %rd2, %rd4;",
                "",
                Rule::Race,
                "two clusters",
            ),
        ],
    );
}

/// A block writes, raises a flag, and another block, which waits for it, reads.
const FLAG: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0;
    @%p1 bra READER;
    mov.u32 %r2, 42;
    st.global.b32 [%rd2], %r2;
    mov.u32 %r3, 1;
    st.release.gpu.global.b32 [%rd2+64], %r3;
    ret;
    READER:
    ld.acquire.gpu.global.b32 %r4, [%rd2+64];
    setp.eq.u32 %p2, %r4, 0;
    @%p2 bra READER;
    ld.global.b32 %r5, [%rd2];
    st.global.b32 [%rd2+128], %r5;
    ret;";

#[test]
fn blocks_that_hand_over_through_global_memory() {
    each(
        POINTERS,
        FLAG,
        &LaunchConfig::new(2, 1),
        256,
        &[
            bug(
                "relaxed store",
                "st.release.gpu",
                "st.relaxed.gpu",
                Rule::Race,
                "release and acquire",
            ),
            bug(
                "relaxed load",
                "ld.acquire.gpu",
                "ld.relaxed.gpu",
                Rule::Race,
                "release and acquire",
            ),
            bug(
                "plain store",
                "st.release.gpu.global",
                "st.global",
                Rule::Race,
                "",
            ),
            bug(
                "narrow release",
                "st.release.gpu",
                "st.release.cta",
                Rule::Race,
                "scope",
            ),
            bug(
                "narrow acquire",
                "ld.acquire.gpu",
                "ld.acquire.cta",
                Rule::Race,
                "scope",
            ),
        ],
    );
    // Fences do it, too, around relaxed accesses.
    let fenced = FLAG
        .replace(
            "st.release.gpu.global",
            "fence.acq_rel.gpu; st.relaxed.gpu.global",
        )
        .replace("ld.acquire.gpu", "ld.relaxed.gpu")
        .replace("ld.global.b32 %r5", "fence.acq_rel.gpu; ld.global.b32 %r5");
    let fence = "fence.acq_rel.gpu; st";
    let bugs = [
        bug(
            "no fence before the flag",
            fence,
            "st",
            Rule::Race,
            "release and acquire",
        ),
        bug(
            "a narrow fence before the flag",
            fence,
            "fence.acq_rel.cta; st",
            Rule::Race,
            "release and acquire",
        ),
        bug(
            "no fence behind the flag",
            "fence.acq_rel.gpu; ld",
            "ld",
            Rule::Race,
            "release and acquire",
        ),
    ];
    each(POINTERS, &fenced, &LaunchConfig::new(2, 1), 256, &bugs);
}

/// Every block adds to a sum of its own and counts itself; the last one adds up
/// and clears the counter for the next launch with a plain store.
const LAST: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3;
    st.global.b32 [%rd4], %r1;
    fence.acq_rel.gpu;
    atom.global.add.u32 %r2, [%rd2+64], 1;
    mov.u32 %r3, %nctaid.x; sub.u32 %r3, %r3, 1; setp.ne.u32 %p1, %r2, %r3;
    @%p1 bra DONE;
    membar.gl;
    ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd2];
    add.u32 %r4, %r4, %r5; add.u32 %r6, %r6, %r7; add.u32 %r4, %r4, %r6;
    st.global.b32 [%rd2+128], %r4;
    mov.u32 %r8, 0; st.global.b32 [%rd2+64], %r8;
    DONE: ret;";

#[test]
fn the_last_block_adds_up() {
    let bugs = [
        bug(
            "no fence before the counter",
            "fence.acq_rel.gpu;",
            "",
            Rule::Race,
            "two clusters",
        ),
        bug(
            "no fence behind the counter",
            "membar.gl;",
            "",
            Rule::Race,
            "two clusters",
        ),
        bug(
            "a narrow fence",
            "fence.acq_rel.gpu;",
            "fence.acq_rel.cta;",
            Rule::Race,
            "",
        ),
        bug(
            "a write behind the fence",
            "fence.acq_rel.gpu;",
            "fence.acq_rel.gpu; add.u32 %r1, %r1, 5; st.global.b32 [%rd4], %r1;",
            Rule::Race,
            "two clusters",
        ),
    ];
    each(POINTERS, LAST, &LaunchConfig::new(4, 1), 256, &bugs);
}

/// A block writes into its neighbour's shared memory.
const CLUSTER: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, smem; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank;
    xor.b32 %r4, %r3, 1; mapa.shared::cluster.u32 %r5, %r1, %r4;
    shl.b32 %r6, %r2, 2; add.u32 %r7, %r5, %r6; add.u32 %r8, %r1, %r6;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    st.shared::cluster.b32 [%r7], %r2;
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    ld.shared::cluster.b32 %r9, [%r7]; ld.shared.b32 %r11, [%r8]; add.u32 %r9, %r9, %r11;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    mad.lo.u32 %r10, %r3, 32, %r2; mul.wide.u32 %rd3, %r10, 4; add.s64 %rd4, %rd2, %rd3;
    st.global.b32 [%rd4], %r9;
    ret;";

#[test]
fn blocks_of_a_cluster() {
    let cfg = LaunchConfig {
        cluster: [2, 1, 1],
        dynamic_smem: 1024,
        ..LaunchConfig::new(2, 32)
    };
    let both = "barrier.cluster.arrive.release.aligned;\n    barrier.cluster.wait.acquire.aligned;";
    let last = "add.u32 %r9, %r9, %r11;\n    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    each(
        POINTERS,
        CLUSTER,
        &cfg,
        256,
        &[
            bug("no barrier", both, "", Rule::Race, "barrier.cluster"),
            bug(
                "a barrier of the block only",
                both,
                "bar.sync 0;",
                Rule::Race,
                "barrier.cluster",
            ),
            bug(
                "the block ends while its neighbour reads",
                last,
                "add.u32 %r9, %r9, %r11;",
                Rule::EndsEarly,
                "barrier.cluster",
            ),
            bug(
                "a relaxed arrival",
                "barrier.cluster.arrive.release.aligned",
                "barrier.cluster.arrive.relaxed.aligned",
                Rule::Race,
                "barrier.cluster",
            ),
        ],
    );
}

/// `cp.async` through shared memory, with one group in flight.
const CP_ASYNC: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, smem; mov.u32 %r3, %tid.x;
    mul.wide.u32 %rd3, %r3, 16; add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
    shl.b32 %r4, %r3, 4; add.u32 %r5, %r1, %r4;
    cp.async.cg.shared.global [%r5], [%rd1], 16;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    xor.b32 %r6, %r4, 512; add.u32 %r6, %r6, %r1;
    ld.shared.v4.b32 {%r7, %r8, %r9, %r10}, [%r6];
    st.global.v4.b32 [%rd2], {%r7, %r8, %r9, %r10};
    ret;";

#[test]
fn groups_of_cp_async() {
    let cfg = LaunchConfig {
        dynamic_smem: 1024,
        ..LaunchConfig::new(1, 64)
    };
    each(
        POINTERS,
        CP_ASYNC,
        &cfg,
        1024,
        &[
            bug(
                "no wait",
                "cp.async.wait_group 0;",
                "",
                Rule::Race,
                "cp.async.wait_group",
            ),
            bug(
                "one group may be missing",
                "cp.async.wait_group 0;",
                "cp.async.wait_group 1;",
                Rule::Race,
                "cp.async.wait_group",
            ),
            bug(
                "not committed",
                "cp.async.commit_group;",
                "",
                Rule::Race,
                "cp.async.wait_group",
            ),
            bug("no barrier", "bar.sync 0;", "", Rule::Race, ""),
        ],
    );
}

/// One wgmma of operands that threads have written.
const WGMMA: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .f32 %f<8>;
    ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, smem; mov.u32 %r3, %tid.x;
    shl.b32 %r4, %r3, 4; add.u32 %r5, %r1, %r4;
    mov.u32 %r6, 0x38383838;
    st.shared.v4.b32 [%r5], {%r6, %r6, %r6, %r6};
    st.shared.v4.b32 [%r5+2048], {%r6, %r6, %r6, %r6};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    shr.u32 %r7, %r1, 4; cvt.u64.u32 %rd3, %r7;
    or.b64 %rd3, %rd3, 0x0000001000080000;
    add.s64 %rd4, %rd3, 128;
    mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
    setp.eq.u32 %p1, %r3, %r3;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, %rd3, %rd4, %p1, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    mul.wide.u32 %rd5, %r3, 16; add.s64 %rd6, %rd2, %rd5;
    st.global.v4.f32 [%rd6], {%f1, %f2, %f3, %f4};
    bar.sync 1;
    st.shared.v4.b32 [%r5], {%r6, %r6, %r6, %r3};
    ret;";

#[test]
fn tensor_cores() {
    let cfg = LaunchConfig {
        dynamic_smem: 8192,
        ..LaunchConfig::new(1, 128)
    };
    each(
        POINTERS,
        WGMMA,
        &cfg,
        2048,
        &[
            bug(
                "no proxy fence",
                "fence.proxy.async.shared::cta;",
                "",
                Rule::ProxyFence,
                "fence.proxy.async",
            ),
            bug("no barrier", "bar.sync 0;", "", Rule::Race, "no barrier"),
            bug(
                "no wgmma.fence",
                "wgmma.fence.sync.aligned;",
                "",
                Rule::WgmmaFence,
                "first wgmma",
            ),
            bug(
                "zeroed behind the fence",
                "wgmma.fence.sync.aligned;",
                "wgmma.fence.sync.aligned; mov.f32 %f1, 0f00000000;",
                Rule::WgmmaFence,
                "wgmma.fence is missing",
            ),
            bug(
                "accumulators that nothing has written",
                "mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;",
                "",
                Rule::Uninitialised,
                "scale-d",
            ),
            bug(
                "no commit",
                "wgmma.commit_group.sync.aligned;",
                "",
                Rule::WgmmaInFlight,
                "wait_group",
            ),
            bug(
                "no wait",
                "wgmma.wait_group.sync.aligned 0;",
                "",
                Rule::WgmmaInFlight,
                "wait_group",
            ),
            bug(
                "one group may be in flight",
                "wgmma.wait_group.sync.aligned 0;",
                "wgmma.wait_group.sync.aligned 1;",
                Rule::WgmmaInFlight,
                "wait_group",
            ),
            bug(
                "operands change too early",
                "wgmma.wait_group.sync.aligned 0;",
                "st.shared.v4.b32 [%r5], {%r6, %r6, %r6, %r3};\n wgmma.wait_group.sync.aligned 0;",
                Rule::Race,
                "wgmma.wait_group",
            ),
        ],
    );
}

#[test]
fn memory_that_the_host_has_not_written() {
    let gpu = gpu(Completion::Early);
    let m = load(
        &gpu,
        &kernel(
            ".param .u64 a",
            ".reg .b64 %rd<2>; .reg .b32 %r<2>; ld.param.u64 %rd1, [a]; ld.global.b32 %r1, [%rd1]; st.global.b32 [%rd1], %r1; ret;",
        ),
    );
    let a = gpu.alloc(64, 256).expect("memory");
    let cfg = LaunchConfig::new(1, 1);
    let found = launch(&gpu, &m, &cfg, &[Arg::U64(a)]);
    let race = race(&found).expect("not written");
    assert_eq!(race.rule, Rule::Uninitialised);
    assert_eq!(race.place.map(|p| (p.address, p.bytes)), Some((a, 4)));
    gpu.fill(a, 0, 64).expect("allocated");
    launch(&gpu, &m, &cfg, &[Arg::U64(a)]).expect("written now");
}
