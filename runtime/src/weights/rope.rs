//! Tables of rotary positions (RoPE, Su et al. 2021) with YaRN context extension (Peng et al. 2023).
//!
//! In: rotated channels, base, positions. Out: `f32[positions, dim / 2, 2]`, cosine before sine.
//! Holds: frequencies and angles are computed in FP64 and each table entry is rounded once, so the table does
//! not depend on the host's FP32 library.

use std::f64::consts::TAU;

use mcc_bundle::Yarn;

/// Cosines and sines of every position and channel pair, times YaRN's multiplier.
#[must_use]
pub fn rope_table(dim: u64, theta: f64, positions: u64, yarn: Option<&Yarn>) -> Vec<f32> {
    let mut table = Vec::new();
    let frequencies = inverse_frequencies(dim, theta, yarn);
    let multiplier = multiplier(yarn);
    for position in 0..positions {
        push_row(&mut table, position, &frequencies, multiplier);
    }
    table
}

/// Bytes of the table that are gathered before they are passed on.
const PIECE_BYTES: usize = 1 << 20;

/// The rows of the table, one after the other, as little-endian bytes in pieces.
pub(crate) fn rows<E>(
    dim: u64,
    theta: f64,
    positions: u64,
    yarn: Option<&Yarn>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let frequencies = inverse_frequencies(dim, theta, yarn);
    let multiplier = multiplier(yarn);
    let (mut row, mut piece) = (Vec::new(), Vec::new());
    for position in 0..positions {
        row.clear();
        push_row(&mut row, position, &frequencies, multiplier);
        piece.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        if piece.len() >= PIECE_BYTES || position + 1 == positions {
            sink(&piece)?;
            piece.clear();
        }
    }
    Ok(())
}

/// One position's row of the table.
pub(crate) fn push_row(table: &mut Vec<f32>, position: u64, frequencies: &[f64], multiplier: f64) {
    for frequency in frequencies {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        table.push((cos * multiplier) as f32);
        table.push((sin * multiplier) as f32);
    }
}

/// Radians a position of each channel pair.
///
/// YaRN keeps a frequency that turns often within the original context, divides one that turns seldom by the
/// factor, and blends linearly in between.
pub(crate) fn inverse_frequencies(dim: u64, theta: f64, yarn: Option<&Yarn>) -> Vec<f64> {
    let d = dim as f64;
    // The channel pair (as a real number) that turns `rotations` times within the original context.
    let pair_of = |rotations: f64, original: f64| {
        d * (original / (rotations * TAU)).ln() / (2.0 * theta.ln())
    };
    let ramp = yarn.map(|y| {
        let low = pair_of(y.beta_fast, y.original).floor().max(0.0);
        let high = pair_of(y.beta_slow, y.original).ceil().min(d - 1.0);
        // Equal ends would divide by zero.
        let width = if high == low { 0.001 } else { high - low };
        (y.factor, low, width)
    });
    (0..dim / 2)
        .map(|i| {
            let plain = theta.powf(-2.0 * i as f64 / d);
            match ramp {
                None => plain,
                Some((factor, low, width)) => {
                    let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    plain * (1.0 - stretched) + plain / factor * stretched
                }
            }
        })
        .collect()
}

/// Factor on cosines and sines: the ratio of YaRN's two attention scales.
pub(crate) fn multiplier(yarn: Option<&Yarn>) -> f64 {
    let Some(y) = yarn else { return 1.0 };
    let scale = |m: f64| {
        if y.factor > 1.0 {
            0.1 * m * y.factor.ln() + 1.0
        } else {
            1.0
        }
    };
    scale(y.mscale) / scale(y.mscale_all_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepseek_v3() -> Yarn {
        Yarn {
            factor: 40.0,
            original: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }
    }

    /// Published values of DeepSeek-V3's configuration (dim 64, base 10000, factor 40 over 4096).
    #[test]
    fn deepseek_v3_frequencies() {
        let got = inverse_frequencies(64, 10000.0, Some(&deepseek_v3()));
        let expected = [
            (0, 1.0),
            (9, 7.498_942e-2),
            (10, 5.623_413e-2),
            (11, 3.900_693e-2),
            (16, 5.5e-3),
            (22, 1.778_279e-4),
            (23, 3.333_804e-5),
            (31, 3.333_804e-6),
        ];
        assert_eq!(got.len(), 32);
        for (i, value) in expected {
            // Seven digits are given.
            assert!(
                (got[i] / value - 1.0).abs() < 5e-7,
                "{i}: {} is not {value}",
                got[i]
            );
        }
    }

    #[test]
    fn table_layout_and_multiplier() {
        let table = rope_table(4, 10000.0, 3, None);
        assert_eq!(table.len(), 3 * 2 * 2);
        assert_eq!(table[..4], [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(table[8..10], [2.0_f64.cos() as f32, 2.0_f64.sin() as f32]);
        assert_eq!(table[10..], [0.02_f64.cos() as f32, 0.02_f64.sin() as f32]);

        let half = Yarn {
            mscale: 0.707,
            ..deepseek_v3()
        };
        // (0.0707 ln 40 + 1) / (0.1 ln 40 + 1)
        assert!((multiplier(Some(&half)) - 1.260_803_777_4 / 1.368_887_945_4).abs() < 1e-9);
        let table = rope_table(64, 10000.0, 1, Some(&half));
        assert!((f64::from(table[0]) - multiplier(Some(&half))).abs() < 1e-7);
    }

    #[test]
    fn equal_ramp_ends_stay_finite() {
        let yarn = Yarn {
            beta_fast: 1.0,
            beta_slow: 1.0,
            original: 1.0,
            ..deepseek_v3()
        };
        assert!(
            inverse_frequencies(8, 10000.0, Some(&yarn))
                .iter()
                .all(|f| f.is_finite())
        );
    }
}
