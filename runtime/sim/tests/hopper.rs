//! What Hopper added: TMA, mbarrier pipelines, wgmma, clusters. Each kernel runs
//! with asynchronous work done as early and as late as allowed, and in between.

mod common;

use common::*;
use mcc_sim::numerics::convert::{BF16, E4M3, Rounding, decode, encode};
use mcc_sim::{Gpu, LaunchConfig, Swizzle, TensorElem, TensorMap};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32
    }
}

fn map_2d(
    gpu: &Gpu,
    elem: TensorElem,
    data: &[u8],
    dims: [u64; 2],
    boxes: [u32; 2],
    swizzle: Swizzle,
) -> (u64, Vec<u8>) {
    let at = upload(gpu, data);
    let map = TensorMap {
        elem,
        global_address: at,
        dims: dims.to_vec(),
        strides: vec![dims[0] * elem.bytes()],
        box_dims: boxes.to_vec(),
        elem_strides: vec![1, 1],
        swizzle,
        oob_nan: false,
    };
    (at, map.encode().expect("legal").to_vec())
}

/// Loads a box by TMA and copies shared memory out as it lies.
const TMA_LOAD: &str = r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<12>;
    .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [x]; ld.param.u32 %r2, [y];
    mov.b64 %rd2, map; cvta.param.u64 %rd3, %rd2;
    mov.u32 %r3, smem; mov.u32 %r4, bar; mov.u32 %r5, %tid.x;
    setp.ne.u32 %p1, %r5, 0;
    @%p1 bra WAIT;
    mbarrier.init.shared::cta.b64 [%r4], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 4096;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd3, {%r1, %r2}], [%r4];
    WAIT:
    bar.sync 0;
    SPIN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;
    @!%p2 bra SPIN;
    mul.lo.u32 %r6, %r5, 16;
    add.u32 %r7, %r3, %r6;
    LOOP: ld.shared.v4.b32 {%r8, %r9, %r10, %r11}, [%r7];
    sub.u32 %r12, %r7, %r3; cvt.u64.u32 %rd4, %r12; add.s64 %rd5, %rd1, %rd4;
    st.global.v4.b32 [%rd5], {%r8, %r9, %r10, %r11};
    add.u32 %r7, %r7, 1024;
    sub.u32 %r13, %r7, %r3; setp.lt.u32 %p3, %r13, 4096; @%p3 bra LOOP;
    ret;";

fn with_shared(params: &str, body: &str) -> String {
    format!(
        "{HEADER}\n.extern .shared .align 1024 .b8 smem[];\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    )
}

#[test]
fn tma_loads_swizzled_boxes_and_zeros_outside() {
    for completion in ALL {
        let gpu = gpu(completion);
        let text = with_shared(
            ".param .align 64 .b8 map[128], .param .u64 out, .param .u32 x, .param .u32 y",
            TMA_LOAD,
        );
        let m = load(&gpu, &text);
        let (w, h) = (100u64, 40u64);
        // Rows must be multiples of 16 bytes: bf16 with a pitch of 208.
        let pitch = 208usize;
        let mut data = vec![0xeeu8; pitch * h as usize];
        let value = |x: usize, y: usize| (y * 256 + x + 1) as u16;
        for y in 0..h as usize {
            for x in 0..w as usize {
                data[y * pitch + 2 * x..][..2].copy_from_slice(&value(x, y).to_le_bytes());
            }
        }
        let at = upload(&gpu, &data);
        for (swizzle, inner, rows) in [
            (Swizzle::None, 64, 32),
            (Swizzle::B128, 64, 32),
            (Swizzle::B64, 32, 64),
            (Swizzle::B32, 16, 128),
        ] {
            let map = TensorMap {
                elem: TensorElem::Bf16,
                global_address: at,
                dims: vec![w, h],
                strides: vec![pitch as u64],
                box_dims: vec![inner, rows],
                elem_strides: vec![1, 1],
                swizzle,
                oob_nan: false,
            };
            let bytes = map.encode().expect("legal").to_vec();
            for (x0, y0) in [(0i32, 0i32), (70, 20), (-8, -3), (200, 0)] {
                let out = gpu.alloc(4096, 256).expect("memory");
                let cfg = LaunchConfig {
                    dynamic_smem: 8192,
                    ..LaunchConfig::new(1, 64)
                };
                let args = [
                    Arg::Bytes(bytes.clone()),
                    Arg::U64(out),
                    Arg::U32(x0 as u32),
                    Arg::U32(y0 as u32),
                ];
                launch(&gpu, &m, &cfg, &args).expect("runs");
                let got = download(&gpu, out, 4096);
                for r in 0..rows as usize {
                    for c in 0..inner as usize {
                        let (x, y) = (x0 + c as i32, y0 + r as i32);
                        let inside = x >= 0 && y >= 0 && (x as u64) < w && (y as u64) < h;
                        let want = if inside {
                            value(x as usize, y as usize)
                        } else {
                            0
                        };
                        // The tile starts at a multiple of 1024, so offsets
                        // swizzle as addresses do.
                        let linear = (r * inner as usize + c) * 2;
                        let place = swizzle.apply(linear as u32) as usize;
                        let v = u16::from_le_bytes([got[place], got[place + 1]]);
                        assert_eq!(v, want, "{swizzle:?} at {x},{y}");
                    }
                }
            }
        }
    }
}

/// One wgmma of 64 x N by a descriptor pair, K bytes = 128 in four steps, from
/// TMA-swizzled tiles; the accumulators are written as `[64][N]` f32.
fn wgmma_kernel(n: u32, instruction: &str, trailing: &str) -> String {
    let regs: Vec<String> = (0..n / 2).map(|i| format!("%f{i}")).collect();
    let list = regs.join(", ");
    let mut body = format!(
        r"
    .reg .pred %p<4>; .reg .b32 %r<40>; .reg .b64 %rd<40>; .reg .f32 %f<{}>;
    .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [out];
    mov.b64 %rd2, amap; cvta.param.u64 %rd3, %rd2;
    mov.b64 %rd4, bmap; cvta.param.u64 %rd5, %rd4;
    mov.u32 %r3, smem; mov.u32 %r4, bar; mov.u32 %r5, %tid.x; mov.u32 %r30, 0;
    add.u32 %r6, %r3, 8192;
    setp.ne.u32 %p1, %r5, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r4], 1; fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], {};
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd3, {{%r30, %r30}}], [%r4];
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r6], [%rd5, {{%r30, %r30}}], [%r4];
    READY: bar.sync 0;
    SPIN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;
    @!%p2 bra SPIN;
    // Descriptors: address, SBO 1024, swizzle 128B.
    and.b32 %r7, %r3, 0x3ffff; shr.u32 %r7, %r7, 4; cvt.u64.u32 %rd6, %r7;
    or.b64 %rd7, %rd6, 0x4000004000010000;
    and.b32 %r8, %r6, 0x3ffff; shr.u32 %r8, %r8, 4; cvt.u64.u32 %rd8, %r8;
    or.b64 %rd9, %rd8, 0x4000004000010000;
    setp.ne.u32 %p3, %r30, 0;
    wgmma.fence.sync.aligned;
",
        n / 2,
        8192 + 128 * n
    );
    for k in 0..4 {
        let p = if k == 0 { "%p3" } else { "1" };
        body += &format!(
            "add.s64 %rd10, %rd7, {0}; add.s64 %rd11, %rd9, {0};
            {{ .reg .pred s; setp.ne.b32 s, {1}, 0;
            {instruction} {{{list}}}, %rd10, %rd11, s, 1, 1{trailing}; }}\n",
            2 * k,
            if k == 0 { "%r30" } else { "1" }
        );
        let _ = p;
    }
    body += "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n";
    // row = 16 w + l / 4 + 8 (r / 2 % 2), col = 8 (r / 4) + 2 (l % 4) + r % 2
    body +=
        "shr.u32 %r10, %r5, 5; shl.b32 %r10, %r10, 4; and.b32 %r11, %r5, 31; shr.u32 %r12, %r11, 2;
        add.u32 %r13, %r10, %r12; and.b32 %r14, %r11, 3; shl.b32 %r14, %r14, 1;\n";
    body += &format!(
        "mad.lo.u32 %r15, %r13, {n}, %r14; mul.wide.u32 %rd20, %r15, 4; add.s64 %rd21, %rd1, %rd20;\n"
    );
    for r in 0..n / 2 {
        let at = (8 * (r / 2 % 2) * n + 8 * (r / 4) + r % 2) * 4;
        body += &format!("st.global.f32 [%rd21+{at}], %f{r};\n");
    }
    body += "ret;";
    with_shared(
        ".param .align 64 .b8 amap[128], .param .align 64 .b8 bmap[128], .param .u64 out",
        &body,
    )
}

/// The accumulation of `numerics::wgmma` written out once more, in f64 and by
/// steps of k: exact products, truncation, exact sum, truncated result.
fn reference(a: &[f64], b: &[f64], c: f32, min_exp: i32, f: i32, keep: u32) -> f32 {
    let exp = |v: f64| {
        if v == 0.0 {
            -4000
        } else {
            (v.abs().log2().floor() as i32).max(min_exp)
        }
    };
    let mut e_max = if c == 0.0 {
        -4000
    } else {
        (f64::from(c).abs().log2().floor()) as i32
    };
    for (x, y) in a.iter().zip(b) {
        if *x != 0.0 && *y != 0.0 {
            e_max = e_max.max(exp(*x) + exp(*y));
        }
    }
    if e_max < -1000 {
        return 0.0;
    }
    let scale = 2f64.powi(f - e_max);
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(x, y)| (x * y * scale).trunc())
        .sum::<f64>()
        + (f64::from(c) * scale).trunc();
    let v = sum / scale;
    let bits = (v as f32).to_bits();
    // Toward zero where the conversion went away from it.
    let bits = if f64::from(f32::from_bits(bits)).abs() > v.abs() {
        bits - 1
    } else {
        bits
    };
    f32::from_bits(bits & keep)
}

#[test]
fn fp8_wgmma_of_swizzled_tiles() {
    let n = 64;
    let mut rng = Random(0x1234_5678_9abc);
    let codes = |rng: &mut Random, rows: usize| -> Vec<u8> {
        (0..rows * 128)
            .map(|i| {
                let v = (rng.next() & 0xff) as u8;
                // Some rows of zeros; no NaN.
                if i / 128 % 7 == 3 || v & 0x7f == 0x7f {
                    0
                } else {
                    v
                }
            })
            .collect()
    };
    let (a, b) = (codes(&mut rng, 64), codes(&mut rng, n));
    let value = |c: u8| decode(c.into(), E4M3);
    let mut want = vec![0f32; 64 * n];
    for i in 0..64 {
        for j in 0..n {
            let mut acc = 0f32;
            for k in 0..4 {
                let row = |m: &[u8], r: usize| -> Vec<f64> {
                    m[r * 128 + 32 * k..][..32]
                        .iter()
                        .map(|&c| value(c))
                        .collect()
                };
                acc = reference(&row(&a, i), &row(&b, j), acc, -6, 13, !0x3ff);
            }
            want[i * n + j] = acc;
        }
    }
    let text = wgmma_kernel(
        n as u32,
        "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3",
        "",
    );
    for completion in ALL {
        let gpu = gpu(completion);
        let m = load(&gpu, &text);
        let (_, amap) = map_2d(
            &gpu,
            TensorElem::U8,
            &a,
            [128, 64],
            [128, 64],
            Swizzle::B128,
        );
        let (_, bmap) = map_2d(
            &gpu,
            TensorElem::U8,
            &b,
            [128, n as u64],
            [128, n as u32],
            Swizzle::B128,
        );
        let out = gpu.alloc(4 * 64 * n as u64, 256).expect("memory");
        let cfg = LaunchConfig {
            dynamic_smem: 32768,
            ..LaunchConfig::new(1, 128)
        };
        launch(
            &gpu,
            &m,
            &cfg,
            &[Arg::Bytes(amap), Arg::Bytes(bmap), Arg::U64(out)],
        )
        .expect("runs");
        let got = download_f32(&gpu, out, 64 * n);
        for x in 0..64 * n {
            assert_eq!(
                got[x].to_bits(),
                want[x].to_bits(),
                "{completion:?} row {}, column {}",
                x / n,
                x % n
            );
        }
    }
}

fn bf16(v: f64) -> u16 {
    encode(v, BF16, Rounding::NearestEven, false) as u16
}

/// K-major A; B once K-major and once MN-major (N x K transposed in memory).
#[test]
fn bf16_wgmma_k_major_and_mn_major() {
    let n = 64usize;
    let mut rng = Random(0x77);
    let mut random = |count: usize| -> Vec<f64> {
        (0..count)
            .map(|_| {
                decode(
                    bf16(f64::from(rng.next() as i32 % 2000) / 512.0).into(),
                    BF16,
                )
            })
            .collect()
    };
    let (a, b) = (random(64 * 64), random(n * 64));
    let mut want = vec![0f32; 64 * n];
    for i in 0..64 {
        for j in 0..n {
            let mut acc = 0f32;
            for k in 0..4 {
                acc = reference(
                    &a[i * 64 + 16 * k..][..16],
                    &b[j * 64 + 16 * k..][..16],
                    acc,
                    -126,
                    25,
                    !0,
                );
            }
            want[i * n + j] = acc;
        }
    }
    let bytes = |v: &[f64]| -> Vec<u8> { v.iter().flat_map(|&x| bf16(x).to_le_bytes()).collect() };
    for transposed in [false, true] {
        // MN-major: K steps move by 16 rows of 128 bytes = 2048 bytes, and
        // groups of 8 rows of K are 1024 bytes apart (SBO).
        let mut text = wgmma_kernel(
            n as u32,
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16",
            if transposed { ", 0, 1" } else { ", 0, 0" },
        );
        let b_memory: Vec<f64> = if transposed {
            for k in 1..4 {
                text = text.replace(
                    &format!("add.s64 %rd11, %rd9, {};", 2 * k),
                    &format!("add.s64 %rd11, %rd9, {};", 128 * k),
                );
            }
            (0..64 * n).map(|x| b[x % n * 64 + x / n]).collect()
        } else {
            b.clone()
        };
        for completion in ALL {
            let gpu = gpu(completion);
            let m = load(&gpu, &text);
            let (_, amap) = map_2d(
                &gpu,
                TensorElem::Bf16,
                &bytes(&a),
                [64, 64],
                [64, 64],
                Swizzle::B128,
            );
            let (_, bmap) = map_2d(
                &gpu,
                TensorElem::Bf16,
                &bytes(&b_memory),
                [64, 64],
                [64, 64],
                Swizzle::B128,
            );
            let out = gpu.alloc(4 * 64 * n as u64, 256).expect("memory");
            let cfg = LaunchConfig {
                dynamic_smem: 32768,
                ..LaunchConfig::new(1, 128)
            };
            launch(
                &gpu,
                &m,
                &cfg,
                &[Arg::Bytes(amap), Arg::Bytes(bmap), Arg::U64(out)],
            )
            .expect("runs");
            let got = download_f32(&gpu, out, 64 * n);
            for x in 0..64 * n {
                assert_eq!(
                    got[x].to_bits(),
                    want[x].to_bits(),
                    "{completion:?} row {}, column {}",
                    x / n,
                    x % n
                );
            }
        }
    }
}

/// A producer warp streams tiles through three stages; two consumer warps add
/// them up. One elected lane waits and issues while its siblings go ahead.
#[test]
fn producer_and_consumers_over_an_mbarrier_ring() {
    let text = with_shared(
        ".param .u64 a, .param .u64 out, .param .u32 tiles",
        r"
    .reg .pred %p<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>;
    .shared .align 8 .b64 full[3];
    .shared .align 8 .b64 empty[3];
    ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [out]; ld.param.u32 %r1, [tiles];
    mov.u32 %r2, %tid.x; mov.u32 %r3, full; mov.u32 %r4, empty; mov.u32 %r5, smem;
    setp.ne.u32 %p1, %r2, 0; @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r3], 1; mbarrier.init.shared::cta.b64 [%r3+8], 1; mbarrier.init.shared::cta.b64 [%r3+16], 1;
    mbarrier.init.shared::cta.b64 [%r4], 2; mbarrier.init.shared::cta.b64 [%r4+8], 2; mbarrier.init.shared::cta.b64 [%r4+16], 2;
    fence.mbarrier_init.release.cluster;
    READY: bar.sync 0;
    shr.u32 %r6, %r2, 5; setp.ne.u32 %p2, %r6, 2;
    mov.u32 %r7, 0; mov.u32 %r8, 0; mov.u32 %r9, 0;
    @%p2 bra CONSUMER;
    setmaxnreg.dec.sync.aligned.u32 40;
    elect.sync _|%p3, -1;
    @!%p3 bra DONE;
    PRODUCE:
    setp.ge.u32 %p4, %r7, %r1; @%p4 bra DONE;
    shl.b32 %r10, %r8, 3; add.u32 %r11, %r4, %r10; add.u32 %r12, %r3, %r10;
    xor.b32 %r13, %r9, 1;
    PW: mbarrier.try_wait.parity.shared::cta.b64 %p5, [%r11], %r13; @!%p5 bra PW;
    shl.b32 %r14, %r8, 8; add.u32 %r15, %r5, %r14;
    mul.wide.u32 %rd3, %r7, 256; add.s64 %rd4, %rd1, %rd3;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r12], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r15], [%rd4], 256, [%r12];
    add.u32 %r7, %r7, 1; add.u32 %r8, %r8, 1;
    setp.eq.u32 %p6, %r8, 3; @%p6 mov.u32 %r8, 0; @%p6 xor.b32 %r9, %r9, 1;
    bra PRODUCE;
    CONSUMER:
    setmaxnreg.inc.sync.aligned.u32 232;
    mov.u32 %r20, 0;
    CONSUME:
    setp.ge.u32 %p4, %r7, %r1; @%p4 bra WRITE;
    shl.b32 %r10, %r8, 3; add.u32 %r11, %r4, %r10; add.u32 %r12, %r3, %r10;
    CW: mbarrier.try_wait.parity.shared::cta.b64 %p5, [%r12], %r9; @!%p5 bra CW;
    shl.b32 %r14, %r8, 8; add.u32 %r15, %r5, %r14; shl.b32 %r16, %r2, 2; add.u32 %r17, %r15, %r16;
    ld.shared.u32 %r18, [%r17]; add.u32 %r20, %r20, %r18;
    bar.warp.sync -1;
    and.b32 %r21, %r2, 31; setp.ne.u32 %p7, %r21, 0;
    @%p7 bra NEXT;
    mbarrier.arrive.shared::cta.b64 _, [%r11];
    NEXT:
    add.u32 %r7, %r7, 1; add.u32 %r8, %r8, 1;
    setp.eq.u32 %p6, %r8, 3; @%p6 mov.u32 %r8, 0; @%p6 xor.b32 %r9, %r9, 1;
    bra CONSUME;
    WRITE:
    mul.wide.u32 %rd5, %r2, 4; add.s64 %rd6, %rd2, %rd5; st.global.u32 [%rd6], %r20;
    DONE: bar.sync 0; ret;",
    );
    for completion in ALL {
        let gpu = gpu(completion);
        let m = load(&gpu, &text);
        for tiles in [1u32, 2, 7, 20] {
            let data: Vec<u32> = (0..tiles * 64).map(|i| i * i % 1000).collect();
            let (a, out) = (
                upload_u32(&gpu, &data),
                gpu.alloc(256, 256).expect("memory"),
            );
            let cfg = LaunchConfig {
                dynamic_smem: 1024,
                ..LaunchConfig::new(1, 96)
            };
            let stats = launch(
                &gpu,
                &m,
                &cfg,
                &[Arg::U64(a), Arg::U64(out), Arg::U32(tiles)],
            )
            .expect("runs");
            assert_eq!(stats.bulk_bytes, u64::from(tiles) * 256);
            for (t, v) in download_u32(&gpu, out, 64).into_iter().enumerate() {
                let want: u32 = (0..tiles as usize).map(|i| data[i * 64 + t]).sum();
                assert_eq!(v, want, "{completion:?}, {tiles} tiles, thread {t}");
            }
        }
    }
}

/// TMA stores clip at the edge, and reduce-add adds.
#[test]
fn tma_stores_and_reductions() {
    let text = with_shared(
        ".param .align 64 .b8 map[128], .param .u32 x, .param .u32 y",
        r"
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .f32 %f<4>;
    ld.param.u32 %r1, [x]; ld.param.u32 %r2, [y];
    mov.b64 %rd2, map; cvta.param.u64 %rd3, %rd2;
    mov.u32 %r3, smem; mov.u32 %r5, %tid.x;
    cvt.rn.f32.u32 %f1, %r5; shl.b32 %r6, %r5, 2; add.u32 %r7, %r3, %r6; st.shared.f32 [%r7], %f1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p1, %r5, 0; @%p1 bra END;
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd3, {%r1, %r2}], [%r3];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd3, {%r1, %r2}], [%r3];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
    END: ret;",
    );
    for completion in ALL {
        let gpu = gpu(completion);
        let m = load(&gpu, &text);
        let (w, h) = (12usize, 10usize);
        let before: Vec<u8> = (0..w * h).flat_map(|_| 7f32.to_le_bytes()).collect();
        let (at, map) = map_2d(
            &gpu,
            TensorElem::F32,
            &before,
            [w as u64, h as u64],
            [8, 8],
            Swizzle::None,
        );
        let cfg = LaunchConfig {
            dynamic_smem: 1024,
            ..LaunchConfig::new(1, 64)
        };
        launch(
            &gpu,
            &m,
            &cfg,
            &[Arg::Bytes(map), Arg::U32(8), Arg::U32(-2i32 as u32)],
        )
        .expect("runs");
        let got = download_f32(&gpu, at, w * h);
        for y in 0..h {
            for x in 0..w {
                let written = x >= 8 && y < 6;
                let want = if written {
                    2.0 * ((y + 2) * 8 + x - 8) as f32
                } else {
                    7.0
                };
                assert_eq!(got[y * w + x], want, "{completion:?} {x},{y}");
            }
        }
    }
}

/// Rank 0 multicasts a tile to the cluster; every rank also writes into its
/// neighbour's shared memory and arrives on its mbarrier.
#[test]
fn clusters_share_memory() {
    let text = with_shared(
        ".param .u64 a, .param .u64 out",
        r"
    .reg .pred %p<6>; .reg .b32 %r<30>; .reg .b64 %rd<12>; .reg .b16 %h<2>;
    .shared .align 8 .b64 bar; .shared .align 8 .b64 note; .shared .align 4 .b32 cell;
    ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, smem; mov.u32 %r4, bar; mov.u32 %r5, note;
    setp.ne.u32 %p1, %r1, 0; @%p1 bra S;
    mbarrier.init.shared::cta.b64 [%r4], 1; mbarrier.init.shared::cta.b64 [%r5], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 128;
    S: barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
    @%p1 bra W;
    setp.ne.u32 %p2, %r2, 0; @%p2 bra N;
    mov.u16 %h1, 3;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r3], [%rd1], 128, [%r4], %h1;
    N: xor.b32 %r6, %r2, 1;
    mov.u32 %r7, cell; mapa.shared::cluster.u32 %r8, %r7, %r6; add.u32 %r9, %r2, 70;
    st.shared::cluster.u32 [%r8], %r9;
    mapa.shared::cluster.u32 %r10, %r5, %r6;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10];
    W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r4], 0; @!%p3 bra W;
    V: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r5], 0; @!%p4 bra V;
    shl.b32 %r11, %r1, 2; add.u32 %r12, %r3, %r11; ld.shared.u32 %r13, [%r12];
    ld.shared.u32 %r14, [cell]; mad.lo.u32 %r15, %r14, 1000, %r13;
    mad.lo.u32 %r16, %r2, 32, %r1; mul.wide.u32 %rd3, %r16, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r15;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    ret;",
    );
    for completion in ALL {
        let gpu = gpu(completion);
        let m = load(&gpu, &text);
        let data: Vec<u32> = (0..32).map(|i| 500 - i).collect();
        let (a, out) = (
            upload_u32(&gpu, &data),
            gpu.alloc(256, 256).expect("memory"),
        );
        let cfg = LaunchConfig {
            grid: [2, 1, 1],
            cluster: [2, 1, 1],
            dynamic_smem: 256,
            ..LaunchConfig::new(1, 32)
        };
        launch(&gpu, &m, &cfg, &[Arg::U64(a), Arg::U64(out)]).expect("runs");
        let got = download_u32(&gpu, out, 64);
        for rank in 0..2u32 {
            for t in 0..32u32 {
                let want = (70 + (rank ^ 1)) * 1000 + 500 - t;
                assert_eq!(got[(rank * 32 + t) as usize], want, "{completion:?}");
            }
        }
    }
}

/// cp.async, with zero fill, into shared memory and out by ldmatrix.
#[test]
fn cp_async_and_matrix_loads() {
    let text = with_shared(
        ".param .u64 a, .param .u64 out",
        r"
    .reg .b32 %r<20>; .reg .b64 %rd<9>; .reg .pred %p<3>;
    ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [out];
    mov.u32 %r1, %tid.x; mov.u32 %r2, smem;
    shl.b32 %r3, %r1, 4; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd3, %r3; add.s64 %rd4, %rd1, %rd3;
    setp.eq.u32 %p1, %r1, 31; selp.b32 %r5, 8, 16, %p1;
    cp.async.cg.shared.global [%r4], [%rd4], 16, %r5;
    cp.async.commit_group; cp.async.wait_group 0;
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r4];
    movmatrix.sync.aligned.m8n8.trans.b16 %r10, %r6;
    ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r11}, [%r4];
    sub.u32 %r12, %r10, %r11;
    or.b32 %r9, %r9, %r12;
    add.s64 %rd5, %rd2, %rd3;
    st.global.v4.b32 [%rd5], {%r6, %r7, %r8, %r9};
    ret;",
    );
    for completion in ALL {
        let gpu = gpu(completion);
        let m = load(&gpu, &text);
        let data: Vec<u8> = (0..256u16).flat_map(|i| (i + 1).to_le_bytes()).collect();
        let (a, out) = (upload(&gpu, &data), gpu.alloc(512, 256).expect("memory"));
        let cfg = LaunchConfig {
            dynamic_smem: 512,
            ..LaunchConfig::new(1, 32)
        };
        launch(&gpu, &m, &cfg, &[Arg::U64(a), Arg::U64(out)]).expect("runs");
        let got = download_u32(&gpu, out, 128);
        for l in 0..32u32 {
            for i in 0..4u32 {
                let first = i * 64 + l / 4 * 8 + 2 * (l % 4);
                let value = |e: u32| if e >= 252 { 0 } else { e + 1 };
                assert_eq!(
                    got[(4 * l + i) as usize],
                    value(first) | value(first + 1) << 16,
                    "{completion:?} lane {l}"
                );
            }
        }
    }
}
