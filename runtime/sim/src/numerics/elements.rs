//! Operand elements of the tensor core: from codes to values and exponents.
//!
//! In: codes as they lie in memory. Out: for each the exact `f32` value, and the
//! exponent by which the fused sum aligns it. Without tables and branches, so
//! that the compiler decodes many at once.

use super::wgmma::Precision;

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
    pub(super) const fn min_exp(self) -> i16 {
        match self {
            Element::E4m3 => -6,
            Element::E5m2 | Element::F16 => -14,
            Element::Bf16 | Element::Tf32 => -126,
        }
    }
}

/// Exponent of a zero: sums with it stay far below every real one.
pub(super) const ZERO_EXP: i16 = -4000;
/// The NaN that tensor cores write.
pub const NAN: u32 = 0x7fff_ffff;

#[inline(always)]
pub(super) fn exponent(v: f32, min_exp: i16) -> i16 {
    let bits = v.to_bits() & 0x7fff_ffff;
    let e = ((bits >> 23) as i16 - 127).max(min_exp);
    if bits == 0 { ZERO_EXP } else { e }
}

/// Decodes all codes.
pub(super) fn decode_codes(element: Element, codes: &[u8], values: &mut [f32], exps: &mut [i16]) {
    crate::simd::with(
        #[inline(always)]
        || decode_any(element, codes, values, exps),
    )
}

#[inline(always)]
fn decode_any(element: Element, codes: &[u8], values: &mut [f32], exps: &mut [i16]) {
    let min = element.min_exp();
    let out = values.iter_mut().zip(exps);
    let put = |(v, e): (&mut f32, &mut i16), x: f32| {
        *v = x;
        *e = exponent(x, min);
    };
    let half = |c: &[u8]| u32::from(u16::from_le_bytes([c[0], c[1]]));
    match element {
        Element::E4m3 => out
            .zip(codes)
            .for_each(|(o, &c)| put(o, e4m3_value(c.into()))),
        // The upper byte of an FP16 number.
        Element::E5m2 => out
            .zip(codes)
            .for_each(|(o, &c)| put(o, f16_value(u32::from(c) << 8))),
        Element::F16 => {
            out.zip(codes.chunks_exact(2))
                .for_each(|(o, c)| put(o, f16_value(half(c))));
        }
        Element::Bf16 => {
            out.zip(codes.chunks_exact(2))
                .for_each(|(o, c)| put(o, f32::from_bits(half(c) << 16)));
        }
        Element::Tf32 => out.zip(codes.chunks_exact(4)).for_each(|(o, c)| {
            // The tensor core ignores the low 13 bits.
            let bits = u32::from_le_bytes([c[0], c[1], c[2], c[3]]) & !0x1fff;
            put(o, f32::from_bits(bits));
        }),
    }
}

/// E4M3 without a table, so that the compiler can do many at once.
#[inline(always)]
fn e4m3_value(c: u32) -> f32 {
    let magnitude = c & 0x7f;
    let normal = (magnitude << 20) + ((127 - 7) << 23);
    let small = ((magnitude & 7) as f32 * pow2(-9)).to_bits();
    let v = if magnitude < 8 { small } else { normal };
    let v = if magnitude == 0x7f { NAN } else { v };
    f32::from_bits(v | (c & 0x80) << 24)
}

#[inline(always)]
fn f16_value(c: u32) -> f32 {
    let magnitude = c & 0x7fff;
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    let small = (magnitude as f32 * pow2(-24)).to_bits();
    let v = if magnitude < 0x400 { small } else { normal };
    // Infinities and NaN keep their fraction under the top exponent.
    let v = if magnitude >= 0x7c00 {
        magnitude << 13 | 0x7f80_0000
    } else {
        v
    };
    f32::from_bits(v | (c & 0x8000) << 16)
}

/// 2^e as `f32` for -126 <= e <= 127.
#[inline(always)]
pub(super) fn pow2(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}
