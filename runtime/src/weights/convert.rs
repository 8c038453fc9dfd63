//! Element conversions of weights: E4M3 to FP32, FP32 to BF16 and back.

use half::bf16;

/// Value of an E4M3 code (OCP FP8): 4 exponent bits of bias 7, 3 mantissa bits, `S.1111.111` is NaN.
#[must_use]
pub fn e4m3_to_f32(code: u8) -> f32 {
    let exponent = i32::from(code >> 3 & 0xf);
    let mantissa = f32::from(code & 7);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        // Subnormal: multiples of 2^-9.
        (0, _) => mantissa * (-9_f32).exp2(),
        _ => (8.0 + mantissa) * ((exponent - 10) as f32).exp2(),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// All 256 values, to look codes up.
pub(crate) fn e4m3_table() -> [f32; 256] {
    std::array::from_fn(|code| e4m3_to_f32(code as u8))
}

/// The code of the nearest E4M3 value, the even one of two; a magnitude above the largest, and NaN, become the
/// largest.
pub(crate) fn e4m3_nearest(value: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    // Half way from the largest value to where the next one would be.
    const TOO_LARGE: f32 = 464.0;
    const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
    let magnitude = value.abs();
    let code = if magnitude < SMALLEST_NORMAL {
        (magnitude * 512.0).round_ties_even() as u8
    } else if magnitude < TOO_LARGE {
        // Of 23 mantissa bits 3 stay; a carry goes to the exponent, whose bias changes from 127 to 7.
        let bits = magnitude.to_bits();
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        ((rounded >> 20) - ((127 - 7) << 3)) as u8
    } else {
        LARGEST
    };
    code.min(LARGEST) | if value.is_sign_negative() { 0x80 } else { 0 }
}

/// FP32 to BF16, to nearest even; appends little-endian bytes.
pub(crate) fn push_bf16(out: &mut Vec<u8>, value: f32) {
    out.extend(bf16::from_f32(value).to_le_bytes());
}

/// A piece of FP32 values as BF16.
pub(crate) fn f32_to_bf16(piece: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for bytes in piece.as_chunks::<4>().0 {
        push_bf16(out, f32::from_le_bytes(*bytes));
    }
}

/// A piece of BF16 values as FP32, which is exact.
pub(crate) fn bf16_to_f32(piece: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for bytes in piece.as_chunks::<2>().0 {
        out.extend(bf16::from_le_bytes(*bytes).to_f32().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_values() {
        let cases = [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x07, 0.013_671_875),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0xb8, -1.0),
        ];
        for (code, value) in cases {
            assert_eq!(e4m3_to_f32(code), value, "code {code:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
        assert!(e4m3_to_f32(0x80).is_sign_negative());
        // Positive codes are in the order of their values.
        assert!((0..0x7e_u8).all(|code| e4m3_to_f32(code) < e4m3_to_f32(code + 1)));
    }

    #[test]
    fn e4m3_rounds_to_nearest_even() {
        for code in (0..=0x7e_u8).chain(0x80..=0xfe) {
            assert_eq!(e4m3_nearest(e4m3_to_f32(code)), code, "code {code:#x}");
        }
        for code in 0..0x7e_u8 {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
            let half = (low + high) / 2.0;
            assert_eq!(
                e4m3_nearest(half),
                code + (code & 1),
                "above code {code:#x}"
            );
            assert_eq!(e4m3_nearest(half.next_up()), code + 1);
            assert_eq!(e4m3_nearest(half.next_down()), code);
        }
        assert_eq!((e4m3_nearest(1e9), e4m3_nearest(-465.0)), (0x7e, 0xfe));
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let mut out = Vec::new();
        // 1 + 2^-8 lies half way between two BF16 values, and so does 1 + 3 * 2^-8.
        let values = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.003_906_4_f32];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        f32_to_bf16(&bytes, &mut out);
        assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f, 0x81, 0x3f]);
        let codes = out.clone();
        bf16_to_f32(&codes, &mut out);
        assert_eq!(out[..4], 1.0_f32.to_le_bytes());
    }
}
