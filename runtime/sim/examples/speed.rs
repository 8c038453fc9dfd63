//! How fast the simulator is, beside its aims and beside what other simulators
//! of GPUs publish of themselves (`cargo xtask bench sim`).
//!
//! Times are the least of several rounds, on the wall clock: other work of the
//! machine only makes them longer. Figures are for one host thread, but for the
//! scaling.

use std::time::{Duration, Instant};

use mcc_sim::numerics::wgmma::{Element, Tile, mma};
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, Module, SimError, Swizzle, TensorElem, TensorMap};

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";
/// The aims: warp instructions and multiply-adds a second, and the cost of the
/// checkers as a factor.
const INSTRUCTIONS: f64 = 50e6;
const MACS: f64 = 1.5e9;
const CHECKS: f64 = 5.0;
/// How long a figure is measured.
const ROUNDS: Duration = Duration::from_millis(400);

/// Nanoseconds a unit of work, the least of the rounds.
fn least(mut f: impl FnMut() -> Result<u64, SimError>) -> Result<f64, SimError> {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut rounds = 0;
    while rounds < 3 || begin.elapsed() < ROUNDS {
        let start = Instant::now();
        let work = f()?;
        best = best.min(start.elapsed().as_nanos() as f64 / work as f64);
        rounds += 1;
    }
    Ok(best)
}

fn gpu(threads: usize, check: bool) -> Gpu {
    Gpu::new(GpuConfig {
        threads,
        check,
        ..GpuConfig::default()
    })
}

fn main() -> Result<(), SimError> {
    instructions()?;
    products()?;
    scaling()?;
    checks()?;
    others();
    Ok(())
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "NOT met" }
}

/// A kernel that repeats `body` in a loop.
fn looped(body: &str) -> String {
    let unrolled = body.repeat(64);
    format!(
        "{HEADER}.visible .entry k(.param .u64 p) {{
        .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .b16 %h<4>;
        .shared .align 16 .b8 s[4096];
        ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
        mul.wide.u32 %rd2, %r1, 16; add.s64 %rd5, %rd1, %rd2; mul.wide.u32 %rd2, %r1, 2; add.s64 %rd6, %rd1, %rd2;
        shl.b32 %r7, %r1, 2; mov.u32 %r8, s; add.u32 %r7, %r7, %r8; mov.u32 %r9, 0; mov.f32 %f2, 0f3F000000;
        mul.wide.u32 %rd2, %r1, 36; add.s64 %rd7, %rd1, %rd2;
        mov.u32 %r2, 1; mov.f32 %f1, 0f3F800000; mov.f32 %f3, 0f3F800000; mov.u64 %rd4, 1; mov.b16 %h1, 0;
        mov.u32 %r3, 0; st.shared.u32 [%r7], %r3;
        L: {unrolled}
        add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 100; @%p1 bra L;
        ret; }}"
    )
}

fn run(gpu: &Gpu, m: &Module, blocks: u32, buffer: u64) -> Result<u64, SimError> {
    let cfg = LaunchConfig::new(blocks, 128);
    let stats = gpu.launch(m, "k", &cfg, &buffer.to_le_bytes())?;
    Ok(stats.warp_instructions)
}

fn instructions() -> Result<(), SimError> {
    println!("warp instructions (32 threads each), one host thread");
    let gpu = gpu(1, false);
    let buffer = gpu.alloc(1 << 16, 256)?;
    for (name, body, aim) in [
        ("integer add", "add.s32 %r2, %r2, %r1;", true),
        ("f32 fma", "fma.rn.f32 %f1, %f2, %f3, %f1;", true),
        ("64-bit add", "add.s64 %rd4, %rd4, %rd1;", true),
        ("mul.wide", "mul.wide.u32 %rd4, %r2, 4;", true),
        (
            "compare and select",
            "setp.lt.s32 %p2, %r2, %r1; selp.b32 %r2, %r2, %r1, %p2;",
            true,
        ),
        ("cvt.bf16", "cvt.rn.bf16.f32 %h1, %f2;", false),
        ("ex2.approx", "ex2.approx.f32 %f1, %f2;", false),
        (
            "ld.global, side by side",
            "ld.global.u32 %r3, [%rd3];",
            false,
        ),
        ("ld.global, scattered", "ld.global.u32 %r3, [%rd7];", false),
        (
            "ld.global.v4",
            "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd5];",
            false,
        ),
        ("st.global.b16", "st.global.b16 [%rd6], %h1;", false),
        ("ld.shared", "ld.shared.u32 %r3, [%r7];", false),
        ("st.shared", "st.shared.u32 [%r7], %r1;", false),
        ("shfl", "shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;", false),
    ] {
        let m = gpu.load_module(&looped(body))?;
        let ns = least(|| run(&gpu, &m, 4, buffer))?;
        let rate = 1e9 / ns;
        let aim = if aim {
            format!("  aim 50.0: {}", met(rate >= INSTRUCTIONS))
        } else {
            String::new()
        };
        println!("  {name:24} {:7.1} M/s {ns:7.1} ns{aim}", rate / 1e6);
    }
    let m = gpu.load_module(&format!("{HEADER}.visible .entry k() {{ ret; }}"))?;
    for (blocks, threads) in [(1, 128), (32, 384)] {
        let ns = least(|| {
            for _ in 0..100 {
                gpu.launch(&m, "k", &LaunchConfig::new(blocks, threads), &[])?;
            }
            Ok(100)
        })?;
        println!(
            "  empty launch of {blocks} x {threads} threads: {:.1} us",
            ns / 1e3
        );
    }
    Ok(())
}

fn products() -> Result<(), SimError> {
    println!("wgmma m64n128, bit-true, one host thread");
    for (name, element, rows, aim) in [
        ("e4m3", Element::E4m3, 64, true),
        ("e4m3, 1 row not zero", Element::E4m3, 1, false),
        ("bf16", Element::Bf16, 64, false),
        ("bf16, 1 row not zero", Element::Bf16, 1, false),
    ] {
        let n = 128;
        let code = |i: usize| {
            if element == Element::Bf16 {
                [0x40, 0x3f][i % 2]
            } else {
                0x30 + (i * 7 % 16) as u8
            }
        };
        let row = |i: usize| i / 32;
        let a: Vec<u8> = (0..64 * 32)
            .map(|i| if row(i) >= rows { 0 } else { code(i) })
            .collect();
        let b: Vec<u8> = (0..n * 32).map(code).collect();
        let (mut at, mut bt) = (Tile::default(), Tile::default());
        let mut c = vec![0f32; 64 * n];
        let macs = (64 * n * element.k()) as u64;
        let ns = least(|| {
            for _ in 0..50 {
                at.load(element, &a, 64, false);
                bt.load(element, &b, n, false);
                mma(element.precision(), &at, &mut bt, &mut c, 0);
            }
            Ok(50 * macs)
        })?;
        let rate = 1.0 / ns;
        let aim = if aim {
            format!("  aim 1.5: {}", met(rate * 1e9 >= MACS))
        } else {
            String::new()
        };
        println!(
            "  {name:24} {rate:7.2} G multiply-adds/s, {:.1} us a wgmma{aim}",
            ns * macs as f64 / 1e3
        );
    }
    Ok(())
}

fn scaling() -> Result<(), SimError> {
    println!("scaling over host threads, 64 blocks");
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = vec![1];
    while let Some(&n) = threads.last()
        && n < most
    {
        threads.push((2 * n).min(most));
    }
    for (name, body) in [
        ("f32 fma", "fma.rn.f32 %f1, %f2, %f3, %f1;"),
        ("ld.global", "ld.global.u32 %r3, [%rd3];"),
    ] {
        let mut one = 0.0;
        for &n in &threads {
            let gpu = gpu(n, false);
            let buffer = gpu.alloc(1 << 16, 256)?;
            let m = gpu.load_module(&looped(body))?;
            let rate = 1e9 / least(|| run(&gpu, &m, 64, buffer))?;
            if n == 1 {
                one = rate;
            }
            println!(
                "  {name:24} {:7.1} M/s on {n} threads: {:.2} times one",
                rate / 1e6,
                rate / one
            );
        }
    }
    Ok(())
}

/// Time of a kernel that nvcc made, in nanoseconds.
fn foreign(kernel: &str, check: bool) -> Result<f64, SimError> {
    let gpu = gpu(1, check);
    if kernel == "softmax" {
        let (rows, cols) = (64u32, 1024u32);
        let m = gpu.load_module(include_str!("../tests/foreign/cuda_softmax.ptx"))?;
        let bytes = u64::from(4 * rows * cols);
        let (out, x) = (gpu.alloc(bytes, 256)?, gpu.alloc(bytes, 256)?);
        gpu.fill(x, 0, bytes)?;
        let layout = m.param_layout(kernel)?;
        let mut params = vec![0; layout.last().map_or(0, |(at, size)| at + size)];
        for (slot, v) in layout.iter().zip([out, x, u64::from(cols), 0]) {
            params[slot.0..slot.0 + slot.1].copy_from_slice(&v.to_le_bytes()[..slot.1]);
        }
        let cfg = LaunchConfig::new(rows, 256);
        return least(|| gpu.launch(&m, kernel, &cfg, &params).map(|_| 1));
    }
    let (rows, cols, k) = (128u64, 128, 1024);
    let m = gpu.load_module(include_str!("../tests/foreign/cuda_fp8_gemm.ptx"))?;
    let map = |rows: u64| -> Result<Vec<u8>, SimError> {
        let at = gpu.alloc(rows * k, 256)?;
        let codes: Vec<u8> = (0..rows * k).map(|i| 0x30 + (i * 7 % 16) as u8).collect();
        gpu.write(at, &codes)?;
        let map = TensorMap {
            elem: TensorElem::U8,
            global_address: at,
            dims: vec![k, rows],
            strides: vec![k],
            box_dims: vec![128, 64],
            elem_strides: vec![1, 1],
            swizzle: Swizzle::B128,
            oob_nan: false,
        };
        let bytes = map
            .encode()
            .map_err(|e| SimError::TensorMap(e.to_string()))?;
        Ok(bytes.to_vec())
    };
    let scales = |n: u64| -> Result<Vec<u8>, SimError> {
        let at = gpu.alloc(4 * n, 256)?;
        let ones: Vec<u8> = (0..n).flat_map(|_| 1f32.to_le_bytes()).collect();
        gpu.write(at, &ones)?;
        Ok(at.to_le_bytes().to_vec())
    };
    let args = [
        gpu.alloc(4 * rows * cols, 256)?.to_le_bytes().to_vec(),
        map(rows)?,
        map(cols)?,
        scales(rows * k / 128)?,
        scales(cols * k / 128)?,
        (cols as u32).to_le_bytes().to_vec(),
        (k as u32).to_le_bytes().to_vec(),
    ];
    let layout = m.param_layout(kernel)?;
    let mut params = vec![0; layout.last().map_or(0, |(at, size)| at + size)];
    for ((at, size), arg) in layout.iter().zip(&args) {
        params[*at..at + size].copy_from_slice(arg);
    }
    let cfg = LaunchConfig {
        grid: [(rows / 64) as u32, (cols / 64) as u32, 1],
        dynamic_smem: 3 * 16384 + 1024,
        ..LaunchConfig::new(1, 160)
    };
    least(|| gpu.launch(&m, kernel, &cfg, &params).map(|_| 1))
}

fn checks() -> Result<(), SimError> {
    println!("cost of the checkers, one host thread");
    for (name, kernel) in [
        ("FP8 GEMM (TMA, wgmma)", "fp8_gemm"),
        ("softmax of rows", "softmax"),
    ] {
        let (without, with) = (foreign(kernel, false)?, foreign(kernel, true)?);
        let factor = with / without;
        println!(
            "  {name:24} {:7.2} ms, with checks {:.2} ms: {factor:.2} times  aim at most 5: {}",
            without / 1e6,
            with / 1e6,
            met(factor <= CHECKS)
        );
    }
    Ok(())
}

/// What others publish; all of them model time as well, which this simulator
/// does not, so that the figures tell what a user waits for, not who is better.
fn others() {
    println!("published by others, warp instructions (or wavefronts') a second");
    for line in [
        "GPGPU-Sim 3.x             0.0029 M/s  from the next line: 4.3 times slower",
        "Accel-Sim, traces         0.0125 M/s  Khairy et al., ISCA 2020, section II-E; one thread, no functional execution",
        "Accel-Sim, OpenMP         5.8 times one thread on 16  Huerta and Gonzalez, CAMS 2024",
        "MGPUSim, emulation only   3.5 times one thread on 4   Sun et al., ISCA 2019",
    ] {
        println!("  {line}");
    }
}
