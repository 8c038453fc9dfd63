//! Kernels of plain instructions: arithmetic, divergence, shared memory, warp
//! operations, atomics, calls.

mod common;

use common::*;
use mcc_sim::{Completion, Gpu, GpuConfig, LaunchConfig};

const P3: &str = ".param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n";

#[test]
fn vector_add_with_an_odd_size() {
    let gpu = gpu(Completion::Early);
    let m = load(
        &gpu,
        &kernel(
            P3,
            r"
        .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %rd<9>; .reg .f32 %f<4>;
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];
        ld.param.u32 %r1, [n];
        mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
        mad.lo.s32 %r5, %r2, %r3, %r4;
        setp.ge.s32 %p1, %r5, %r1;
        @%p1 bra DONE;
        cvta.to.global.u64 %rd4, %rd1;
        mul.wide.s32 %rd5, %r5, 4;
        add.s64 %rd6, %rd4, %rd5;
        ld.global.nc.f32 %f1, [%rd6];
        add.s64 %rd7, %rd2, %rd5;
        ld.f32 %f2, [%rd7];
        add.rn.f32 %f3, %f1, %f2;
        add.s64 %rd8, %rd3, %rd5;
        st.global.f32 [%rd8], %f3;
        DONE: ret;",
        ),
    );
    let n = 1003;
    let a: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
    let b: Vec<f32> = (0..n).map(|i| 100.0 - i as f32).collect();
    let (da, db, dc) = (
        upload_f32(&gpu, &a),
        upload_f32(&gpu, &b),
        gpu.alloc(4 * n as u64, 256).expect("memory"),
    );
    let args = [Arg::U64(da), Arg::U64(db), Arg::U64(dc), Arg::U32(n as u32)];
    let stats = launch(&gpu, &m, &LaunchConfig::new(8, 128), &args).expect("runs");
    assert_eq!(stats.ctas, 8);
    let got = download_f32(&gpu, dc, n);
    assert!((0..n).all(|i| got[i] == a[i] + b[i]));
}

/// A kernel `out[tid] = f(tid)` with one block.
fn map(threads: u32, body: &str) -> Vec<u32> {
    let gpu = gpu(Completion::Early);
    let text = kernel(
        ".param .u64 out",
        &format!(
            r"
        .reg .pred %p<10>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .b16 %h<10>;
        .reg .f64 %d<8>;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x;
        {body}
        STORE:
        mul.wide.u32 %rd2, %r1, 4;
        add.s64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r2;
        ret;"
        ),
    );
    let m = load(&gpu, &text);
    let out = gpu.alloc(4 * u64::from(threads), 256).expect("memory");
    launch(&gpu, &m, &LaunchConfig::new(1, threads), &[Arg::U64(out)])
        .unwrap_or_else(|e| panic!("{e}\n{text}"));
    download_u32(&gpu, out, threads as usize)
}

#[test]
fn warp_sum_by_shuffles() {
    let got = map(
        64,
        r"
        mov.u32 %r2, %r1;
        shfl.sync.bfly.b32 %r3, %r2, 16, 31, -1; add.s32 %r2, %r2, %r3;
        shfl.sync.bfly.b32 %r3, %r2, 8, 31, -1; add.s32 %r2, %r2, %r3;
        shfl.sync.bfly.b32 %r3, %r2, 4, 31, -1; add.s32 %r2, %r2, %r3;
        shfl.sync.bfly.b32 %r3, %r2, 2, 31, -1; add.s32 %r2, %r2, %r3;
        shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1; add.s32 %r2, %r2, %r3;",
    );
    assert!(got[..32].iter().all(|&v| v == 496) && got[32..].iter().all(|&v| v == 496 + 1024));
}

#[test]
fn packed_16_bit_integers() {
    let run = |op: &str, a: u32, b: u32| {
        let body = format!("mov.b32 %r3, {a:#x}; mov.b32 %r4, {b:#x}; {op} %r2, %r3, %r4;");
        map(1, &body)[0]
    };
    let (a, b) = (0xffff_0003, 0x0001_8000);
    assert_eq!(run("add.u16x2", a, b), 0x0000_8003);
    assert_eq!(run("add.s16x2", 0x7fff_ffff, 0x0001_0001), 0x8000_0000);
    assert_eq!(run("min.u16x2", a, b), 0x0001_0003);
    assert_eq!(run("min.s16x2", a, b), 0xffff_8000);
    assert_eq!(run("max.u16x2", a, b), 0xffff_8000);
    assert_eq!(run("max.s16x2", a, b), 0x0001_0003);
    assert_eq!(run("min.relu.s16x2", a, b), 0);
    assert_eq!(run("min.relu.s32", 5, 7), 5);
    assert_eq!(run("min.relu.s32", 5, 0xffff_fff0), 0);
    assert_eq!(run("max.relu.s32", 0xffff_ffff, 0xffff_fff0), 0);
    assert_eq!(run("max.relu.s16x2", 0xffff_0003, 0x8000_8000), 0x0000_0003);
}

#[test]
fn shuffles_stop_at_their_segment() {
    // Segments of 8 lanes; down by 3 keeps the own value at the end.
    let got = map(
        32,
        "shfl.sync.down.b32 %r2|%p1, %r1, 3, 0x1807, -1; @!%p1 add.s32 %r2, %r2, 100;",
    );
    for l in 0..32u32 {
        assert_eq!(got[l as usize], if l % 8 < 5 { l + 3 } else { l + 100 });
    }
}

#[test]
fn divergent_loop_with_early_exit_and_reconvergence() {
    // Collatz steps: every lane leaves the loop at its own time; afterwards the
    // warp is whole again, or the ballot would tell.
    let got = map(
        32,
        r"
        add.s32 %r3, %r1, 1; mov.u32 %r2, 0;
        LOOP: setp.eq.s32 %p1, %r3, 1; @%p1 bra OUT;
        and.b32 %r4, %r3, 1; setp.eq.s32 %p2, %r4, 0; @%p2 bra EVEN;
        mad.lo.s32 %r3, %r3, 3, 1; bra NEXT;
        EVEN: shr.u32 %r3, %r3, 1;
        NEXT: add.s32 %r2, %r2, 1; bra LOOP;
        OUT: activemask.b32 %r5; setp.eq.s32 %p3, %r5, -1; @!%p3 add.s32 %r2, %r2, 1000;",
    );
    for (l, &steps) in got.iter().enumerate() {
        let (mut n, mut want) = (l as u32 + 1, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            want += 1;
        }
        assert_eq!(steps, want, "lane {l}");
    }
}

#[test]
fn lanes_that_exit_do_not_hold_the_others() {
    let got = map(
        32,
        r"
        mov.u32 %r2, 7;
        setp.lt.u32 %p1, %r1, 5; @%p1 bra QUIT;
        setp.lt.u32 %p2, %r1, 9; @%p2 exit;
        vote.sync.ballot.b32 %r2, 1, 0xfffffe00;
        bra STORE;
        QUIT: ret;",
    );
    assert!(got[..9].iter().all(|&v| v == 0));
    assert!(got[9..].iter().all(|&v| v == 0xffff_fe00));
}

#[test]
fn nested_divergence_meets_at_the_inner_point_first() {
    let got = map(
        32,
        r"
        mov.u32 %r2, 0;
        setp.lt.u32 %p1, %r1, 16; @!%p1 bra END;
        and.b32 %r3, %r1, 1; setp.eq.u32 %p2, %r3, 1; @%p2 bra ODD;
        add.u32 %r2, %r2, 1; bra INNER;
        ODD: add.u32 %r2, %r2, 2;
        INNER: activemask.b32 %r4; popc.b32 %r5, %r4; mad.lo.u32 %r2, %r5, 100, %r2;
        END: activemask.b32 %r6; popc.b32 %r7, %r6; mad.lo.u32 %r2, %r7, 10000, %r2;",
    );
    for (l, &v) in got.iter().enumerate() {
        let inner = if l < 16 { 1600 + 1 + l as u32 % 2 } else { 0 };
        assert_eq!(v, 320_000 + inner, "lane {l}");
    }
}

#[test]
fn branch_table() {
    let got = map(
        32,
        r"
        T: .branchtargets A, B, C;
        rem.u32 %r3, %r1, 3;
        brx.idx %r3, T;
        A: mov.u32 %r2, 10; bra STORE;
        B: mov.u32 %r2, 20; bra STORE;
        C: mov.u32 %r2, 30;",
    );
    assert!(
        got.iter()
            .enumerate()
            .all(|(l, &v)| v == 10 * (l as u32 % 3 + 1))
    );
}

#[test]
fn votes_matches_and_reductions() {
    let got = map(
        32,
        r"
        and.b32 %r3, %r1, 3;
        match.any.sync.b32 %r4, %r3, -1;
        redux.sync.max.u32 %r5, %r1, -1;
        elect.sync %r6|%p1, -1;
        selp.b32 %r7, 1, 0, %p1;
        setp.gt.u32 %p2, %r1, 3;
        vote.sync.any.pred %p3, %p2, -1; vote.sync.all.pred %p4, !%p2, -1;
        selp.b32 %r8, 2, 0, %p3; selp.b32 %r9, 4, 0, %p4;
        popc.b32 %r2, %r4;
        mad.lo.u32 %r2, %r5, 1000, %r2;
        mad.lo.u32 %r2, %r7, 100000, %r2;
        or.b32 %r2, %r2, 0; add.u32 %r2, %r2, %r8; add.u32 %r2, %r2, %r9;",
    );
    assert_eq!(got[0], 131_010);
    assert!(got[1..].iter().all(|&v| v == 31_010));
}

#[test]
fn conversions_and_packing() {
    let got = map(
        32,
        r"
        cvt.rn.f32.u32 %f1, %r1; mul.f32 %f1, %f1, 0f3F000000;
        cvt.rn.bf16x2.f32 %r3, %f1, 0f40400000;
        mov.b32 {%h1, %h2}, %r3;
        cvt.f32.bf16 %f2, %h2;
        cvt.rzi.s32.f32 %r4, %f2;
        cvt.rn.satfinite.e4m3x2.f32 %h3, 0f44000000, %f1;
        cvt.u32.u16 %r5, %h3;
        shl.b32 %r5, %r5, 16; or.b32 %r2, %r4, %r5;",
    );
    for (l, &v) in got.iter().enumerate() {
        let x = l as f64 * 0.5;
        let code = mcc_sim::numerics::convert::encode(
            x,
            mcc_sim::numerics::convert::E4M3,
            mcc_sim::numerics::convert::Rounding::NearestEven,
            true,
        );
        assert_eq!(v & 0xffff, x as u32);
        assert_eq!(v >> 16, 0x7e00 | code);
    }
}

#[test]
fn sixteen_bit_and_sixty_four_bit_integers() {
    let got = map(
        32,
        r"
        cvt.u16.u32 %h1, %r1; sub.s16 %h2, %h1, 16; shr.s16 %h3, %h2, 1;
        cvt.s32.s16 %r3, %h3;
        cvt.s64.s32 %rd4, %r3; shl.b64 %rd5, %rd4, 33; shr.s64 %rd6, %rd5, 32;
        cvt.u32.u64 %r4, %rd6; add.s32 %r2, %r4, 1000;",
    );
    for (l, &v) in got.iter().enumerate() {
        assert_eq!(v as i32, ((l as i32 - 16) >> 1) * 2 + 1000);
    }
}

#[test]
fn local_memory_and_calls() {
    let gpu = gpu(Completion::Early);
    let text = format!(
        "{HEADER}
        .func (.param .b32 r) twice(.param .b32 x)
        {{
            .reg .b32 %r<3>; .reg .pred %p<2>;
            ld.param.b32 %r1, [x];
            setp.eq.u32 %p1, %r1, 5;
            @%p1 bra FIVE;
            add.s32 %r2, %r1, %r1;
            st.param.b32 [r], %r2;
            ret;
            FIVE: st.param.b32 [r], 55;
            ret;
        }}
        .visible .entry k(.param .u64 out)
        {{
            .local .align 8 .b8 depot[64];
            .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .b64 %SP;
            ld.param.u64 %rd1, [out];
            mov.b64 %SP, depot; cvta.local.u64 %rd4, %SP;
            mov.u32 %r1, %tid.x;
            and.b32 %r5, %r1, 7; mul.wide.u32 %rd5, %r5, 8; add.s64 %rd6, %rd4, %rd5;
            st.u32 [%rd6], %r1;
            {{
                .param .b32 p0; .param .b32 q0;
                st.param.b32 [p0], %r1;
                call.uni (q0), twice, (p0);
                ld.param.b32 %r2, [q0];
            }}
            ld.u32 %r3, [%rd6];
            mad.lo.s32 %r2, %r3, 1000, %r2;
            mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
            st.global.u32 [%rd3], %r2;
            ret;
        }}"
    );
    let m = load(&gpu, &text);
    let out = gpu.alloc(4 * 64, 256).expect("memory");
    launch(&gpu, &m, &LaunchConfig::new(1, 64), &[Arg::U64(out)]).expect("runs");
    for (t, v) in download_u32(&gpu, out, 64).into_iter().enumerate() {
        let t = t as u32;
        assert_eq!(v, 1000 * t + if t == 5 { 55 } else { 2 * t });
    }
}

#[test]
fn transpose_through_shared_memory_and_barriers() {
    let gpu = gpu(Completion::Early);
    let text = format!(
        "{HEADER}
        .shared .align 16 .b8 tile[4096];
        .visible .entry k(.param .u64 a, .param .u64 out)
        {{
            .reg .b64 %rd<9>; .reg .b32 %r<20>;
            ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [out];
            mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %ctaid.x;
            mad.lo.u32 %r4, %r2, 32, %r1;
            mad.lo.u32 %r5, %r3, 1024, %r4;
            mul.wide.u32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3;
            ld.global.u32 %r6, [%rd4];
            shl.b32 %r7, %r4, 2; mov.u32 %r8, tile; add.u32 %r9, %r8, %r7;
            st.shared.u32 [%r9], %r6;
            bar.sync 0;
            mad.lo.u32 %r10, %r1, 32, %r2; shl.b32 %r11, %r10, 2; add.u32 %r12, %r8, %r11;
            ld.shared.u32 %r13, [%r12];
            add.s64 %rd5, %rd2, %rd3;
            st.global.u32 [%rd5], %r13;
            ret;
        }}"
    );
    let m = load(&gpu, &text);
    let data: Vec<u32> = (0..3 * 1024).collect();
    let (a, out) = (
        upload_u32(&gpu, &data),
        gpu.alloc(3 * 4096, 256).expect("memory"),
    );
    let cfg = LaunchConfig {
        grid: [3, 1, 1],
        block: [32, 32, 1],
        cluster: [1; 3],
        dynamic_smem: 0,
        programmatic: false,
    };
    launch(&gpu, &m, &cfg, &[Arg::U64(a), Arg::U64(out)]).expect("runs");
    let got = download_u32(&gpu, out, 3 * 1024);
    for (i, &v) in got.iter().enumerate() {
        let (b, y, x) = (i / 1024, i / 32 % 32, i % 32);
        assert_eq!(v as usize, b * 1024 + x * 32 + y);
    }
}

#[test]
fn atomics_of_many_blocks_add_up() {
    let gpu = gpu(Completion::Early);
    let m = load(
        &gpu,
        &kernel(
            ".param .u64 out",
            r"
        .reg .b64 %rd<3>; .reg .b32 %r<5>; .reg .f32 %f<3>;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x;
        atom.global.add.u32 %r2, [%rd1], 1;
        red.global.max.u32 [%rd1+4], %r2;
        red.global.add.f32 [%rd1+8], 0f3F800000;
        atom.global.cas.b32 %r3, [%rd1+12], 0, %r1;
        ret;",
        ),
    );
    let out = upload(&gpu, &[0; 16]);
    launch(&gpu, &m, &LaunchConfig::new(64, 96), &[Arg::U64(out)]).expect("runs");
    let got = download_u32(&gpu, out, 4);
    assert_eq!(
        (got[0], got[1], f32::from_bits(got[2])),
        (6144, 6143, 6144.0)
    );
    assert!(got[3] > 0 && got[3] < 96);
}

#[test]
fn named_barriers_let_one_warp_pass_and_reduce() {
    let gpu = gpu(Completion::Early);
    let m = load(
        &gpu,
        &kernel(
            ".param .u64 out",
            r"
        .reg .pred %p<5>; .reg .b64 %rd<5>; .reg .b32 %r<9>;
        .shared .align 4 .b32 cell;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x;
        setp.lt.u32 %p1, %r1, 32;
        @%p1 bra PRODUCER;
        bar.sync 1, 64;
        ld.shared.u32 %r2, [cell];
        bra JOIN;
        PRODUCER:
        mov.u32 %r2, 41;
        st.shared.u32 [cell], 42;
        bar.arrive 1, 64;
        JOIN:
        setp.eq.u32 %p2, %r2, 42;
        barrier.red.popc.aligned.u32 %r3, 0, %p2;
        mad.lo.u32 %r4, %r3, 100, %r2;
        mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r4;
        ret;",
        ),
    );
    let out = gpu.alloc(256, 256).expect("memory");
    launch(&gpu, &m, &LaunchConfig::new(1, 64), &[Arg::U64(out)]).expect("runs");
    let got = download_u32(&gpu, out, 64);
    assert!(got[..32].iter().all(|&v| v == 3241) && got[32..].iter().all(|&v| v == 3242));
}

#[test]
fn global_variables_and_constants() {
    let gpu = gpu(Completion::Early);
    let text = format!(
        "{HEADER}
        .const .align 4 .b32 table[4] = {{10, 20, 30, 40}};
        .global .align 4 .b32 counter = 5;
        .visible .entry k(.param .u64 out)
        {{
            .reg .b64 %rd<9>; .reg .b32 %r<9>;
            ld.param.u64 %rd1, [out];
            mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3;
            mul.wide.u32 %rd2, %r2, 4; mov.u64 %rd3, table; add.s64 %rd4, %rd3, %rd2;
            ld.const.u32 %r3, [%rd4]; ld.global.u32 %r4, [counter]; ld.const.u32 %r5, [table+4];
            add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5;
            mul.wide.u32 %rd5, %r1, 4; add.s64 %rd6, %rd1, %rd5; st.global.u32 [%rd6], %r3;
            ret;
        }}"
    );
    let m = load(&gpu, &text);
    let out = gpu.alloc(128, 256).expect("memory");
    launch(&gpu, &m, &LaunchConfig::new(1, 32), &[Arg::U64(out)]).expect("runs");
    for (t, v) in download_u32(&gpu, out, 32).into_iter().enumerate() {
        assert_eq!(v as usize, 10 * (t % 4 + 1) + 25);
    }
}

#[test]
fn vectors_of_memory() {
    let gpu = gpu(Completion::Early);
    let m = load(
        &gpu,
        &kernel(
            ".param .u64 a, .param .u64 out",
            r"
        .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .b16 %h<9>;
        ld.param.v2.u64 {%rd1, %rd2}, [a];
        mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
        ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd4];
        st.global.v2.b32 [%rd5], {%r5, %r4};
        ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%rd4];
        st.global.v4.u16 [%rd5+8], {%h4, %h3, %h2, %h1};
        ret;",
        ),
    );
    let data: Vec<u32> = (0..128).map(|i| i * 0x0101_0003).collect();
    let (a, out) = (
        upload_u32(&gpu, &data),
        gpu.alloc(512, 256).expect("memory"),
    );
    launch(
        &gpu,
        &m,
        &LaunchConfig::new(1, 32),
        &[Arg::U64(a), Arg::U64(out)],
    )
    .expect("runs");
    let got = download_u32(&gpu, out, 128);
    for t in 0..32 {
        let (i, o) = (&data[4 * t..4 * t + 4], &got[4 * t..4 * t + 4]);
        assert_eq!(
            o,
            [i[3], i[2], i[1].rotate_right(16), i[0].rotate_right(16)]
        );
    }
}

/// A growing allocation is memory as far as it has grown, and keeps what was written.
#[test]
fn allocations_grow() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::new(GpuConfig {
        global_bytes: 4096,
        ..GpuConfig::default()
    });
    // Addresses cost nothing, memory does.
    let at = gpu.alloc_growing(1 << 20)?;
    assert_eq!(gpu.memory_used(), (0, 4096));
    assert!(gpu.write(at, &[1]).is_err());
    gpu.grow(at, 100)?;
    gpu.write(at + 99, &[7])?;
    assert!(gpu.write(at + 100, &[7]).is_err());
    gpu.grow(at, 300)?;
    gpu.grow(at, 200)?;
    let mut bytes = [1; 201];
    gpu.read(at + 99, &mut bytes)?;
    assert_eq!((bytes[0], &bytes[1..]), (7, &[0; 200][..]));
    assert_eq!(gpu.size_of(at)?, 300);
    assert!(gpu.grow(at, 4097).is_err());
    assert!(gpu.grow(at, (1 << 20) + 1).is_err());
    assert_eq!(gpu.size_of(at)?, 300);
    gpu.free(at)?;
    assert!(gpu.size_of(at).is_err());
    Ok(())
}
