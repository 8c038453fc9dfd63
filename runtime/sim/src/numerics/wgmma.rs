//! The fused sums of Hopper's `wgmma` (PTX ISA 9.7.15).
//!
//! In: operand tiles as codes, and a tile of FP32 accumulators. Out: the
//! accumulators after one instruction, bit for bit by this model (FTTC-style
//! fused summation; measured on an H100 for the C = 0 FP8 case and for 16-bit
//! operands, and inferred for FP8 with C != 0):
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
//! [`mma`] works on whole tiles. Because |product| < 2^(e+2), a scaled product
//! fits an `i32`, so steps 1 to 4 are exact in `f32` and `i32` lanes whenever
//! the exponents are moderate; every other element goes through [`fused_sum`],
//! which is the definition in integers.

use std::sync::OnceLock;

use super::convert::{E4M3, E5M2, Format, decode};

/// Element type of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    E4m3,
    E5m2,
    F16,
    Bf16,
    Tf32,
}

impl Element {
    pub const fn bytes(self) -> usize {
        match self {
            Element::E4m3 | Element::E5m2 => 1,
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 => 4,
        }
    }

    /// Terms of one instruction: 32 bytes of K.
    pub const fn k(self) -> usize {
        32 / self.bytes()
    }

    pub const fn precision(self) -> Precision {
        match self {
            Element::E4m3 | Element::E5m2 => Precision::Fp8,
            _ => Precision::Full,
        }
    }

    /// Exponent of subnormals.
    const fn min_exp(self) -> i16 {
        match self {
            Element::E4m3 => -6,
            Element::E5m2 | Element::F16 => -14,
            Element::Bf16 | Element::Tf32 => -126,
        }
    }
}

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
const ZERO_EXP: i16 = -4000;
const ANY_REAL_EXP: i16 = -1000;
/// Within these exponents no `f32` step of the fast path can overflow, nor
/// lose a bit that the truncation would keep.
const SAFE_EXP: i16 = 50;
const NAN: u32 = 0x7fff_ffff;
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

struct Fp8Table {
    value: [f32; 256],
    exp: [i16; 256],
}

fn fp8_table(fmt: Format, min_exp: i16) -> Fp8Table {
    let mut t = Fp8Table {
        value: [0.0; 256],
        exp: [0; 256],
    };
    for code in 0..256 {
        let v = decode(code as u32, fmt) as f32;
        t.value[code] = v;
        t.exp[code] = exponent(v, min_exp);
    }
    t
}

fn fp8_tables() -> &'static [Fp8Table; 2] {
    static TABLES: OnceLock<[Fp8Table; 2]> = OnceLock::new();
    TABLES.get_or_init(|| [fp8_table(E4M3, -6), fp8_table(E5M2, -14)])
}

#[inline(always)]
fn exponent(v: f32, min_exp: i16) -> i16 {
    let bits = v.to_bits() & 0x7fff_ffff;
    let e = ((bits >> 23) as i16 - 127).max(min_exp);
    if bits == 0 { ZERO_EXP } else { e }
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
        match element {
            Element::E4m3 | Element::E5m2 => {
                let table = &fp8_tables()[usize::from(element == Element::E5m2)];
                for ((v, e), &c) in self.values.iter_mut().zip(&mut self.exps).zip(codes) {
                    *v = table.value[usize::from(c)];
                    *e = table.exp[usize::from(c)];
                }
            }
            Element::F16 => self.load_16(codes, element, |c| half::f16::from_bits(c).to_f32()),
            Element::Bf16 => {
                self.load_16(codes, element, |c| f32::from_bits(u32::from(c) << 16));
            }
            Element::Tf32 => {
                for ((v, e), c) in self
                    .values
                    .iter_mut()
                    .zip(&mut self.exps)
                    .zip(codes.chunks_exact(4))
                {
                    // The tensor core ignores the low 13 bits.
                    let bits = u32::from_le_bytes([c[0], c[1], c[2], c[3]]) & !0x1fff;
                    *v = f32::from_bits(bits);
                    *e = exponent(*v, -126);
                }
            }
        }
        if negate {
            self.values.iter_mut().for_each(|v| *v = -*v);
        }
        self.classify();
    }

    #[inline(always)]
    fn load_16(&mut self, codes: &[u8], element: Element, f: impl Fn(u16) -> f32) {
        let min = element.min_exp();
        for ((v, e), c) in self
            .values
            .iter_mut()
            .zip(&mut self.exps)
            .zip(codes.chunks_exact(2))
        {
            *v = f(u16::from_le_bytes([c[0], c[1]]));
            *e = exponent(*v, min);
        }
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

    fn row(&self, r: usize) -> (&[f32], &[i16]) {
        let range = r * self.k..(r + 1) * self.k;
        (&self.values[range.clone()], &self.exps[range])
    }
}

/// One instruction over a tile: `c` is `[a.rows][b.rows]` and becomes
/// `a * b^T + c`. With `zero_c` the accumulator counts as +0.
pub fn mma(precision: Precision, a: &Tile, b: &mut Tile, c: &mut [f32], zero_c: bool) {
    mma_with(Path::best(), precision, a, b, c, zero_c);
}

/// Which machine code runs the inner loop. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    fn best() -> Path {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                return Path::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Path::Avx2;
            }
        }
        Path::Portable
    }
}

fn mma_with(path: Path, precision: Precision, a: &Tile, b: &mut Tile, c: &mut [f32], zero_c: bool) {
    let n = b.rows;
    debug_assert_eq!(a.k, b.k);
    debug_assert_eq!(c.len(), a.rows * n);
    if zero_c {
        c.fill(0.0);
    }
    let mut transposed = false;
    for i in 0..a.rows {
        let row = &mut c[i * n..(i + 1) * n];
        if a.zero[i] && !b.any_special {
            // Nothing is added: step 5 alone.
            row.iter_mut()
                .for_each(|x| *x = truncate(x.to_bits(), precision));
            continue;
        }
        if !transposed {
            b.transpose();
            transposed = true;
        }
        let exact = a.special[i] || b.any_special || row.iter().any(|x| !x.is_finite());
        if exact {
            slow_row(precision, a, i, b, row);
            continue;
        }
        let (values, exps) = a.row(i);
        match path {
            Path::Portable => row_any(precision, values, exps, b, row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Path::best` has seen the features, or a test has.
            Path::Avx2 => unsafe { row_avx2(precision, values, exps, b, row) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Path::Avx512 => unsafe { row_avx512(precision, values, exps, b, row) },
        }
    }
}

fn truncate(bits: u32, precision: Precision) -> f32 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return f32::from_bits(NAN);
    }
    let kept = bits & precision.result_mask();
    f32::from_bits(if kept & 0x7fff_ffff == 0 { 0 } else { kept })
}

fn slow_row(precision: Precision, a: &Tile, i: usize, b: &Tile, row: &mut [f32]) {
    let (av, ae) = a.row(i);
    for (j, c) in row.iter_mut().enumerate() {
        let (bv, be) = b.row(j);
        *c = fused_sum(precision, av, ae, bv, be, *c);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn row_avx2(p: Precision, av: &[f32], ae: &[i16], b: &Tile, row: &mut [f32]) {
    row_any(p, av, ae, b, row);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
fn row_avx512(p: Precision, av: &[f32], ae: &[i16], b: &Tile, row: &mut [f32]) {
    row_any(p, av, ae, b, row);
}

#[inline(always)]
fn row_any(p: Precision, av: &[f32], ae: &[i16], b: &Tile, row: &mut [f32]) {
    match p {
        Precision::Fp8 => row_lanes::<13>(av, ae, b, row),
        Precision::Full => row_lanes::<25>(av, ae, b, row),
    }
}

/// 2^e as `f32` for -126 <= e <= 127.
#[inline(always)]
fn pow2(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

#[inline(always)]
fn row_lanes<const F: i32>(av: &[f32], ae: &[i16], b: &Tile, row: &mut [f32]) {
    let (k_len, padded) = (av.len(), b.padded);
    let mut j0 = 0;
    while j0 < row.len() {
        let count = LANES.min(row.len() - j0);
        let mut c = [0f32; LANES];
        c[..count].copy_from_slice(&row[j0..j0 + count]);

        let mut top = [2 * ZERO_EXP; LANES];
        for k in 0..k_len {
            let be: &[i16; LANES] = lanes(&b.exps_t, k * padded + j0);
            let e = ae[k];
            for l in 0..LANES {
                top[l] = top[l].max(be[l] + e);
            }
        }

        let mut e_max = [0i32; LANES];
        let mut scale = [0f32; LANES];
        for l in 0..LANES {
            let bits = c[l].to_bits();
            let ec = ((bits >> 23) & 0xff) as i32 - 127;
            // A zero accumulator reads as -127, below every safe product.
            e_max[l] = ec.max(i32::from(top[l])).max(-2 * i32::from(SAFE_EXP));
            scale[l] = pow2(F - e_max[l]);
        }

        // Two halves, since 16 products of F = 25 may exceed an `i32`.
        let mut sums = [[0i32; LANES]; 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            for k in half * (k_len / 2)..(half + 1) * (k_len / 2) {
                let bv: &[f32; LANES] = lanes(&b.values_t, k * padded + j0);
                let v = av[k];
                for l in 0..LANES {
                    // SAFETY: finite and below 2^(F+2) <= 2^27 in magnitude.
                    sum[l] += unsafe { (v * bv[l] * scale[l]).to_int_unchecked::<i32>() };
                }
            }
        }

        for l in 0..LANES {
            // SAFETY: |c| < 2^(e_max + 1), so the product is below 2^(F+1).
            let term = unsafe { (c[l] * scale[l]).to_int_unchecked::<i32>() };
            let value = if F == 13 {
                // Below 2^21, hence exact.
                let v = (sums[0][l] + sums[1][l] + term) as f32 * pow2(e_max[l] - F);
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
        row[j0..j0 + count].copy_from_slice(&c[..count]);
        j0 += LANES;
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

/// The definition: one element, in integers, for every input.
pub fn fused_sum(p: Precision, av: &[f32], ae: &[i16], bv: &[f32], be: &[i16], c: f32) -> f32 {
    if let Some(special) = special_sum(av, bv, c) {
        return special;
    }
    let f = p.adder_bits();
    let c_exp = if c == 0.0 {
        i32::from(ZERO_EXP)
    } else {
        i32::from(exponent(c, -126))
    };
    let mut e_max = c_exp;
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
    compose(sum, e_max - f, p)
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
    truncate(sign | bits, p)
}

#[cfg(test)]
#[path = "wgmma_tests.rs"]
mod tests;
