//! Every kind of error: it must name the kernel, the PTX line, the thread and
//! what is wrong.

mod common;

use common::*;
use mcc_sim::{Completion, FaultKind, Gpu, GpuConfig, LaunchConfig, SimError};

/// Runs a kernel with one parameter, a buffer of 256 bytes.
fn run(threads: u32, body: &str) -> SimError {
    run_on(&unchecked(Completion::Early), threads, body)
}

fn run_on(gpu: &Gpu, threads: u32, body: &str) -> SimError {
    let text = kernel(
        ".param .u64 out",
        &format!(
            r"
.reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>; .reg .f32 %f<99>;
.shared .align 8 .b64 bar;
ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
{body}
ret;"
        ),
    );
    let out = gpu.alloc(256, 256).expect("memory");
    let m = match gpu.load_module(&text) {
        Ok(m) => m,
        Err(e) => return e,
    };
    let error =
        launch(gpu, &m, &LaunchConfig::new(2, threads), &[Arg::U64(out)]).expect_err("must fail");
    if let SimError::Fault(f) = &error {
        // The line is the one whose text is given.
        let line = text
            .lines()
            .nth(f.line as usize - 1)
            .expect("a line of the text");
        assert_eq!(line.trim(), f.text);
    }
    error
}

fn fault(error: SimError) -> mcc_sim::Fault {
    match error {
        SimError::Fault(f) => *f,
        other => panic!("not a fault: {other}"),
    }
}

#[test]
fn out_of_bounds_names_thread_and_distance() {
    let f = fault(run(
        96,
        "
mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
st.global.u32 [%rd3], %r1;",
    ));
    assert_eq!(
        (f.kernel.as_str(), f.warp, f.lane, f.thread),
        ("k", 2, Some(0), Some([64, 0, 0]))
    );
    assert_eq!(f.text, "st.global.u32 [%rd3], %r1;");
    let FaultKind::OutOfBounds {
        space: "global",
        bytes: 4,
        hint,
        ..
    } = &f.kind
    else {
        panic!("{f}")
    };
    assert!(
        hint.contains("0 bytes past the end of the allocation of 256 bytes"),
        "{hint}"
    );
    let text = SimError::Fault(Box::new(f)).to_string();
    assert!(
        text.contains("kernel `k`, PTX line") && text.contains("warp 2, lane 0, thread (64, 0, 0)"),
        "{text}"
    );
}

#[test]
fn null_shared_and_local_bounds() {
    let oob = |body: &str| match fault(run(32, body)).kind {
        FaultKind::OutOfBounds { space, .. } => space,
        other => panic!("{other}"),
    };
    assert_eq!(oob("mov.u64 %rd2, 0; ld.u32 %r2, [%rd2+8];"), "generic");
    assert_eq!(oob("mov.u32 %r2, 0; ld.shared.u32 %r3, [%r2];"), "shared");
    assert_eq!(
        oob("mov.u32 %r2, bar; ld.shared.u32 %r3, [%r2+8];"),
        "shared"
    );
    assert_eq!(oob("mov.u32 %r2, 64; ld.local.u32 %r3, [%r2];"), "local");
    assert_eq!(oob("ld.param.u32 %r3, [out+8];"), "parameter");
}

#[test]
fn misaligned() {
    let f = fault(run(
        32,
        "
setp.eq.u32 %p1, %r1, 9; selp.b64 %rd2, 2, 0, %p1; add.s64 %rd3, %rd1, %rd2;
ld.global.u32 %r2, [%rd3];",
    ));
    assert_eq!(f.lane, Some(9));
    assert!(
        matches!(
            f.kind,
            FaultKind::Misaligned {
                space: "global",
                align: 4,
                ..
            }
        ),
        "{f}"
    );
}

#[test]
fn trap_and_asserts() {
    let f = fault(run(64, "setp.eq.u32 %p1, %r1, 40; @%p1 trap;"));
    assert_eq!((f.kind, f.warp, f.lane), (FaultKind::Trap, 1, Some(8)));
}

#[test]
fn divergent_barrier() {
    let f = fault(run(
        32,
        "
setp.lt.u32 %p1, %r1, 4; @%p1 bra A;
bar.sync 0;
A: add.u32 %r2, %r1, 1;",
    ));
    assert!(
        matches!(
            f.kind,
            FaultKind::Divergent {
                active: 0xffff_fff0,
                expected: u32::MAX,
                ..
            }
        ),
        "{f}"
    );
    assert_eq!(f.text, "bar.sync 0;");
}

#[test]
fn dead_lock_tells_who_waits_for_what() {
    let error = run(
        64,
        "
mov.u32 %r2, bar; setp.ne.u32 %p1, %r1, 0; @%p1 bra S;
mbarrier.init.shared::cta.b64 [%r2], 2;
S: bar.sync 0;
setp.gt.u32 %p2, %r1, 31; @%p2 bra OTHER;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], 0;
@!%p3 bra W;
OTHER: bar.sync 1;",
    );
    // 32 lanes arrive at a barrier for 2.
    let f = fault(error);
    assert!(f.to_string().contains("too many arrivals"), "{f}");

    let error = run(
        64,
        "
mov.u32 %r2, bar; setp.ne.u32 %p1, %r1, 0; @%p1 bra S;
mbarrier.init.shared::cta.b64 [%r2], 1;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
S: bar.sync 0;
setp.gt.u32 %p2, %r1, 31; @%p2 bra OTHER;
W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], 0;
@!%p3 bra W;
OTHER: bar.sync 1;",
    );
    let SimError::Deadlock(d) = error else {
        panic!("{error}")
    };
    assert_eq!(d.waits.len(), 2);
    assert!(d.waits[0].text.contains("try_wait"));
    assert!(
        d.waits[0]
            .reason
            .contains("parity 0; 0 of 1 arrivals and 64 bytes are missing"),
        "{}",
        d.waits[0].reason
    );
    assert!(
        d.waits[1]
            .reason
            .contains("barrier 1, where 32 of 64 threads are"),
        "{}",
        d.waits[1].reason
    );
    assert!(d.to_string().contains("kernel `k` is dead-locked"));
}

#[test]
fn mbarrier_misuse() {
    let kind = |body: &str| fault(run(32, body)).kind.to_string();
    assert!(
        kind("mov.u32 %r2, bar; mbarrier.arrive.shared::cta.b64 _, [%r2];")
            .contains("no mbarrier is initialised")
    );
    assert!(
        kind("mov.u32 %r2, bar; mbarrier.init.shared::cta.b64 [%r2], 0;")
            .contains("arrival count 0")
    );
    assert!(
        kind("mov.u32 %r2, bar; mbarrier.init.shared::cta.b64 [%r2+4], 1;")
            .contains("not aligned to 8")
    );
}

#[test]
fn tensor_maps_and_descriptors() {
    let kind = |body: &str| fault(run(128, body)).kind;
    let bad = kind("
mov.u32 %r2, bar; mov.u32 %r3, 2048;
setp.eq.u32 %p1, %r1, 0;
@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd1, {%r1, %r1}], [%r2];");
    assert!(
        matches!(&bad, FaultKind::TensorMap(m) if m.contains("TensorMap::encode")),
        "{bad}"
    );
    let bulk = kind(
        "mov.u32 %r2, bar; mov.u32 %r3, 2048;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 24, [%r2];",
    );
    assert!(bulk.to_string().contains("not a multiple of 16"), "{bulk}");
    let wgmma = "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, %rd2, %rd3, 1, 1, 1;";
    let far = kind(&format!(
        "mov.u64 %rd2, 0x4000004000010040; mov.u64 %rd3, %rd2;\n{}",
        wgmma.replace(", 1, 1, 1;", ", %p8, 1, 1;")
    ));
    assert!(
        matches!(&far, FaultKind::Descriptor { message, .. } if message.contains("shared address")),
        "{far}"
    );
    let base = kind(&format!(
        "mov.u64 %rd2, 0x4002004000010040; mov.u64 %rd3, %rd2;\n{}",
        wgmma.replace(", 1, 1, 1;", ", %p8, 1, 1;")
    ));
    assert!(base.to_string().contains("base offset"), "{base}");
}

#[test]
fn what_the_simulator_lacks_is_named_before_it_runs() {
    let error = run(32, "stacksave.u64 %rd2;");
    let SimError::Unsupported {
        kernel, text, line, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((kernel.as_str(), text.as_str()), ("k", "stacksave.u64"));
    assert!(*line > 0);
    assert!(matches!(
        run(32, "setmaxnreg.inc.sync.aligned.u32 250;"),
        SimError::Invalid { .. }
    ));
    assert!(matches!(
        run(32, "frobnicate.u32 %r1;"),
        SimError::BadPtx { .. }
    ));
}

/// Calls are inlined: what has no end is refused, and not unrolled.
#[test]
fn calls_without_end_are_refused() {
    let text = |functions: &str| {
        format!("{HEADER}{functions}\n.visible .entry k(.param .u64 out) {{ call f0; ret; }}")
    };
    let gpu = gpu(Completion::Early);
    let refused = |functions: &str| match gpu.load_module(&text(functions)) {
        Ok(_) => panic!("not refused"),
        Err(e) => e.to_string(),
    };
    let circle = ".func f1() ; .func f0() { call f1; ret; } .func f1() { call f0; ret; }";
    let message = refused(circle);
    assert!(message.contains("a recursive call"), "{message}");
    // Each calls the next twice: 2^40 instructions.
    let mut tower = String::from(".func f40() { ret; }\n");
    for i in (0..40).rev() {
        tower = format!(
            "{tower}.func f{i}() {{ call f{0}; call f{0}; ret; }}\n",
            i + 1
        );
    }
    let message = refused(&tower);
    assert!(message.contains("instructions"), "{message}");
}

#[test]
fn endless_loops_meet_the_limit() {
    let gpu = Gpu::new(GpuConfig {
        instruction_limit: Some(100_000),
        ..GpuConfig::default()
    });
    let f = fault(run_on(&gpu, 32, "L: add.u32 %r2, %r2, 1; bra L;"));
    assert_eq!(f.kind, FaultKind::InstructionLimit(100_000));
}

#[test]
fn launches_beyond_the_limits() {
    let gpu = gpu(Completion::Early);
    let text = format!("{HEADER}.visible .entry k(.param .u32 n) .maxntid 128, 1, 1 {{ ret; }}");
    let m = load(&gpu, &text);
    let attempt = |cfg: LaunchConfig, params: usize| {
        let error = gpu
            .launch(&m, "k", &cfg, &vec![0; params])
            .expect_err("must fail");
        let SimError::Launch { message, .. } = error else {
            panic!("{error}")
        };
        message
    };
    let ok = LaunchConfig::new(1, 128);
    assert!(attempt(LaunchConfig::new(1, 1025), 4).contains("over 1024"));
    assert!(attempt(LaunchConfig::new(1, 160), 4).contains("allows 128"));
    assert!(
        attempt(
            LaunchConfig {
                dynamic_smem: 232_449,
                ..ok
            },
            4
        )
        .contains("over 232448")
    );
    assert!(
        attempt(
            LaunchConfig {
                cluster: [2, 1, 1],
                ..ok
            },
            4
        )
        .contains("no multiple")
    );
    assert!(
        attempt(
            LaunchConfig {
                grid: [1, 70_000, 1],
                ..ok
            },
            4
        )
        .contains("grid")
    );
    assert!(attempt(LaunchConfig::new(0, 32), 4).contains("empty"));
    assert!(attempt(ok, 8).contains("8 bytes of parameters instead of 4"));
    let missing = gpu.launch(&m, "j", &ok, &[]).expect_err("no such kernel");
    assert_eq!(
        missing.to_string(),
        "the module has no kernel `j`; it has k"
    );
}

#[test]
fn memory_errors_of_the_host() {
    let gpu = gpu(Completion::Early);
    let a = gpu.alloc(100, 256).expect("memory");
    assert!(gpu.write(a + 90, &[0; 11]).is_err());
    assert!(gpu.read(a - 1, &mut [0]).is_err());
    gpu.fill(a, 3, 100).expect("inside");
    gpu.free(a).expect("allocated");
    assert!(gpu.fill(a, 0, 1).is_err());
}
