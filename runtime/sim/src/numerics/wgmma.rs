//! The fused sums of Hopper's `wgmma` (PTX ISA 9.7.15).
//!
//! In: operand tiles as codes, and a tile of FP32 accumulators. Out: the
//! accumulators after one instruction, bit for bit by this model (FTTC-style
//! fused summation; measured on an H100 for the C = 0 FP8 case and for 16-bit
//! operands, and inferred for FP8 with C != 0; sources in `docs/model.md`,
//! "Tensor-core accumulation"):
//!
//! 1. An operand is significand * 2^e with 1 <= |s| < 2; a subnormal keeps the
//!    format's least exponent. Products are exact and not renormalised; their
//!    exponent is ea + eb.
//! 2. e_max is the largest exponent among the K products and the accumulator;
//!    zeros do not take part.
//! 3. Every term is truncated toward zero to a multiple of 2^(e_max - F).
//! 4. The terms are added exactly.
//! 5. The sum is truncated toward zero to FP32, for FP8 with only 13 bits of
//!    significand after the point. A zero is +0 and a NaN is 0x7fffffff.
//!
//! F is 13 for FP8 and 25 for BF16, FP16 and TF32. A result beyond FP32
//! becomes infinity; no published vector covers that.
//!
//! With FP16 accumulators step 5 rounds to the nearest FP16, ties to even, for
//! every operand type; a NaN is 0x7fff (MMA-Sim's model, not measured).
//!
//! [`mma`] works on whole tiles. Because |product| < 2^(e+2), a scaled product
//! fits an `i32`, so steps 1 to 4 are exact in `f32` and `i32` lanes whenever
//! the exponents are moderate; every other element goes through [`fused_sum`],
//! which is the definition in integers.

#[cfg(target_arch = "x86_64")]
use pulp::x86;

use super::convert::{self, F16, Rounding};
pub use super::elements::{Element, NAN};
use super::elements::{ZERO_EXP, decode_codes, exponent, pow2};

/// How many bits the adder and the result keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// F = 13, result with 13 fraction bits.
    Fp8,
    /// F = 25, result with 23 fraction bits.
    Full,
}

impl Precision {
    const fn adder_bits(self) -> i32 {
        match self {
            Precision::Fp8 => 13,
            Precision::Full => 25,
        }
    }

    const fn result_mask(self) -> u32 {
        match self {
            Precision::Fp8 => !0x3ff,
            Precision::Full => !0,
        }
    }
}

/// Exponent of a zero: sums with it stay far below every real one.
const ANY_REAL_EXP: i16 = -1000;
/// Within these exponents no `f32` step of the fast path can overflow, nor
/// lose a bit that the truncation would keep.
const SAFE_EXP: i16 = 50;
/// Columns that the inner loop treats together.
const LANES: usize = 16;

/// A decoded operand: `rows` vectors of `k` elements.
#[derive(Debug, Default)]
pub struct Tile {
    rows: usize,
    k: usize,
    /// `[rows][k]`, and the exponents beside them.
    values: Vec<f32>,
    exps: Vec<i16>,
    /// `[k][padded rows]`: the same transposed, when asked for.
    values_t: Vec<f32>,
    exps_t: Vec<i16>,
    padded: usize,
    /// The row has an infinity, a NaN, or an exponent beyond [`SAFE_EXP`].
    special: Vec<bool>,
    /// Every element of the row is zero.
    zero: Vec<bool>,
    any_special: bool,
}

impl Tile {
    /// Decodes `codes`, little-endian, `[rows][k]` without gaps. `negate` is
    /// the instruction's `imm-scale` of -1. `transposed` prepares the tile for
    /// use as B with many rows of A.
    pub fn load(&mut self, element: Element, codes: &[u8], rows: usize, negate: bool) {
        let k = element.k();
        debug_assert_eq!(codes.len(), rows * 32);
        self.rows = rows;
        self.k = k;
        self.values.resize(rows * k, 0.0);
        self.exps.resize(rows * k, 0);
        decode_codes(element, codes, &mut self.values, &mut self.exps);
        if negate {
            self.values.iter_mut().for_each(|v| *v = -*v);
        }
        self.classify();
    }

    /// Whether rows `from..to` are all zero.
    pub fn all_zero(&self, from: usize, to: usize) -> bool {
        self.zero[from..to].iter().all(|&z| z)
    }

    /// Whether any row may have an infinity or NaN.
    pub fn any_special(&self) -> bool {
        self.any_special
    }

    fn classify(&mut self) {
        self.special.clear();
        self.zero.clear();
        self.any_special = false;
        for row in 0..self.rows {
            let exps = &self.exps[row * self.k..(row + 1) * self.k];
            let (mut high, mut low) = (i16::MIN, i16::MAX);
            for &e in exps {
                high = high.max(e);
                // Zeros do not lower the least exponent.
                low = low.min(if e == ZERO_EXP { i16::MAX } else { e });
            }
            // Infinities and NaN have the exponent 128 in `f32`.
            let special = high > SAFE_EXP || low < -SAFE_EXP;
            self.special.push(special);
            self.zero.push(high == ZERO_EXP);
            self.any_special |= special;
        }
    }

    /// Prepares the tile as B: columns beside each other for every k.
    fn transpose(&mut self) {
        self.padded = self.rows.next_multiple_of(LANES);
        self.values_t.clear();
        self.values_t.resize(self.k * self.padded, 0.0);
        self.exps_t.clear();
        self.exps_t.resize(self.k * self.padded, ZERO_EXP);
        for j in 0..self.rows {
            for k in 0..self.k {
                self.values_t[k * self.padded + j] = self.values[j * self.k + k];
                self.exps_t[k * self.padded + j] = self.exps[j * self.k + k];
            }
        }
    }

    /// Values and exponents of one row.
    pub fn row(&self, r: usize) -> (&[f32], &[i16]) {
        let range = r * self.k..(r + 1) * self.k;
        (&self.values[range.clone()], &self.exps[range])
    }
}

/// One instruction over a tile: `c` is `[a.rows][b.rows]` and becomes
/// `a * b^T + c`. Rows whose bit is set in `skip` are left alone.
pub fn mma(precision: Precision, a: &Tile, b: &mut Tile, c: &mut [f32], skip: u64) {
    mma_with(Path::best(), precision, a, b, c, skip);
}

/// What step 5 makes of an accumulator to which nothing is added.
pub fn truncate(bits: u32, precision: Precision) -> u32 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return NAN;
    }
    let kept = bits & precision.result_mask();
    if kept & 0x7fff_ffff == 0 { 0 } else { kept }
}

/// Which machine code runs the inner loop. All give the same bits.
#[derive(Debug, Clone, Copy)]
enum Path {
    /// Without vector extensions.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::V4),
}

impl Path {
    /// All that this processor runs, the best first.
    fn all() -> impl Iterator<Item = Path> {
        #[cfg(target_arch = "x86_64")]
        let paths = [
            x86::V4::try_new().map(Path::Avx512),
            x86::V3::try_new().map(Path::Avx2),
            Some(Path::Portable),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let paths = [Some(Path::Portable)];
        paths.into_iter().flatten()
    }

    fn best() -> Path {
        Path::all().next().unwrap_or(Path::Portable)
    }
}

/// The integral part of numbers whose magnitude is below 2^31. Rust's own
/// conversion looks at every number for what does not fit.
trait Truncate: Copy {
    fn truncate(self, v: [f32; LANES]) -> [i32; LANES];
}

impl Truncate for () {
    #[inline(always)]
    fn truncate(self, v: [f32; LANES]) -> [i32; LANES] {
        v.map(|x| x as i32)
    }
}

#[cfg(target_arch = "x86_64")]
impl Truncate for x86::V3 {
    #[inline(always)]
    fn truncate(self, v: [f32; LANES]) -> [i32; LANES] {
        let halves: [core::arch::x86_64::__m256; 2] = bytemuck::cast(v);
        bytemuck::cast(halves.map(
            #[inline(always)]
            |h| self.avx._mm256_cvttps_epi32(h),
        ))
    }
}

#[cfg(target_arch = "x86_64")]
impl Truncate for x86::V4 {
    #[inline(always)]
    fn truncate(self, v: [f32; LANES]) -> [i32; LANES] {
        bytemuck::cast(self.avx512f._mm512_cvttps_epi32(bytemuck::cast(v)))
    }
}

/// With at most so many rows of A to multiply, transposing B does not pay.
const FEW_ROWS: usize = 3;

fn mma_with(path: Path, precision: Precision, a: &Tile, b: &mut Tile, c: &mut [f32], skip: u64) {
    let n = b.rows;
    debug_assert_eq!(a.k, b.k);
    debug_assert_eq!(c.len(), a.rows * n);
    let rows = || (0..a.rows).filter(|&i| skip >> i & 1 == 0);
    let few = rows().filter(|&i| !a.zero[i]).count() <= FEW_ROWS;
    if !few {
        b.transpose();
    }
    for i in rows() {
        let row = &mut c[i * n..(i + 1) * n];
        if a.zero[i] && !b.any_special {
            // Nothing is added: step 5 alone.
            row.iter_mut()
                .for_each(|x| *x = f32::from_bits(truncate(x.to_bits(), precision)));
            continue;
        }
        if a.special[i] || b.any_special || row.iter().any(|x| !x.is_finite()) {
            slow_row(precision, a, i, b, row);
            continue;
        }
        let (values, exps) = a.row(i);
        let job = Row {
            values,
            exps,
            b,
            few,
        };
        match path {
            Path::Portable => job.run((), precision, row),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(simd) => simd.vectorize(
                #[inline(always)]
                || job.run(simd, precision, row),
            ),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(simd) => simd.vectorize(
                #[inline(always)]
                || job.run(simd, precision, row),
            ),
        }
    }
}

fn slow_row(precision: Precision, a: &Tile, i: usize, b: &Tile, row: &mut [f32]) {
    let (av, ae) = a.row(i);
    for (j, c) in row.iter_mut().enumerate() {
        let (bv, be) = b.row(j);
        *c = fused_sum(precision, av, ae, bv, be, *c);
    }
}

/// One row of A against all of B.
#[derive(Clone, Copy)]
struct Row<'a> {
    values: &'a [f32],
    exps: &'a [i16],
    b: &'a Tile,
    few: bool,
}

impl Row<'_> {
    #[inline(always)]
    fn run(self, simd: impl Truncate, p: Precision, row: &mut [f32]) {
        match (p, self.few) {
            (Precision::Fp8, false) => self.lanes::<13, false>(simd, row),
            (Precision::Fp8, true) => self.lanes::<13, true>(simd, row),
            (Precision::Full, false) => self.lanes::<25, false>(simd, row),
            (Precision::Full, true) => self.lanes::<25, true>(simd, row),
        }
    }

    /// Largest exponent of each column's products (step 2).
    #[inline(always)]
    fn top<const FEW: bool>(self, j0: usize, count: usize) -> [i16; LANES] {
        let mut top = [2 * ZERO_EXP; LANES];
        if FEW {
            for (l, t) in top.iter_mut().enumerate().take(count) {
                let be = self.b.row(j0 + l).1;
                let mut m = [2 * ZERO_EXP; 8];
                for (x, y) in self.exps.chunks_exact(8).zip(be.chunks_exact(8)) {
                    for i in 0..8 {
                        m[i] = m[i].max(x[i].wrapping_add(y[i]));
                    }
                }
                *t = m.iter().fold(2 * ZERO_EXP, |a, &b| a.max(b));
            }
            return top;
        }
        for (k, &e) in self.exps.iter().enumerate() {
            let be: &[i16; LANES] = lanes(&self.b.exps_t, k * self.b.padded + j0);
            for l in 0..LANES {
                top[l] = top[l].max(be[l].wrapping_add(e));
            }
        }
        top
    }

    /// Sums of the truncated products (steps 3 and 4), in two halves, since 16
    /// products of F = 25 may exceed an `i32`.
    #[inline(always)]
    fn sums<const FEW: bool>(
        self,
        simd: impl Truncate,
        j0: usize,
        count: usize,
        scale: &[f32; LANES],
    ) -> [[i32; LANES]; 2] {
        let mut sums = [[0i32; LANES]; 2];
        let half = self.values.len() / 2;
        for (h, sum) in sums.iter_mut().enumerate() {
            let av = &self.values[h * half..(h + 1) * half];
            if FEW {
                for l in 0..count {
                    let bv = &self.b.row(j0 + l).0[h * half..(h + 1) * half];
                    // Half of K is 4, 8 or 16 terms.
                    let mut v = [0f32; LANES];
                    for ((v, x), y) in v.iter_mut().zip(av).zip(bv) {
                        *v = x * y * scale[l];
                    }
                    let terms = simd.truncate(v);
                    sum[l] = terms.iter().fold(0, |a, &b| a.wrapping_add(b));
                }
                continue;
            }
            for (k, &v) in av.iter().enumerate() {
                let at = (h * half + k) * self.b.padded + j0;
                let bv: &[f32; LANES] = lanes(&self.b.values_t, at);
                let mut terms = [0f32; LANES];
                for l in 0..LANES {
                    terms[l] = v * bv[l] * scale[l];
                }
                // Finite and below 2^(F+2) <= 2^27.
                let terms = simd.truncate(terms);
                for l in 0..LANES {
                    sum[l] = sum[l].wrapping_add(terms[l]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn lanes<const F: i32, const FEW: bool>(self, simd: impl Truncate, row: &mut [f32]) {
        for (block, out) in row.chunks_mut(LANES).enumerate() {
            let (j0, count) = (block * LANES, out.len());
            let mut c = [0f32; LANES];
            c[..count].copy_from_slice(out);
            let top = self.top::<FEW>(j0, count);
            let mut e_max = [0i32; LANES];
            let mut scale = [0f32; LANES];
            for l in 0..LANES {
                let ec = ((c[l].to_bits() >> 23) & 0xff) as i32 - 127;
                // A zero accumulator reads as -127, below every safe product.
                e_max[l] = ec.max(i32::from(top[l])).max(-2 * i32::from(SAFE_EXP));
                scale[l] = pow2(F - e_max[l]);
            }
            let sums = self.sums::<FEW>(simd, j0, count, &scale);
            finish::<F>(simd, &mut c, &top, &e_max, &scale, &sums);
            out.copy_from_slice(&c[..count]);
        }
    }
}

/// Adds the accumulators' terms and truncates the results (steps 3 to 5).
#[inline(always)]
fn finish<const F: i32>(
    simd: impl Truncate,
    c: &mut [f32; LANES],
    top: &[i16; LANES],
    e_max: &[i32; LANES],
    scale: &[f32; LANES],
    sums: &[[i32; LANES]; 2],
) {
    let mut scaled = [0f32; LANES];
    for l in 0..LANES {
        scaled[l] = c[l] * scale[l];
    }
    // |c| < 2^(e_max + 1), so the product is below 2^(F+1).
    let terms = simd.truncate(scaled);
    for l in 0..LANES {
        let term = terms[l];
        let value = if F == 13 {
            // Below 2^21, hence exact.
            let v =
                sums[0][l].wrapping_add(sums[1][l]).wrapping_add(term) as f32 * pow2(e_max[l] - F);
            f32::from_bits(v.to_bits() & Precision::Fp8.result_mask())
        } else {
            let wide = f64::from(sums[0][l]) + f64::from(sums[1][l]) + f64::from(term);
            let v = wide * f64::from_bits(((e_max[l] - F + 1023) as u64) << 52);
            // Dropping the 29 bits that `f32` lacks rounds toward zero.
            f64::from_bits(v.to_bits() & !0x1fff_ffff) as f32
        };
        let alone = if c[l] == 0.0 { 0 } else { c[l].to_bits() };
        let mask = if F == 13 {
            Precision::Fp8.result_mask()
        } else {
            !0
        };
        c[l] = if top[l] < ANY_REAL_EXP {
            // Only the accumulator is there; it may be subnormal.
            f32::from_bits(if alone & mask & 0x7fff_ffff == 0 {
                0
            } else {
                alone & mask
            })
        } else {
            value
        };
    }
}

#[inline(always)]
fn lanes<T>(all: &[T], at: usize) -> &[T; LANES] {
    // The slice has LANES elements, so the conversion cannot fail.
    match all[at..at + LANES].try_into() {
        Ok(block) => block,
        Err(_) => unreachable!("a slice of LANES elements"),
    }
}

/// [`mma`] with FP16 accumulators, as codes: rare, so by the definition.
pub fn mma_half(precision: Precision, a: &Tile, b: &Tile, c: &mut [u16]) {
    for (i, row) in c.chunks_exact_mut(b.rows).enumerate() {
        let (av, ae) = a.row(i);
        for (j, c) in row.iter_mut().enumerate() {
            let (bv, be) = b.row(j);
            *c = fused_sum_half(precision, av, ae, bv, be, *c);
        }
    }
}

/// The definition: one element, in integers, for every input.
pub fn fused_sum(p: Precision, av: &[f32], ae: &[i16], bv: &[f32], be: &[i16], c: f32) -> f32 {
    if let Some(special) = special_sum(av, bv, c) {
        return special;
    }
    let (sum, q) = aligned_sum(p, av, ae, bv, be, c, -126);
    compose(sum, q, p)
}

/// The definition with an FP16 accumulator.
pub fn fused_sum_half(p: Precision, av: &[f32], ae: &[i16], bv: &[f32], be: &[i16], c: u16) -> u16 {
    let c = convert::f16_to_f32(c);
    let value = match special_sum(av, bv, c) {
        Some(special) => f64::from(special),
        None => {
            let (sum, q) = aligned_sum(p, av, ae, bv, be, c, F16_MIN_EXP);
            // At most 33 terms below 2^27: exact.
            sum as f64 * convert::pow2(q.max(-1000))
        }
    };
    let code = convert::encode(value, F16, Rounding::NearestEven, false) as u16;
    // As in FP32, there is no negative zero.
    if code == 0x8000 { 0 } else { code }
}

/// Exponent of FP16's subnormals.
const F16_MIN_EXP: i16 = -14;

/// Steps 2 to 4: the sum in units of 2^q.
fn aligned_sum(
    p: Precision,
    av: &[f32],
    ae: &[i16],
    bv: &[f32],
    be: &[i16],
    c: f32,
    c_min_exp: i16,
) -> (i128, i32) {
    let f = p.adder_bits();
    let mut e_max = i32::from(exponent(c, c_min_exp));
    for k in 0..av.len() {
        if av[k] != 0.0 && bv[k] != 0.0 {
            e_max = e_max.max(i32::from(ae[k]) + i32::from(be[k]));
        }
    }
    let (cm, cq) = integer(c);
    let mut sum = aligned(i128::from(cm), cq + f - e_max);
    for k in 0..av.len() {
        let ((am, aq), (bm, bq)) = (integer(av[k]), integer(bv[k]));
        sum += aligned(i128::from(am) * i128::from(bm), aq + bq + f - e_max);
    }
    (sum, e_max - f)
}

fn special_sum(av: &[f32], bv: &[f32], c: f32) -> Option<f32> {
    let mut total = if c.is_finite() { 0.0 } else { c };
    for (&a, &b) in av.iter().zip(bv) {
        if !(a.is_finite() && b.is_finite()) {
            total += a * b;
        }
    }
    match total {
        t if t.is_nan() => Some(f32::from_bits(NAN)),
        t if t.is_infinite() => Some(t),
        _ => None,
    }
}

/// (m, q) with x = m * 2^q exactly.
fn integer(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let e = ((bits >> 23) & 0xff) as i32;
    let man = i64::from(bits & 0x7f_ffff) | if e == 0 { 0 } else { 1 << 23 };
    (if bits >> 31 == 1 { -man } else { man }, e.max(1) - 150)
}

/// `m * 2^shift`, truncated toward zero.
fn aligned(m: i128, shift: i32) -> i128 {
    let magnitude = m.unsigned_abs();
    let moved = if shift >= 0 {
        // Step 2 bounds every term by 2^(F+2), so nothing is lost.
        magnitude << shift.min(64)
    } else if shift > -127 {
        magnitude >> -shift
    } else {
        0
    };
    if m < 0 {
        -(moved as i128)
    } else {
        moved as i128
    }
}

/// `sum * 2^q` as FP32, truncated to the precision's fraction bits.
fn compose(sum: i128, q: i32, p: Precision) -> f32 {
    if sum == 0 {
        return 0.0;
    }
    let magnitude = sum.unsigned_abs();
    let top = 127 - magnitude.leading_zeros() as i32;
    let e = top + q;
    let sign = if sum < 0 { 1u32 << 31 } else { 0 };
    if e > 127 {
        return f32::from_bits(sign | 0x7f80_0000);
    }
    // Place of the last fraction bit: subnormals share one.
    let last = e.max(-126) - 23;
    let shift = last - q;
    let kept = if shift <= 0 {
        magnitude << -shift
    } else if shift < 128 {
        magnitude >> shift
    } else {
        0
    } as u32;
    let bits = if e < -126 {
        kept
    } else {
        (((e + 126) as u32) << 23) + kept
    };
    f32::from_bits(truncate(sign | bits, p))
}

#[cfg(test)]
#[path = "wgmma_tests.rs"]
mod tests;
