//! What Triton makes for Hopper's own engines, and of scans, sorts and atomics:
//! tensor descriptors of the host and of the kernel, warps with roles, locks.

use half::f16;
use mcc_sim::{SimError, Swizzle, TensorElem, TensorMap};

use super::common::{Arg, download_f32, download_u32, upload_u32};
use super::triton::with_scratch;
use super::{Device, Random, config, on_devices, on_every_device};

/// Rows of c, a ragged number for tiles of 64, then columns and K.
const SHAPE: [usize; 3] = [100, 128, 192];

/// Operands of which every sum is a small whole number, and their product.
fn whole_numbers() -> (Vec<u16>, Vec<u16>, Vec<u16>) {
    let [m, n, k] = SHAPE;
    let mut r = Random(30);
    let mut draw =
        |count: usize| -> Vec<f32> { (0..count).map(|_| r.below(5) as f32 - 2.0).collect() };
    let (a, b) = (draw(m * k), draw(n * k));
    let mut c = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let terms = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
            c.push(terms.map(|(x, y)| x * y).sum::<f32>());
        }
    }
    let bits = |v: &[f32]| v.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
    (bits(&a), bits(&b), bits(&c))
}

/// A descriptor as Triton passes it: the map, then extents and strides.
fn descriptor(at: u64, [rows, columns]: [usize; 2]) -> [Arg; 5] {
    let map = TensorMap {
        elem: TensorElem::F16,
        global_address: at,
        dims: vec![columns as u64, rows as u64],
        strides: vec![2 * columns as u64],
        box_dims: vec![64, 64],
        elem_strides: vec![1, 1],
        swizzle: Swizzle::B128,
        oob_nan: false,
    };
    [
        Arg::Bytes(map.encode().expect("legal").to_vec()),
        Arg::U32(rows as u32),
        Arg::U32(columns as u32),
        Arg::U64(columns as u64),
        Arg::U64(1),
    ]
}

/// Where in the text the last mbarrier has been initialised.
fn behind_the_set_up(ptx: &str) -> usize {
    let last = ptx.rfind("mbarrier.init").expect("it has mbarriers");
    last + ptx[last..].find('\n').expect("more lines") + 1
}

/// The product with descriptors of the host, by one of two kernels.
///
/// Triton 3.9 lets TMA use mbarriers that it has initialised with no fence in
/// between. The CUDA C++ Programming Guide ("Tensor Memory Access") wants a
/// proxy fence there, as the asynchronous proxy need not see the
/// initialisation else, and the checks report that. `rest` is what they report
/// once the fence is there.
fn gemm(name: &str, ptx: &str, threads: u32, dynamic_smem: u32, rest: Option<&str>) {
    let [m, n, k] = SHAPE;
    let (a, b, want) = whole_numbers();
    let run = |d: &Device<'_>| {
        let out = d.upload_u16(&vec![0x5555; m * n]);
        let (a, b) = (d.upload_u16(&a), d.upload_u16(&b));
        let mut args = Vec::new();
        args.extend(descriptor(out, [m, n]));
        args.extend(descriptor(a, [m, k]));
        args.extend(descriptor(b, [n, k]));
        args.push(Arg::U32(k as u32));
        let grid = [m.div_ceil(64) as u32, (n / 64) as u32];
        let cfg = config(grid, threads, dynamic_smem);
        let stats = d.try_launch("tma_gemm", &cfg, &with_scratch(&args))?;
        assert!(stats.wgmma > 0 && stats.bulk_bytes > 0);
        assert!(d.download_u16(out, m * n) == want, "{}", d.what);
        Ok(())
    };
    let clean = |d: &Device<'_>| {
        let outcome: Result<(), SimError> = run(d);
        outcome.unwrap_or_else(|e| panic!("{}: {e}", d.what));
    };
    on_devices(name, ptx, &[false], clean);
    on_devices(name, ptx, &[true], |d| {
        let finding = run(d).expect_err("there is no fence").to_string();
        assert!(finding.contains("mbarrier initialisation"), "{finding}");
    });
    let mut repaired = ptx.to_owned();
    repaired.insert_str(
        behind_the_set_up(ptx),
        "fence.mbarrier_init.release.cluster;\n",
    );
    on_devices(name, &repaired, &[true], |d| match rest {
        None => clean(d),
        Some(rest) => {
            let finding = run(d).expect_err("there is more").to_string();
            assert!(finding.contains(rest), "{finding}");
        }
    });
}

#[test]
fn gemm_through_descriptors_of_the_host() {
    let ptx = include_str!("triton_tma_gemm.ptx");
    gemm("triton_tma_gemm", ptx, 128, 49_176, None);
}

/// Besides a warp group that loads there are two that multiply, and a tile of
/// 64 rows cannot be divided between them: both compute all of it, and both
/// store it. The values are equal, so the result is right, but it is a race.
#[test]
fn gemm_with_warps_that_only_load() {
    let ptx = include_str!("triton_specialized_gemm.ptx");
    assert!(ptx.contains("setmaxnreg"));
    gemm(
        "triton_specialized_gemm",
        ptx,
        384,
        65_696,
        Some("race: global address"),
    );
}

#[test]
fn gemm_through_descriptors_that_the_kernel_writes() {
    let [m, n, k] = SHAPE;
    let (a, b, want) = whole_numbers();
    let ptx = include_str!("triton_descriptor_gemm.ptx");
    assert!(ptx.contains("tensormap.replace"));
    on_every_device("triton_descriptor_gemm", ptx, |d| {
        let out = d.upload_u16(&vec![0x5555; m * n]);
        let grid = [m.div_ceil(64) as u32, (n / 64) as u32];
        // Three descriptors of 128 bytes for each block.
        let scratch = d.alloc(384 * (grid[0] * grid[1]) as usize);
        let args = [
            Arg::U64(out),
            Arg::U64(d.upload_u16(&a)),
            Arg::U64(d.upload_u16(&b)),
            Arg::U32(m as u32),
            Arg::U32(n as u32),
            Arg::U32(k as u32),
            Arg::U64(scratch),
            Arg::U64(0),
        ];
        d.launch("descriptor_gemm", &config(grid, 128, 49_176), &args);
        assert!(d.download_u16(out, m * n) == want, "{}", d.what);
    });
}

#[test]
fn atomics_of_every_order_and_a_lock() {
    let n = 900usize;
    let mut r = Random(31);
    let x: Vec<u32> = (0..n).map(|_| r.below(1 << 20)).collect();
    let slot = |s: usize| x.iter().skip(s).step_by(16).copied();
    let start: Vec<u32> = (0..96)
        .map(|i| match i / 16 {
            2 => 1 << 30,
            3 => 0x0fff_ffff,
            _ => 0,
        })
        .collect();
    let fold = |first: u32, s: usize, f: fn(u32, u32) -> u32| slot(s).fold(first, f);
    let mut want = Vec::new();
    want.extend((0..16).map(|s| slot(s).sum::<u32>()));
    want.extend((0..16).map(|s| fold(0, s, u32::max)));
    want.extend((0..16).map(|s| fold(1 << 30, s, u32::min)));
    want.extend((0..16).map(|s| fold(0x0fff_ffff, s, |a, v| a & (v | 0xfff))));
    want.extend((0..16).map(|s| fold(0, s, |a, v| a | v)));
    want.extend((0..16).map(|s| fold(0, s, |a, v| a ^ v)));
    let floats: Vec<f32> = (0..16)
        .map(|s| slot(s).map(|v| (v % 8) as f32).sum())
        .collect();
    let halves: Vec<u16> = (0..16)
        .map(|s| f16::from_f32(slot(s).map(|v| (v % 2) as f32).sum()).to_bits())
        .collect();
    on_every_device("triton_atomics", include_str!("triton_atomics.ptx"), |d| {
        let (counters, float_at) = (upload_u32(d.gpu, &start), d.zeros(64));
        let (half_at, lock, total) = (d.zeros(32), d.zeros(4), d.zeros(4));
        let args = [
            Arg::U64(counters),
            Arg::U64(float_at),
            Arg::U64(half_at),
            Arg::U64(lock),
            Arg::U64(total),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U32(n as u32),
        ];
        let grid = [n.div_ceil(256) as u32, 1];
        d.launch("atomics", &config(grid, 128, 1024), &with_scratch(&args));
        assert_eq!(download_u32(d.gpu, counters, 96), want, "{}", d.what);
        assert_eq!(download_f32(d.gpu, float_at, 16), floats, "{}", d.what);
        assert_eq!(d.download_u16(half_at, 16), halves, "{}", d.what);
        assert_eq!(
            download_u32(d.gpu, total, 1),
            [x.iter().sum::<u32>()],
            "{}",
            d.what
        );
        assert_eq!(download_u32(d.gpu, lock, 1), [0], "{}", d.what);
    });
}

/// Philox 4x32-10 (Salmon et al., 2011), of which `tl.rand` takes the first
/// word: the counter is the element's index, the key the seed.
fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> u32 {
    for _ in 0..10 {
        let (p, q) = (u64::from(c[0]) * 0xd251_1f53, u64::from(c[2]) * 0xcd9e_8d57);
        c = [
            (q >> 32) as u32 ^ c[1] ^ key[0],
            q as u32,
            (p >> 32) as u32 ^ c[3] ^ key[1],
            p as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    c[0]
}

#[test]
fn scans_sorts_and_random_numbers() {
    let (blocks, block) = (3usize, 256usize);
    let mut r = Random(32);
    let x: Vec<u32> = (0..blocks * block).map(|_| r.below(10_000)).collect();
    let seed = 1234u32;
    let mut bins = vec![0u32; 32];
    x.iter().for_each(|v| bins[*v as usize % 32] += 1);
    let (mut sums, mut sorted, mut best) = (Vec::new(), Vec::new(), Vec::new());
    for part in x.chunks_exact(block) {
        sums.extend(part.iter().scan(0, |s, v| {
            *s += v;
            Some(*s)
        }));
        let mut p = part.to_vec();
        p.sort_unstable();
        sorted.extend(p);
        let top = part.iter().max().copied().unwrap_or(0);
        // Of equal ones the first.
        best.push(part.iter().position(|&v| v == top).unwrap_or(0) as u32);
    }
    on_every_device("triton_scan", include_str!("triton_scan.ptx"), |d| {
        let (sums_at, sorted_at) = (d.alloc(4 * x.len()), d.alloc(4 * x.len()));
        let (best_at, bins_at) = (d.alloc(4 * blocks), d.zeros(4 * 32));
        let uniform_at = d.alloc(4 * x.len());
        let args = [
            Arg::U64(sums_at),
            Arg::U64(sorted_at),
            Arg::U64(best_at),
            Arg::U64(bins_at),
            Arg::U64(uniform_at),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U32(seed),
        ];
        d.launch(
            "scan",
            &config([blocks as u32, 1], 128, 1024),
            &with_scratch(&args),
        );
        assert_eq!(download_u32(d.gpu, sums_at, x.len()), sums, "{}", d.what);
        assert_eq!(
            download_u32(d.gpu, sorted_at, x.len()),
            sorted,
            "{}",
            d.what
        );
        assert_eq!(download_u32(d.gpu, best_at, blocks), best, "{}", d.what);
        assert_eq!(download_u32(d.gpu, bins_at, 32), bins, "{}", d.what);
        for (i, u) in download_f32(d.gpu, uniform_at, x.len())
            .into_iter()
            .enumerate()
        {
            // Triton folds the word to 31 bits by its sign and scales it to
            // [0, 1).
            let word = philox([i as u32, 0, 0, 0], [seed, 0]) as i32;
            let word = if word < 0 { -word - 1 } else { word };
            let want = word as f32 * 4.656_612_7e-10;
            assert_eq!(u, want, "{}: random number {i}", d.what);
        }
    });
}
