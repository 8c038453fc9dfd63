//! Buffers against what they should be, and against themselves under another
//! schedule.

use serde::Serialize;

use crate::data::Data;
use crate::dtype::DType;

/// A buffer against its expectation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub buffer: String,
    pub elements: usize,
    pub mismatches: usize,
    /// The first element that does not match.
    pub first: Option<Mismatch>,
    /// The largest |got - want| of all elements where both are finite.
    pub largest_difference: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mismatch {
    pub element: usize,
    pub got: String,
    pub want: String,
}

/// Compares `got`, of as many bytes as `want` has.
pub fn compare(buffer: &str, got: &[u8], want: &Data, abs: f64, rel: f64) -> Comparison {
    let dtype = want.dtype;
    let expected = want.bytes.as_deref().unwrap_or_default();
    let elements = expected.len() / dtype.bytes();
    let mut out = Comparison {
        buffer: buffer.to_owned(),
        elements,
        mismatches: 0,
        first: None,
        largest_difference: 0.0,
    };
    for i in 0..elements {
        let (g, w) = (dtype.element(got, i), dtype.element(expected, i));
        if g == w {
            continue;
        }
        let (x, y) = (dtype.decode(g), dtype.decode(w));
        let difference = (x - y).abs();
        if difference.is_finite() {
            out.largest_difference = out.largest_difference.max(difference);
        }
        let close = difference <= abs + rel * y.abs() || (x.is_nan() && y.is_nan());
        if (abs != 0.0 || rel != 0.0) && close {
            continue;
        }
        out.mismatches += 1;
        out.first.get_or_insert_with(|| mismatch(dtype, i, g, w));
    }
    out
}

fn mismatch(dtype: DType, element: usize, got: u64, want: u64) -> Mismatch {
    let (mut got_text, mut want_text) = (dtype.show(got), dtype.show(want));
    if got_text == want_text {
        // NaNs and zeros that differ in bits alone.
        (got_text, want_text) = (format!("{got:#x}"), format!("{want:#x}"));
    }
    Mismatch {
        element,
        got: got_text,
        want: want_text,
    }
}

/// A buffer that depends on the schedule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub buffer: String,
    /// The schedules, and the first element that differs with its values.
    pub schedules: [String; 2],
    pub elements: usize,
    pub element: usize,
    pub values: [String; 2],
}

/// The first difference between two contents of one buffer, if there is any.
pub fn difference(
    buffer: &str,
    dtype: DType,
    schedules: [&str; 2],
    contents: [&[u8]; 2],
) -> Option<Difference> {
    if contents[0] == contents[1] {
        return None;
    }
    let count = contents[0].len() / dtype.bytes();
    let bits = |k: usize, i| dtype.element(contents[k], i);
    let mut differing = (0..count).filter(|&i| bits(0, i) != bits(1, i));
    let element = differing.next()?;
    let m = mismatch(dtype, element, bits(0, element), bits(1, element));
    Some(Difference {
        buffer: buffer.to_owned(),
        schedules: schedules.map(str::to_owned),
        elements: 1 + differing.count(),
        element,
        values: [m.got, m.want],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(values: &[f32]) -> Data {
        Data {
            dtype: DType::F32,
            shape: vec![values.len() as u64],
            size: 4 * values.len() as u64,
            bytes: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }
    }

    #[test]
    fn tolerances_are_absolute_and_relative() {
        let want = data(&[1.0, 100.0, f32::NAN, f32::INFINITY, 0.0]);
        let got = data(&[
            1.05,
            104.0,
            f32::from_bits(0x7fc0_0001),
            f32::INFINITY,
            -0.0,
        ]);
        let got = got.bytes.expect("made");
        let run = |abs, rel| compare("y", &got, &want, abs, rel);
        assert_eq!(run(0.1, 0.05).mismatches, 0);
        let strict = run(0.0, 0.0);
        assert_eq!((strict.elements, strict.mismatches), (5, 4));
        let first = run(0.1, 0.0).first.expect("104 is far from 100");
        assert_eq!(
            (first.element, first.got.as_str(), first.want.as_str()),
            (1, "104", "100")
        );
        assert_eq!(run(0.1, 0.05).largest_difference, 4.0);
        // Infinity is close to nothing but itself.
        let inf = data(&[f32::INFINITY]).bytes.expect("made");
        assert_eq!(compare("y", &inf, &data(&[1.0]), 1.0, 1.0).mismatches, 1);
        assert_eq!(
            compare(
                "y",
                &data(&[1.0]).bytes.expect("made"),
                &data(&[f32::INFINITY]),
                1.0,
                0.0
            )
            .mismatches,
            1
        );
    }

    #[test]
    fn schedules_that_differ_are_named() {
        let (a, b) = (data(&[1.0, 2.0, 3.0]), data(&[1.0, 0.0, -0.0]));
        let contents = [
            a.bytes.as_deref().expect("made"),
            b.bytes.as_deref().expect("made"),
        ];
        let d = difference("y", DType::F32, ["early", "late"], contents).expect("different");
        assert_eq!((d.element, d.elements), (1, 2));
        assert_eq!(d.values, ["2".to_owned(), "0".to_owned()]);
        assert_eq!(
            difference("y", DType::F32, ["a", "b"], [contents[0]; 2]),
            None
        );
    }
}
