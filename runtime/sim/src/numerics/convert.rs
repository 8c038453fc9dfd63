//! Small floats: encoding with every PTX rounding mode, and decoding.
//!
//! In: an `f64`, which holds every `f32`, `f16` and FP8 value exactly. Out:
//! the code of the format, rounded once. `cvt` (PTX ISA 9.7.9.22) is built
//! from these two functions and the integer conversions below.

/// A binary floating-point format of at most 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub exp_bits: u32,
    pub man_bits: u32,
    pub bias: i32,
    /// The top exponent holds infinities and NaN. E4M3 has neither there: only
    /// its very last code is NaN.
    pub ieee: bool,
    /// The NaN that `cvt` writes.
    pub nan: u32,
}

pub const E4M3: Format = Format {
    exp_bits: 4,
    man_bits: 3,
    bias: 7,
    ieee: false,
    nan: 0x7f,
};
pub const E5M2: Format = Format {
    exp_bits: 5,
    man_bits: 2,
    bias: 15,
    ieee: true,
    nan: 0x7f,
};
pub const F16: Format = Format {
    exp_bits: 5,
    man_bits: 10,
    bias: 15,
    ieee: true,
    nan: 0x7fff,
};
pub const BF16: Format = Format {
    exp_bits: 8,
    man_bits: 7,
    bias: 127,
    ieee: true,
    nan: 0x7fff,
};
pub const F32: Format = Format {
    exp_bits: 8,
    man_bits: 23,
    bias: 127,
    ieee: true,
    nan: 0x7fff_ffff,
};
/// Stored in the upper bits of an `f32`: see [`encode_tf32`].
pub const TF32: Format = Format {
    exp_bits: 8,
    man_bits: 10,
    bias: 127,
    ieee: true,
    nan: 0x3ffff,
};

/// PTX ISA 9.7.9: `.rn`, `.rz`, `.rm`, `.rp`, `.rna`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    NearestEven,
    Zero,
    Down,
    Up,
    NearestAway,
}

impl Format {
    const fn sign_bit(self) -> u32 {
        1 << (self.exp_bits + self.man_bits)
    }

    /// The largest finite magnitude's code.
    pub const fn max_finite(self) -> u32 {
        let top = ((1 << self.exp_bits) - 1) << self.man_bits;
        if self.ieee {
            top - 1
        } else {
            self.sign_bit() - 2
        }
    }

    const fn infinity(self) -> u32 {
        ((1 << self.exp_bits) - 1) << self.man_bits
    }
}

/// The value of a code.
pub fn decode(code: u32, fmt: Format) -> f64 {
    let sign = if code & fmt.sign_bit() != 0 {
        -1.0
    } else {
        1.0
    };
    let magnitude = code & (fmt.sign_bit() - 1);
    if fmt.ieee && magnitude >= fmt.infinity() {
        return if magnitude == fmt.infinity() {
            sign * f64::INFINITY
        } else {
            f64::NAN
        };
    }
    if !fmt.ieee && magnitude == fmt.sign_bit() - 1 {
        return f64::NAN;
    }
    let exp = (magnitude >> fmt.man_bits) as i32;
    let man = magnitude & ((1 << fmt.man_bits) - 1);
    let (significand, exponent) = if exp == 0 {
        (man, 1 - fmt.bias)
    } else {
        (man | 1 << fmt.man_bits, exp - fmt.bias)
    };
    sign * f64::from(significand) * pow2(exponent - fmt.man_bits as i32)
}

/// 2^e for the normal range of `f64`.
pub fn pow2(e: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&e));
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// Splits a finite non-zero `f64` into (significand, exponent) with
/// `|x| = significand * 2^exponent` and bit 52 of the significand set.
fn split(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let exp = ((bits >> 52) & 0x7ff) as i32;
    let man = bits & ((1 << 52) - 1);
    if exp == 0 {
        let shift = man.leading_zeros() - 11;
        (man << shift, -1074 - shift as i32)
    } else {
        (man | 1 << 52, exp - 1075)
    }
}

/// Rounds `x` to the format. With `satfinite` what is too large becomes the
/// largest finite value and NaN stays NaN.
pub fn encode(x: f64, fmt: Format, rounding: Rounding, satfinite: bool) -> u32 {
    if x.is_nan() {
        return fmt.nan;
    }
    let negative = x.is_sign_negative();
    let sign = if negative { fmt.sign_bit() } else { 0 };
    if x == 0.0 {
        return sign;
    }
    let overflow = |to_infinity: bool| {
        if satfinite || (!to_infinity && x.is_finite()) {
            sign | fmt.max_finite()
        } else if fmt.ieee {
            sign | fmt.infinity()
        } else {
            sign | fmt.nan
        }
    };
    if x.is_infinite() {
        return overflow(true);
    }
    let (significand, exponent) = split(x);
    let unbiased = exponent + 52;
    let min_exp = 1 - fmt.bias;
    // Units of the last place of the result, as a power of two.
    let ulp = unbiased.max(min_exp) - fmt.man_bits as i32;
    let shift = ulp - exponent;
    let (mut kept, rest, half) = if shift >= 64 {
        (0, 1, 2) // Below half of the smallest step.
    } else {
        (
            significand >> shift,
            significand & ((1u64 << shift) - 1),
            1u64 << (shift - 1),
        )
    };
    let up = match rounding {
        Rounding::NearestEven => rest > half || (rest == half && kept & 1 == 1),
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept += u64::from(up);
    // A carry out of the significand lands in the exponent field by itself.
    let magnitude = if unbiased >= min_exp {
        (((unbiased - min_exp) as u64) << fmt.man_bits) + kept
    } else {
        kept
    };
    if magnitude > u64::from(fmt.max_finite()) {
        return overflow(match rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        });
    }
    sign | magnitude as u32
}

/// TF32 lives in an `f32` register with its low 13 bits zero.
pub fn encode_tf32(x: f32, rounding: Rounding, satfinite: bool) -> u32 {
    if x.is_nan() {
        return 0x7fff_ffff;
    }
    encode(f64::from(x), TF32, rounding, satfinite) << 13
}

/// `f32` to `bf16`, round to nearest even.
#[inline(always)]
pub fn f32_to_bf16(x: u32) -> u16 {
    if x & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fff;
    }
    // Adding just under half of the last kept place, plus one when that place
    // is odd, carries exactly when the discarded half demands it.
    ((x + 0x7fff + ((x >> 16) & 1)) >> 16) as u16
}

/// `f32` to `f16`, round to nearest even.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    if x.is_nan() {
        0x7fff
    } else {
        half::f16::from_f32(x).to_bits()
    }
}

#[inline(always)]
pub fn f16_to_f32(x: u16) -> f32 {
    half::f16::from_bits(x).to_f32()
}

#[inline(always)]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Rounds to an integral value, which stays a float.
pub fn round_integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
        Rounding::NearestAway => x.round(),
    }
}

/// Float to integer: rounded, clamped to the range of the integer; NaN becomes
/// 0 below 64 bits and 2^63 for 64 bits (PTX ISA 9.7.9.22, integer conversion
/// notes).
pub fn to_int(x: f64, rounding: Rounding, bits: u32, signed: bool) -> u64 {
    if x.is_nan() {
        return if bits == 64 { 1 << 63 } else { 0 };
    }
    let r = round_integral(x, rounding);
    // `as` clamps.
    let value = if signed { r as i64 as u64 } else { r as u64 };
    saturate_int(value, signed, 64, bits, signed)
}

/// Clamps an integer of one type to the range of another; the result is the
/// two's-complement pattern in 64 bits.
pub fn saturate_int(v: u64, from_signed: bool, from: u32, to: u32, to_signed: bool) -> u64 {
    let wide = if from_signed {
        i128::from(sign_extend(v, from) as i64)
    } else {
        i128::from(zero_extend(v, from))
    };
    let (low, high) = if to_signed {
        (-(1i128 << (to - 1)), (1i128 << (to - 1)) - 1)
    } else {
        (0, (1i128 << to) - 1)
    };
    wide.clamp(low, high) as u64
}

#[inline(always)]
pub fn sign_extend(v: u64, bits: u32) -> u64 {
    (((v << (64 - bits)) as i64) >> (64 - bits)) as u64
}

#[inline(always)]
pub fn zero_extend(v: u64, bits: u32) -> u64 {
    if bits >= 64 { v } else { v & ((1 << bits) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite value of a format with its code, both signs, sorted.
    fn table(fmt: Format) -> Vec<(f64, u32)> {
        let bits = 1 + fmt.exp_bits + fmt.man_bits;
        let mut all: Vec<(f64, u32)> = (0..1u32 << (bits - 1))
            .filter(|&c| c <= fmt.max_finite())
            .map(|c| {
                // Independent of `decode`: the value from the definition.
                let e = c >> fmt.man_bits;
                let m = f64::from(c & ((1 << fmt.man_bits) - 1)) / f64::from(1u32 << fmt.man_bits);
                let v = if e == 0 {
                    m * 2f64.powi(1 - fmt.bias)
                } else {
                    (1.0 + m) * 2f64.powi(e as i32 - fmt.bias)
                };
                (v, c)
            })
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    /// Rounds by looking for the two neighbours in the table.
    fn by_search(x: f64, fmt: Format, table: &[(f64, u32)], r: Rounding) -> u32 {
        let sign = if x < 0.0 { fmt.sign_bit() } else { 0 };
        let a = x.abs();
        let above = table.partition_point(|t| t.0 < a);
        if above < table.len() && table[above].0 == a {
            return sign | table[above].1;
        }
        let low = table[above - 1];
        // The value that would follow the largest finite one.
        let high = table.get(above).copied().unwrap_or_else(|| {
            let step = table[table.len() - 1].0 - table[table.len() - 2].0;
            (
                table[table.len() - 1].0 + step,
                if fmt.ieee { low.1 + 1 } else { fmt.nan },
            )
        });
        let take_high = match r {
            Rounding::NearestEven => {
                let (d0, d1) = (a - low.0, high.0 - a);
                d1 < d0 || (d1 == d0 && low.1 & 1 == 1)
            }
            Rounding::NearestAway => high.0 - a <= a - low.0,
            Rounding::Zero => false,
            Rounding::Down => x < 0.0,
            Rounding::Up => x > 0.0,
        };
        sign | if take_high { high.1 } else { low.1 }
    }

    const MODES: [Rounding; 5] = [
        Rounding::NearestEven,
        Rounding::Zero,
        Rounding::Down,
        Rounding::Up,
        Rounding::NearestAway,
    ];

    #[test]
    fn every_code_decodes_and_encodes_to_itself() {
        for fmt in [E4M3, E5M2, F16, BF16] {
            for (v, code) in table(fmt) {
                assert_eq!(decode(code, fmt), v);
                for mode in MODES {
                    assert_eq!(encode(v, fmt, mode, false), code, "{fmt:?} {code:#x}");
                    assert_eq!(encode(-v, fmt, mode, false), code | fmt.sign_bit());
                }
            }
        }
    }

    #[test]
    fn rounding_agrees_with_a_search_between_neighbours() {
        for fmt in [E4M3, E5M2, F16, BF16] {
            let t = table(fmt);
            for pair in t.windows(2) {
                let (a, b) = (pair[0].0, pair[1].0);
                let mid = (a + b) / 2.0;
                let near = [
                    mid,
                    a + (b - a) * 0.25,
                    a + (b - a) * 0.75,
                    f64::from_bits(mid.to_bits() + 1),
                    f64::from_bits(mid.to_bits() - 1),
                ];
                for x in near.into_iter().flat_map(|x| [x, -x]) {
                    for mode in MODES {
                        assert_eq!(
                            encode(x, fmt, mode, false),
                            by_search(x, fmt, &t, mode),
                            "{fmt:?} {x:e} {mode:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn overflow_and_specials() {
        use Rounding::*;
        assert_eq!(encode(464.0, E4M3, NearestEven, true), 0x7e);
        assert_eq!(encode(1e9, E4M3, NearestEven, true), 0x7e);
        assert_eq!(encode(-f64::INFINITY, E4M3, NearestEven, true), 0xfe);
        assert_eq!(encode(f64::NAN, E4M3, NearestEven, true), 0x7f);
        assert_eq!(encode(f64::INFINITY, E5M2, NearestEven, true), 0x7b);
        assert_eq!(encode(65520.0, F16, NearestEven, false), 0x7c00);
        assert_eq!(encode(65519.9, F16, NearestEven, false), 0x7bff);
        assert_eq!(encode(1e9, F16, Zero, false), 0x7bff);
        assert_eq!(encode(-1e9, F16, Down, false), 0xfc00);
        assert_eq!(encode(f64::INFINITY, F16, Zero, false), 0x7c00);
        assert_eq!(encode(1e-300, F16, Up, false), 1);
        assert_eq!(
            encode_tf32(1.0 + 2f32.powi(-11), NearestAway, false),
            0x3f80_2000
        );
    }

    #[test]
    fn fast_paths_agree_with_the_general_encoder() {
        // A walk with an odd stride touches every exponent and many patterns.
        for i in 0..2_000_000u32 {
            let bits = i.wrapping_mul(2147 * 2 + 1).wrapping_mul(0x9e37_79b1);
            let x = f32::from_bits(bits);
            let wide = f64::from(x);
            assert_eq!(
                u32::from(f32_to_bf16(bits)),
                encode(wide, BF16, Rounding::NearestEven, false),
                "{bits:#x}"
            );
            assert_eq!(
                u32::from(f32_to_f16(x)),
                encode(wide, F16, Rounding::NearestEven, false),
                "{bits:#x}"
            );
        }
        for c in 0..=0xffffu32 {
            let (f, b) = (decode(c, F16), decode(c, BF16));
            assert!(f64::from(f16_to_f32(c as u16)).total_cmp(&f).is_eq() || f.is_nan());
            assert!(f64::from(bf16_to_f32(c as u16)).total_cmp(&b).is_eq() || b.is_nan());
        }
    }

    #[test]
    fn integers_saturate() {
        use Rounding::*;
        assert_eq!(to_int(2.5, NearestEven, 32, true), 2);
        assert_eq!(to_int(-2.5, Down, 32, true) as i64, -3);
        assert_eq!(to_int(1e20, Zero, 32, false), 0xffff_ffff);
        assert_eq!(to_int(-1.0, Zero, 8, false), 0);
        assert_eq!(to_int(f64::NAN, Zero, 32, true), 0);
        assert_eq!(to_int(-1e30, Zero, 64, true), 1 << 63);
        assert_eq!(saturate_int(300, false, 32, 8, true), 127);
        assert_eq!(saturate_int(-300i64 as u64, true, 32, 8, true) as i64, -128);
    }
}
