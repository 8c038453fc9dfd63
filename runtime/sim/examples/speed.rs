//! How fast the simulator is: nanoseconds for a warp instruction of several
//! kinds, for a launch, and for a multiply-add of `wgmma`.
//!
//!     cargo run --release -p mcc-sim --example speed

use std::time::Instant;

use mcc_sim::numerics::wgmma::{Element, Tile, mma};
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, SimError};

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// The least time of several rounds, in nanoseconds: the machine may be shared.
fn least(rounds: u32, mut f: impl FnMut() -> Result<u64, SimError>) -> Result<f64, SimError> {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        let work = f()?;
        best = best.min(start.elapsed().as_nanos() as f64 / work as f64);
    }
    Ok(best)
}

fn main() -> Result<(), SimError> {
    let gpu = Gpu::new(GpuConfig {
        threads: 1,
        ..GpuConfig::default()
    });
    for (name, body) in [
        ("integer add", "add.s32 %r2, %r2, %r1;"),
        ("f32 fma", "fma.rn.f32 %f1, %f2, %f3, %f1;"),
        ("64-bit add", "add.s64 %rd4, %rd4, %rd1;"),
        ("mul.wide", "mul.wide.u32 %rd4, %r2, 4;"),
        (
            "compare and select",
            "setp.lt.s32 %p2, %r2, %r1; selp.b32 %r2, %r2, %r1, %p2;",
        ),
        ("ld.global", "ld.global.u32 %r3, [%rd3];"),
        (
            "ld.global.v4",
            "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd5];",
        ),
        ("st.shared", "st.shared.u32 [%r7], %r1;"),
        ("shfl", "shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;"),
        ("ex2.approx", "ex2.approx.f32 %f1, %f2;"),
        ("cvt bf16", "cvt.rn.bf16.f32 %h1, %f2;"),
    ] {
        let unrolled = body.repeat(64);
        let text = format!(
            "{HEADER}.visible .entry k(.param .u64 p) {{
            .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .b16 %h<4>;
            .shared .align 16 .b8 s[4096];
            ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
            mul.wide.u32 %rd2, %r1, 16; add.s64 %rd5, %rd1, %rd2;
            shl.b32 %r7, %r1, 2; mov.u32 %r8, s; add.u32 %r7, %r7, %r8; mov.u32 %r9, 0; mov.f32 %f2, 0f3F000000;
            L: {unrolled}
            add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 200; @%p1 bra L;
            ret; }}"
        );
        let m = gpu.load_module(&text)?;
        let buffer = gpu.alloc(1 << 16, 256)?;
        let cfg = LaunchConfig::new(4, 128);
        let ns = least(20, || {
            let stats = gpu.launch(&m, "k", &cfg, &buffer.to_le_bytes())?;
            Ok(stats.warp_instructions)
        })?;
        println!("{name:20} {ns:6.1} ns an instruction");
    }

    let m = gpu.load_module(&format!("{HEADER}.visible .entry k() {{ ret; }}"))?;
    for (blocks, threads) in [(1, 128), (32, 384)] {
        let ns = least(20, || {
            for _ in 0..100 {
                gpu.launch(&m, "k", &LaunchConfig::new(blocks, threads), &[])?;
            }
            Ok(100)
        })?;
        println!("empty launch, {blocks} x {threads}: {:.1} us", ns / 1e3);
    }

    for (name, element, zero_rows) in [
        ("FP8, 64 rows", Element::E4m3, 0),
        ("FP8, 1 row of 64", Element::E4m3, 63),
        ("BF16, 64 rows", Element::Bf16, 0),
        ("BF16, 1 row of 64", Element::Bf16, 63),
    ] {
        let n = 128;
        let code = |i: usize| {
            if element == Element::Bf16 {
                [0x40, 0x3f][i % 2]
            } else {
                0x30 + (i * 7 % 16) as u8
            }
        };
        let a: Vec<u8> = (0..64 * 32)
            .map(|i| if i / 32 >= 64 - zero_rows { 0 } else { code(i) })
            .collect();
        let b: Vec<u8> = (0..n * 32).map(code).collect();
        let (mut at, mut bt) = (Tile::default(), Tile::default());
        let mut c = vec![0f32; 64 * n];
        let ns = least(20, || {
            for _ in 0..100 {
                at.load(element, &a, 64, false);
                bt.load(element, &b, n, false);
                mma(element.precision(), &at, &mut bt, &mut c, 0);
            }
            Ok(100)
        })?;
        println!(
            "{name:20} {:6.3} ns a MAC, {:.1} us a wgmma",
            ns / (64 * n * element.k()) as f64,
            ns / 1000.0
        );
    }
    Ok(())
}
