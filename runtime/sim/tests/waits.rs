//! Waits with a time limit, the timer that they look at, and launches that wait for earlier ones.

mod common;

use common::*;
use mcc_sim::{FaultKind, Gpu, GpuConfig, LaunchConfig, LaunchStats, SimError};

/// Runs kernel `k` of one pointer to 256 bytes with `body`; what it left there, or why it failed.
fn run(cfg: LaunchConfig, body: &str) -> Result<(LaunchStats, Vec<u8>), SimError> {
    let gpu = Gpu::new(GpuConfig {
        // A dead-lock is to be found long before.
        instruction_limit: Some(100_000),
        threads: 1,
        ..GpuConfig::default()
    });
    let text = kernel(
        ".param .u64 out",
        &format!(
            r"
.reg .pred %p<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
.shared .align 8 .b64 bar;
.shared .align 16 .b8 room[64];
ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, bar; mov.u32 %r4, room;
{body}
ret;"
        ),
    );
    let out = gpu.alloc(256, 256)?;
    let module = load(&gpu, &text);
    let stats = launch(&gpu, &module, &cfg, &[Arg::U64(out)])?;
    let mut bytes = vec![0; 256];
    gpu.read(out, &mut bytes)?;
    Ok((stats, bytes))
}

fn fault(body: &str, programmatic: bool) -> FaultKind {
    let cfg = LaunchConfig {
        programmatic,
        ..LaunchConfig::new(1, 32)
    };
    match run(cfg, body) {
        Err(SimError::Fault(f)) => f.kind,
        other => panic!("not a fault: {other:?}"),
    }
}

/// As compiled kernels wait: one try, then tries by the clock, and a trap when it has run for `limit`.
/// `bar` expects two arrivals and gets one of each thread.
fn bounded_wait(limit: u64) -> String {
    format!(
        "
setp.ne.u32 %p1, %r1, 0; @%p1 bra INIT;
mbarrier.init.shared::cta.b64 [%r2], 33;
INIT: bar.sync 0;
mbarrier.arrive.shared::cta.b64 _, [%r2];
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
@%p2 bra DONE;
mov.u64 %rd2, %globaltimer;
AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
@%p2 bra DONE;
mov.u64 %rd3, %globaltimer; sub.s64 %rd3, %rd3, %rd2; setp.gt.s64 %p3, %rd3, {limit};
@!%p3 bra AGAIN;
trap;
DONE:"
    )
}

#[test]
fn a_wait_with_a_time_limit_that_never_ends_is_a_dead_lock() {
    let error = run(LaunchConfig::new(1, 32), &bounded_wait(10_000_000_000)).expect_err("waits");
    let SimError::Deadlock(d) = error else {
        panic!("{error}")
    };
    assert_eq!(d.waits.len(), 1);
    assert!(d.waits[0].text.starts_with("AGAIN: mbarrier.try_wait"));
    assert!(
        d.waits[0]
            .reason
            .contains("parity 0; 1 of 33 arrivals and 0 bytes are missing"),
        "{}",
        d.waits[0].reason
    );
}

#[test]
fn time_passes_in_a_wait() {
    // Each try that comes back takes a few instructions: a short limit is reached before the dead-lock shows.
    let error = run(LaunchConfig::new(1, 32), &bounded_wait(50)).expect_err("waits");
    assert!(
        matches!(&error, SimError::Fault(f) if f.kind == FaultKind::Trap),
        "{error}"
    );
}

#[test]
fn the_timer_goes_on_from_launch_to_launch() {
    let gpu = gpu(mcc_sim::Completion::Early);
    let text = kernel(
        ".param .u64 out",
        ".reg .b64 %rd<9>; ld.param.u64 %rd1, [out];
mov.u64 %rd2, %globaltimer; mov.u64 %rd3, %clock64; mov.u64 %rd4, %globaltimer;
st.global.v2.u64 [%rd1], {%rd2, %rd4}; st.global.u64 [%rd1+16], %rd3; ret;",
    );
    let out = gpu.alloc(256, 256).expect("memory");
    let module = load(&gpu, &text);
    let mut last = 0;
    for _ in 0..3 {
        launch(&gpu, &module, &LaunchConfig::new(4, 32), &[Arg::U64(out)]).expect("runs");
        let mut bytes = [0; 24];
        gpu.read(out, &mut bytes).expect("allocated");
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..][..8].try_into().expect("8 bytes"));
        assert!(word(0) >= last && word(1) > word(0), "{last}, {bytes:?}");
        // The clock counts from the start of the block.
        assert!(word(2) < 16, "{}", word(2));
        last = word(1);
    }
}

#[test]
fn a_programmatic_launch_waits_before_it_touches_global_memory() {
    let store = "st.global.u32 [%rd1], 7;";
    let wait = "griddepcontrol.wait; griddepcontrol.launch_dependents;";
    let early = |body: &str| {
        let kind = fault(body, true);
        assert!(
            matches!(kind, FaultKind::EarlyAccess { .. }),
            "{body}: {kind}"
        );
    };
    for access in [
        store,
        "ld.global.u32 %r5, [%rd1];",
        "ld.global.nc.u32 %r5, [%rd1];",
        "ld.u32 %r5, [%rd1];",
        "atom.global.add.u32 %r5, [%rd1], 1;",
        "cp.async.ca.shared.global [%r4], [%rd1], 4;",
        "mbarrier.init.shared::cta.b64 [%r2], 1;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r4], [%rd1], 16, [%r2];",
        "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r4], 16;",
    ] {
        early(&format!("{access} {wait}"));
        // One thread that has not waited is enough.
        early(&format!(
            "setp.eq.u32 %p1, %r1, 5; @%p1 bra SKIP; griddepcontrol.wait; SKIP: {access}"
        ));
        run(
            LaunchConfig {
                programmatic: true,
                ..LaunchConfig::new(1, 32)
            },
            &format!("{wait} {access}"),
        )
        .unwrap_or_else(|e| panic!("{access}: {e}"));
        // An ordinary launch runs alone.
        run(LaunchConfig::new(1, 32), &format!("{access} {wait}"))
            .unwrap_or_else(|e| panic!("{access}: {e}"));
    }
    // Shared memory and parameters are nobody else's.
    let prologue = "st.shared.u32 [%r2], %r1; ld.param.u64 %rd3, [out];";
    let cfg = LaunchConfig {
        programmatic: true,
        ..LaunchConfig::new(1, 32)
    };
    let (_, out) = run(cfg, &format!("{prologue} {wait} {store}")).expect("waits first");
    assert_eq!(out[0], 7);
}

#[test]
fn a_programmatic_launch_waits_in_every_thread() {
    assert_eq!(fault("bar.sync 0;", true), FaultKind::NoGridWait);
    let some = "setp.lt.u32 %p1, %r1, 16; @%p1 griddepcontrol.wait;";
    assert_eq!(fault(some, true), FaultKind::NoGridWait);
}
