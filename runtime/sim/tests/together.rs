//! Blocks and devices that wait for each other through memory, dead-locks among them, and what a block has to give:
//! registers, and shared memory while it runs.

mod common;

use common::*;
use mcc_sim::{
    Completion, Deadlock, FaultKind, Gpu, GpuConfig, Launch, LaunchConfig, SimError,
    launch_together,
};

fn small(threads: usize) -> GpuConfig {
    GpuConfig {
        threads,
        sms: 4,
        global_bytes: 1 << 24,
        ..GpuConfig::default()
    }
}

fn words(gpu: &Gpu, at: u64, n: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * n];
    gpu.read(at, &mut bytes).expect("allocated");
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn deadlock<T: std::fmt::Debug>(result: Result<T, SimError>) -> Deadlock {
    match result {
        Err(SimError::Deadlock(d)) => *d,
        other => panic!("not a dead-lock: {other:?}"),
    }
}

/// Zeroed memory that counts as written.
fn zeroed(gpu: &Gpu, bytes: u64) -> u64 {
    let at = gpu.alloc(bytes, 256).expect("memory");
    gpu.fill(at, 0, bytes).expect("allocated");
    at
}

/// Block i takes what block i + 1 gives, and gives one more.
const CHAIN: &str = "
.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd1, [flags]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; mov.u32 %r5, %tid.x;
setp.ne.u32 %p3, %r5, 0; @%p3 ret;
mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
sub.u32 %r3, %r2, 1; setp.eq.u32 %p1, %r1, %r3; mov.u32 %r4, 0; @%p1 bra GIVE;
SPIN: ld.acquire.gpu.global.u32 %r4, [%rd1+4]; setp.eq.u32 %p2, %r4, 0; @%p2 bra SPIN;
GIVE: add.u32 %r4, %r4, 1; st.release.gpu.global.u32 [%rd1], %r4; ret;";

#[test]
fn blocks_wait_for_blocks_that_start_later() {
    for threads in [1, 2] {
        let gpu = Gpu::new(small(threads));
        let m = load(&gpu, &kernel(".param .u64 flags", CHAIN));
        let flags = zeroed(&gpu, 4 * 128);
        // Four SMs hold 32 blocks of 64 threads each.
        let cfg = LaunchConfig::new(128, 64);
        launch(&gpu, &m, &cfg, &[Arg::U64(flags)]).expect("ends");
        let want: Vec<u32> = (1..=128).rev().collect();
        assert_eq!(words(&gpu, flags, 128), want);
    }
}

#[test]
fn blocks_that_find_no_room_are_named_in_the_dead_lock() {
    let gpu = Gpu::new(small(2));
    let m = load(&gpu, &kernel(".param .u64 flags", CHAIN));
    let flags = zeroed(&gpu, 4 * 131);
    // One block more than there is room for, and it is the last that all wait for.
    let cfg = LaunchConfig::new(129, 64);
    let found = deadlock(launch(&gpu, &m, &cfg, &[Arg::U64(flags)]));
    assert_eq!((found.not_started, found.waits.len()), (1, 128));
    let one = &found.waits[5];
    assert_eq!((one.block, one.lanes), ([5, 0, 0], 1));
    assert_eq!(one.reason, "polls without end");
    let text = found.to_string();
    assert!(text.contains("1 blocks have not started"), "{text}");
}

#[test]
fn a_lane_may_wait_for_another_of_its_warp() {
    let gpu = Gpu::new(small(1));
    let body = "
.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd1, [flags]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0;
@%p1 bra SPIN;
st.release.gpu.global.u32 [%rd1], 7; bra DONE;
SPIN: ld.acquire.gpu.global.u32 %r4, [%rd1]; setp.eq.u32 %p2, %r4, 0; @%p2 bra SPIN;
DONE: ret;";
    for body in [
        body.to_owned(),
        // The other way around, so that the branch is taken by the others.
        body.replace("setp.eq.u32 %p1, %r2, 0", "setp.ne.u32 %p1, %r2, 0"),
    ] {
        let m = load(&gpu, &kernel(".param .u64 flags", &body));
        let flags = zeroed(&gpu, 4);
        launch(&gpu, &m, &LaunchConfig::new(1, 32), &[Arg::U64(flags)]).expect("ends");
    }
}

#[test]
fn a_lock_that_nobody_gives_back_is_a_dead_lock() {
    let gpu = Gpu::new(small(2));
    let body = "
.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd1, [flags];
SPIN: atom.acquire.gpu.global.cas.b32 %r1, [%rd1], 0, 1;
setp.ne.u32 %p1, %r1, 0; nanosleep.u32 40; @%p1 bra SPIN;
ret;";
    let m = load(&gpu, &kernel(".param .u64 flags", body));
    let flags = zeroed(&gpu, 4);
    let cfg = LaunchConfig::new(3, 1);
    let found = deadlock(launch(&gpu, &m, &cfg, &[Arg::U64(flags)]));
    assert_eq!((found.not_started, found.waits.len()), (0, 2));
}

#[test]
fn a_loop_that_counts_its_tries_is_not_taken_for_dead() {
    let gpu = Gpu::new(small(1));
    let body = "
.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd1, [flags]; mov.u32 %r2, 0;
SPIN: ld.acquire.gpu.global.u32 %r4, [%rd1]; setp.ne.u32 %p1, %r4, 0; @%p1 bra DONE;
add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 5000; @%p2 bra SPIN;
st.global.u32 [%rd1+4], %r2;
DONE: ret;";
    let m = load(&gpu, &kernel(".param .u64 flags", body));
    let flags = zeroed(&gpu, 8);
    launch(&gpu, &m, &LaunchConfig::new(1, 1), &[Arg::U64(flags)]).expect("gives up by itself");
    assert_eq!(words(&gpu, flags, 2), [0, 5000]);
}

/// All-reduce over a ring: in step s each device puts what it got in step s - 1 into its neighbour's inbox, part s, and
/// a flag behind it; then it adds what it finds in its own.
const RING: &str = "
.reg .pred %p<9>; .reg .b32 %r<19>; .reg .b64 %rd<19>;
ld.param.u64 %rd1, [own]; ld.param.u64 %rd2, [inbox]; ld.param.u64 %rd3, [next];
ld.param.u32 %r1, [steps]; mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x;
mad.lo.u32 %r5, %r3, %r4, %r2; mul.wide.u32 %rd4, %r5, 4;
add.s64 %rd5, %rd1, %rd4;
ld.global.u32 %r6, [%rd5];
mov.u32 %r7, %r6;
mov.u32 %r8, 0;
STEP:
mul.wide.u32 %rd10, %r8, 4096; add.s64 %rd11, %rd10, %rd4;
add.s64 %rd6, %rd3, %rd11; st.global.u32 [%rd6], %r7;
bar.sync 0;
setp.ne.u32 %p1, %r2, 0; @%p1 bra TAKE;
mul.wide.u32 %rd7, %r3, 4; add.s64 %rd7, %rd7, %rd10; add.s64 %rd8, %rd3, %rd7;
st.release.sys.global.u32 [%rd8+2048], 1;
add.s64 %rd9, %rd2, %rd7;
WAIT: ld.acquire.sys.global.u32 %r9, [%rd9+2048]; setp.eq.u32 %p2, %r9, 0; @%p2 bra WAIT;
TAKE: bar.sync 0;
add.s64 %rd12, %rd2, %rd11; ld.global.u32 %r7, [%rd12]; add.u32 %r6, %r6, %r7;
add.u32 %r8, %r8, 1; setp.lt.u32 %p3, %r8, %r1; @%p3 bra STEP;
st.global.u32 [%rd5], %r6;
ret;";

const RING_PARAMS: &str = ".param .u64 own, .param .u64 inbox, .param .u64 next, .param .u32 steps";

/// Runs the ring on `n` devices, the last of them with one step less when it `fails`.
fn ring(config: GpuConfig, n: usize, text: &str, fails: bool) -> Result<Vec<Vec<u32>>, SimError> {
    let mut gpus = vec![Gpu::new(config.clone())];
    for _ in 1..n {
        gpus.push(gpus[0].peer(config.clone()));
    }
    let text = kernel(RING_PARAMS, text);
    let modules: Vec<_> = gpus.iter().map(|g| load(g, &text)).collect();
    let mut own = Vec::new();
    let mut inbox = Vec::new();
    for (d, g) in gpus.iter().enumerate() {
        own.push(zeroed(g, 512));
        inbox.push(zeroed(g, 4096 * n as u64));
        let data: Vec<u8> = (0..128u32)
            .flat_map(|i| ((d as u32 + 1) * 1000 + i).to_le_bytes())
            .collect();
        g.write(own[d], &data)?;
    }
    let params: Vec<Vec<u8>> = (0..n)
        .map(|d| {
            let steps = n as u32 - 1 - u32::from(fails && d == n - 1);
            let mut p = Vec::new();
            for at in [own[d], inbox[d], inbox[(d + 1) % n]] {
                p.extend(at.to_le_bytes());
            }
            p.extend(steps.to_le_bytes());
            p
        })
        .collect();
    let launches: Vec<Launch<'_>> = (0..n)
        .map(|d| Launch {
            gpu: &gpus[d],
            module: &modules[d],
            kernel: "k",
            config: LaunchConfig::new(2, 64),
            params: &params[d],
        })
        .collect();
    let stats = launch_together(&launches)?;
    assert!(stats.iter().all(|s| s.ctas == 2 && s.warp_instructions > 0));
    // Every device sees the memory of every other.
    let seen = (0..n).map(|d| words(&gpus[n - 1 - d], own[d], 128));
    Ok(seen.collect())
}

#[test]
fn four_devices_reduce_over_a_ring() {
    for threads in [1, 2] {
        for (completion, check) in [(Completion::Early, false), (Completion::Random(3), true)] {
            let config = GpuConfig {
                completion,
                check,
                ..small(threads)
            };
            let all = ring(config, 4, RING, false).expect("ends");
            for (d, found) in all.iter().enumerate() {
                for (i, &v) in found.iter().enumerate() {
                    assert_eq!(v, 10_000 + 4 * i as u32, "element {i} of device {d}");
                }
            }
        }
    }
}

#[test]
fn a_flag_for_another_device_needs_system_scope() {
    let config = GpuConfig {
        check: true,
        ..small(2)
    };
    for (from, to) in [
        ("st.release.sys", "st.release.gpu"),
        ("ld.acquire.sys", "ld.acquire.gpu"),
        ("st.release.sys", "st.relaxed.sys"),
    ] {
        match ring(config.clone(), 4, &RING.replace(from, to), false) {
            Err(SimError::Fault(f)) => {
                assert!(matches!(f.kind, FaultKind::Race(_)), "{to}: {}", f.kind);
            }
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn a_ring_in_which_one_device_stops_early_is_dead_locked() {
    let found = deadlock(ring(small(2), 4, RING, true));
    // The device behind it waits for its third part in both blocks; the others have all of theirs.
    let waiting: Vec<(usize, [u32; 3])> = found
        .waits
        .iter()
        .filter(|w| w.reason.contains("polls"))
        .map(|w| (w.device, w.block))
        .collect();
    assert_eq!(waiting, [(0, [0, 0, 0]), (0, [1, 0, 0])], "{found}");
    assert!(!found.to_string().contains("not started"), "{found}");
}

#[test]
fn peers_have_memory_of_their_own_at_addresses_of_their_own() {
    let a = Gpu::new(small(1));
    let b = a.peer(small(1));
    let x = a.alloc(1 << 24, 256).expect("fits");
    let y = b.alloc(1 << 23, 256).expect("fits");
    assert_ne!(x, y);
    let m = load(&a, &kernel("", "ret;"));
    let stranger = Gpu::new(small(1));
    let launch = |gpu| Launch {
        gpu,
        module: &m,
        kernel: "k",
        config: LaunchConfig::new(1, 32),
        params: &[],
    };
    assert!(launch_together(&[launch(&a), launch(&b)]).is_ok());
    let refused = launch_together(&[launch(&a), launch(&stranger)]);
    assert!(
        matches!(refused, Err(SimError::Launch { .. })),
        "{refused:?}"
    );
    assert!(a.alloc(16, 16).is_err() && b.alloc(16, 16).is_ok());
    assert_eq!(a.memory_used().0, 1 << 24);
    b.write(x, &[1, 2, 3, 4]).expect("a peer's memory");
    assert_eq!(words(&a, x, 1), [0x0403_0201]);
}

/// A block of two warpgroups: the first gives registers back after a barrier, the second asks for some.
fn registers(dec: u32, inc: u32, directives: &str) -> Result<(), SimError> {
    let gpu = Gpu::new(small(1));
    let text = format!(
        "{HEADER}.visible .entry k() {directives} {{
.reg .pred %p<4>; .reg .b32 %r<9>;
mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 128; @%p1 bra GIVE;
setmaxnreg.inc.sync.aligned.u32 {inc}; bra DONE;
GIVE: bar.sync 1, 128; setmaxnreg.dec.sync.aligned.u32 {dec};
DONE: ret; }}"
    );
    let m = load(&gpu, &text);
    launch(&gpu, &m, &LaunchConfig::new(1, 256), &[]).map(|_| ())
}

#[test]
fn registers_go_from_warp_to_warp() {
    registers(24, 232, ".maxnreg 128").expect("128 - 24 are as many as 232 - 128");
    // Three of the four warps find 104 more for each of their threads.
    let found = deadlock(registers(32, 232, ".maxnreg 128"));
    let reason = &found.waits[0].reason;
    assert!(
        reason.starts_with("waits for 232 registers") && reason.contains("has 2304 free"),
        "{reason}"
    );
    // Of two blocks an SM holds half of the registers each: 65536 / 2 / 256 are 128 again.
    registers(24, 232, ".maxntid 256 .minnctapersm 2").expect("enough");
    let found = deadlock(registers(32, 232, ".maxntid 256 .minnctapersm 2"));
    assert_eq!(found.waits.len(), 1);
    for (dec, inc, why) in [
        (136, 232, "setmaxnreg.dec to 136"),
        (24, 120, "setmaxnreg.inc to 120"),
    ] {
        match registers(dec, inc, ".maxnreg 128") {
            Err(SimError::Fault(f)) => assert!(f.kind.to_string().contains(why), "{}", f.kind),
            other => panic!("{dec}, {inc}: {other:?}"),
        }
    }
}

#[test]
fn the_memory_of_a_block_that_has_exited_is_gone() {
    let gpu = Gpu::new(small(1));
    // Block 0 ends at once; block 1 reads its memory after a while.
    let run = |wait: &str| {
        let body = format!(
            "
.reg .pred %p<4>; .reg .b32 %r<9>; .shared .align 8 .b32 x;
mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, x; mov.u32 %r5, 0; st.shared.u32 [%r2], %r1;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
setp.eq.u32 %p1, %r1, 0; @%p1 bra DONE;
LOOP: add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 20000; @%p2 bra LOOP;
mapa.shared::cluster.u32 %r3, %r2, 0; ld.shared::cluster.u32 %r4, [%r3];
DONE: {wait} ret;"
        );
        let m = load(&gpu, &kernel("", &body));
        let cfg = LaunchConfig {
            cluster: [2, 1, 1],
            ..LaunchConfig::new(2, 32)
        };
        launch(&gpu, &m, &cfg, &[])
    };
    run("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;").expect("both are there");
    match run("") {
        Err(SimError::Fault(f)) => {
            let gone = FaultKind::Exited {
                address: 0x100_0400,
                block: [0, 0, 0],
            };
            assert_eq!((f.kind, f.block), (gone, [1, 0, 0]));
        }
        other => panic!("{other:?}"),
    }
}
