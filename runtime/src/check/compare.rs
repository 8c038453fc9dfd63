//! What two devices wrote through the same view, byte by byte and element by element.
//!
//! In: a view with its extents, the bytes of its span on both devices, how far they must agree. Out: counts, the
//! largest differences, the first element that differs.
//! Holds: every byte of the span is compared, also those between the rows of a strided view, which no kernel may
//! write.
//!
//! Where a kernel has approximate instructions, its results may differ as follows ([`Agreement::Within`]):
//!
//! - FP32: by its relative error, of the largest magnitude in the row. A result is a sum of terms of which each
//!   is off by at most that part of itself, and terms of a row have the magnitude of the row.
//! - BF16: by one unit in the last place of the element, or by 2^-8 of the row's largest magnitude. A value that is
//!   rounded to BF16 on its way (probabilities before the product with V) may fall to the other side, by 2^-8 of
//!   itself, and a sum of such values moves by as much at most.
//! - E4M3: to the neighbouring code, for the same reason.
//! - Integers: not at all.
//!
//! A rounding falls to the other side when the value lies within the relative error, some 2^-20, of a boundary;
//! boundaries of BF16 are 2^-8 apart and those of E4M3 2^-4, so fewer than one element in 2^10 differ. More than
//! one in 2^6 are a fault all the same ([`MOST_FLIPS`]).

use mcc_bundle::{DType, View};
use serde::Serialize;

use super::agreement::Agreement;
use crate::weights::e4m3_to_f32;

/// One element in so many may be rounded to the other side.
const MOST_FLIPS: u64 = 64;
/// As many may be in any operand, however small.
const FEW_FLIPS: u64 = 4;

/// How one operand of one launch compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    /// Elements of the view.
    pub elements: u64,
    /// Elements whose bits differ.
    pub mismatches: u64,
    /// Of these, how many differ by more than they may.
    pub outside: u64,
    /// Elements between the rows of the view whose bits differ.
    pub strays: u64,
    /// Largest distance in units in the last place.
    pub max_ulp: u64,
    /// Largest difference, relative to the row's largest magnitude.
    pub max_error: f64,
    /// The first element that differs by more than it may; else the first that differs.
    pub first: Option<Element>,
}

/// An element that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Element {
    /// Its index in the view; for memory between the view's rows, the element's offset alone.
    pub index: Vec<u64>,
    /// The reference's bits, hexadecimal.
    pub reference_bits: String,
    /// The other device's bits, hexadecimal.
    pub found_bits: String,
    /// The reference's value.
    pub reference: String,
    /// The other device's value.
    pub found: String,
    /// Whether it differs by more than it may.
    pub outside: bool,
}

/// Compares the spans of a view, from its first element to its last.
pub(super) fn compare(
    view: &View,
    extents: &[u64],
    reference: &[u8],
    found: &[u8],
    agreement: &Agreement,
) -> Comparison {
    let mut result = Comparison {
        elements: extents.iter().product(),
        ..Comparison::default()
    };
    if reference == found {
        return result;
    }
    let size = view.dtype.bytes() as usize;
    let rows = Rows {
        view,
        extents,
        bytes: reference,
    };
    let mut scale = (Vec::new(), 0.0);
    let pairs = reference.chunks_exact(size).zip(found.chunks_exact(size));
    for (place, (a, b)) in pairs.enumerate() {
        if a == b {
            continue;
        }
        let Some(index) = rows.index(place as u64) else {
            result.strays += 1;
            keep(
                &mut result.first,
                view.dtype,
                vec![place as u64],
                a,
                b,
                true,
            );
            continue;
        };
        let row = &index[..index.len().saturating_sub(1)];
        if scale.0 != row || result.mismatches == 0 {
            scale = (row.to_vec(), rows.largest(row));
        }
        let ulp = ulps(view.dtype, a, b);
        let difference = (value(view.dtype, a) - value(view.dtype, b)).abs();
        let error = relative(difference, scale.1);
        result.mismatches += 1;
        result.max_ulp = result.max_ulp.max(ulp);
        result.max_error = result.max_error.max(error);
        let allowed = match agreement {
            Agreement::Exact => false,
            Agreement::Within { relative, .. } => {
                let both_nan = value(view.dtype, a).is_nan() && value(view.dtype, b).is_nan();
                both_nan
                    || match view.dtype {
                        DType::F32 => error <= *relative,
                        DType::Bf16 => ulp <= 1 || error <= 1.0 / 256.0,
                        DType::E4m3 => ulp <= 1,
                        DType::I32 => false,
                    }
            }
        };
        result.outside += u64::from(!allowed);
        keep(&mut result.first, view.dtype, index, a, b, !allowed);
    }
    let narrow = matches!(view.dtype, DType::Bf16 | DType::E4m3);
    if narrow && result.mismatches > FEW_FLIPS.max(result.elements / MOST_FLIPS) {
        result.outside = result.mismatches;
        if let Some(first) = &mut result.first {
            first.outside = true;
        }
    }
    result
}

fn keep(
    first: &mut Option<Element>,
    dtype: DType,
    index: Vec<u64>,
    reference: &[u8],
    found: &[u8],
    outside: bool,
) {
    if first.as_ref().is_some_and(|kept| kept.outside || !outside) {
        return;
    }
    let hex = |bytes: &[u8]| {
        let digits: String = bytes
            .iter()
            .rev()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("0x{digits}")
    };
    *first = Some(Element {
        index,
        reference_bits: hex(reference),
        found_bits: hex(found),
        reference: value(dtype, reference).to_string(),
        found: value(dtype, found).to_string(),
        outside,
    });
}

/// Relative to the row; infinite and NaN differences are as large as can be.
fn relative(difference: f64, scale: f64) -> f64 {
    if difference.is_nan() || difference.is_infinite() {
        f64::MAX
    } else if scale > 0.0 {
        difference / scale
    } else {
        difference
    }
}

/// The elements of a view in the bytes of its span.
struct Rows<'a> {
    view: &'a View,
    extents: &'a [u64],
    bytes: &'a [u8],
}

impl Rows<'_> {
    /// Index of the element at `place` elements from the span's start; `None` between rows.
    fn index(&self, place: u64) -> Option<Vec<u64>> {
        let mut axes: Vec<usize> = (0..self.extents.len()).collect();
        axes.sort_by_key(|&axis| std::cmp::Reverse(self.view.strides[axis]));
        let mut index = vec![0; axes.len()];
        let mut rest = place;
        for axis in axes {
            // An axis of one element has any stride.
            if self.extents[axis] == 1 {
                continue;
            }
            let stride = self.view.strides[axis].max(1);
            index[axis] = rest / stride;
            rest %= stride;
            if index[axis] >= self.extents[axis] {
                return None;
            }
        }
        (rest == 0).then_some(index)
    }

    /// Largest finite magnitude in the row with these outer indices.
    fn largest(&self, row: &[u64]) -> f64 {
        let strides = &self.view.strides;
        let start: u64 = row
            .iter()
            .zip(strides)
            .map(|(index, stride)| index * stride)
            .sum();
        let (Some(&width), Some(&stride)) = (self.extents.last(), strides.last()) else {
            return 0.0;
        };
        let size = self.view.dtype.bytes();
        let magnitude = |col: u64| {
            let at = usize::try_from((start + col * stride) * size).ok()?;
            let bytes = self.bytes.get(at..at + size as usize)?;
            let value = value(self.view.dtype, bytes).abs();
            value.is_finite().then_some(value)
        };
        (0..width).filter_map(magnitude).fold(0.0, f64::max)
    }
}

fn bits(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
}

fn value(dtype: DType, bytes: &[u8]) -> f64 {
    let bits = bits(bytes);
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits)),
        DType::Bf16 => f64::from(f32::from_bits(bits << 16)),
        DType::E4m3 => f64::from(e4m3_to_f32(bits as u8)),
        DType::I32 => f64::from(bits.cast_signed()),
    }
}

/// Representable values between two, counted across zero.
fn ulps(dtype: DType, a: &[u8], b: &[u8]) -> u64 {
    let ordered = |bytes: &[u8]| {
        let bits = i64::from(bits(bytes));
        let sign = match dtype {
            DType::F32 => 1_i64 << 31,
            DType::Bf16 => 1 << 15,
            DType::E4m3 => 1 << 7,
            DType::I32 => return i64::from(bits as i32),
        };
        if bits & sign == 0 {
            bits
        } else {
            -(bits ^ sign)
        }
    };
    ordered(a).abs_diff(ordered(b))
}

#[cfg(test)]
mod tests {
    use mcc_bundle::{BufferId, Dim};

    use super::*;

    const APPROXIMATE: Agreement = Agreement::Within {
        relative: 1e-6,
        because: Vec::new(),
    };

    fn view(dtype: DType, shape: &[u64], strides: &[u64]) -> View {
        View {
            buffer: BufferId(0),
            offset: 0,
            dtype,
            shape: shape.iter().map(|n| Dim::Const(*n)).collect(),
            strides: strides.to_vec(),
        }
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn one_bit_is_found_and_placed() {
        // Two rows of three in a matrix of four columns; the last element of the second row ends the span.
        let view = view(DType::F32, &[2, 3], &[4, 1]);
        let a = f32s(&[1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0]);
        let same = compare(&view, &[2, 3], &a, &a, &Agreement::Exact);
        assert_eq!((same.elements, same.mismatches, same.strays), (6, 0, 0));

        let mut b = a.clone();
        b[4 * 5] ^= 1;
        let one = compare(&view, &[2, 3], &a, &b, &Agreement::Exact);
        assert_eq!(
            (one.mismatches, one.outside, one.strays, one.max_ulp),
            (1, 1, 0, 1)
        );
        let first = one.first.expect("it differs");
        assert_eq!(first.index, [1, 1]);
        assert_eq!(
            (first.reference_bits, first.found_bits),
            ("0x40a00000".into(), "0x40a00001".into())
        );
        // 2^-21 of 5 is less than a millionth of 6.
        assert_eq!(compare(&view, &[2, 3], &a, &b, &APPROXIMATE).outside, 0);

        let mut b = a.clone();
        b[4 * 3] ^= 1;
        let gap = compare(&view, &[2, 3], &a, &b, &APPROXIMATE);
        assert_eq!((gap.mismatches, gap.strays), (0, 1));
    }

    #[test]
    fn transposed_views_have_their_indices() {
        let view = view(DType::I32, &[3, 2], &[1, 8]);
        let a: Vec<u8> = (0..11_i32).flat_map(i32::to_le_bytes).collect();
        let mut b = a.clone();
        b[4 * 10] = 77;
        let result = compare(&view, &[3, 2], &a, &b, &APPROXIMATE);
        assert_eq!(result.first.expect("it differs").index, [2, 1]);
        // Integers never may.
        assert_eq!((result.outside, result.max_ulp), (1, 67));
    }

    #[test]
    fn neighbouring_codes_may_differ_seldom() {
        let n = 1024;
        let view = view(DType::E4m3, &[1, n], &[n, 1]);
        let a = vec![0x38; n as usize];
        let with = |different: usize, code: u8| {
            let mut b = a.clone();
            b[..different].fill(code);
            compare(&view, &[1, n], &a, &b, &APPROXIMATE).outside
        };
        assert_eq!(with(3, 0x39), 0);
        assert_eq!(with(3, 0x3a), 3, "two codes away");
        assert_eq!(with(16, 0x37), 0);
        assert_eq!(with(17, 0x37), 17, "too many");
    }

    #[test]
    fn ulps_count_across_zero() {
        let ulp = |dtype, a: &[u8], b: &[u8]| ulps(dtype, a, b);
        assert_eq!(ulp(DType::E4m3, &[0x80], &[0x00]), 0);
        assert_eq!(ulp(DType::E4m3, &[0x81], &[0x01]), 2);
        assert_eq!(ulp(DType::Bf16, &[0xff, 0x3f], &[0x00, 0x40]), 1);
        assert_eq!(
            ulp(DType::F32, &f32s(&[-0.0]), &f32s(&[f32::from_bits(3)])),
            3
        );
    }

    #[test]
    fn nan_against_a_number_is_a_fault() {
        let view = view(DType::F32, &[1, 1], &[1, 1]);
        let (nan, one) = (f32s(&[f32::NAN]), f32s(&[1.0]));
        assert_eq!(compare(&view, &[1, 1], &one, &nan, &APPROXIMATE).outside, 1);
        let other = f32s(&[-f32::NAN]);
        assert_eq!(
            compare(&view, &[1, 1], &nan, &other, &APPROXIMATE).outside,
            0
        );
        assert_eq!(
            compare(&view, &[1, 1], &nan, &other, &Agreement::Exact).outside,
            1
        );
    }
}
