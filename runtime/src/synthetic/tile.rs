//! Tiles of seeded elements that fill buffers of any size.
//!
//! In: what kind of values, where in the tile to begin, how many. Out: little-endian bytes in pieces.
//! Holds: values are exact functions of the seed; nothing is asked of the host's mathematical library but `sqrt`,
//! which IEEE 754 rounds correctly.

use std::collections::BTreeMap;

use mcc_bundle::DType;

use crate::sampling::SplitMix64;
use crate::weights::{e4m3_nearest, push_bf16};

/// Elements of a tile: the largest prime below 2^20.
const TILE: u64 = 1_048_573;

/// Standard deviation of FP8 codes: the largest code, 448, is four of them.
const CODE_SIGMA: f32 = 112.0;

/// Kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fill {
    /// Nothing but zero bytes of 32-bit elements.
    Zeros,
    /// E4M3 codes of a normal distribution, none of them NaN.
    Codes,
    /// FP32 scales that give codes the variance 1/K, between 3/4 and 5/4 of the mean.
    Scales(u64),
    /// Normal values of variance 1/K.
    Normal(DType, u64),
    /// Normal values of mean 1 and standard deviation 1/8.
    AboutOne(DType),
    /// Uniform in `[0, 1)`.
    Uniform,
    /// Uniform in `(0, 1]`.
    Positive,
}

/// Tiles of one seed, each made when it is first asked for.
pub(super) struct Tiles {
    seed: u64,
    made: BTreeMap<Fill, Vec<u8>>,
}

impl Tiles {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            made: BTreeMap::new(),
        }
    }

    /// Streams `elements` elements, begun at the place that `stream` chooses.
    pub fn write<E>(
        &mut self,
        fill: Fill,
        stream: u64,
        elements: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // A small buffer does not need a whole tile; places and values stay those of the whole one.
        let start = stream % TILE;
        let size = fill.element_bytes();
        if elements < TILE / 16 && !self.made.contains_key(&fill) {
            let mut piece = Vec::with_capacity((elements * size) as usize);
            for n in 0..elements {
                fill.push(&mut piece, self.seed, (start + n) % TILE);
            }
            return sink(&piece);
        }
        let seed = self.seed;
        let tile = self.made.entry(fill).or_insert_with(|| {
            let mut bytes = Vec::with_capacity((TILE * size) as usize);
            (0..TILE).for_each(|n| fill.push(&mut bytes, seed, n));
            bytes
        });
        let (mut at, mut left) = (start, elements);
        while left > 0 {
            let n = left.min(TILE - at);
            sink(&tile[(at * size) as usize..((at + n) * size) as usize])?;
            (at, left) = (0, left - n);
        }
        Ok(())
    }

    /// The same as one piece.
    pub fn bytes(&mut self, fill: Fill, stream: u64, elements: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let result: Result<(), std::convert::Infallible> =
            self.write(fill, stream, elements, &mut |piece| {
                all.extend_from_slice(piece);
                Ok(())
            });
        match result {
            Ok(()) => all,
        }
    }
}

impl Fill {
    fn element_bytes(self) -> u64 {
        match self {
            Self::Zeros | Self::Scales(_) | Self::Uniform | Self::Positive => 4,
            Self::Codes => 1,
            Self::Normal(dtype, _) | Self::AboutOne(dtype) => dtype.bytes(),
        }
    }

    /// The n-th element of the tile.
    fn push(self, out: &mut Vec<u8>, seed: u64, n: u64) {
        // Another kind is another sequence.
        let sequence = SplitMix64::new(seed ^ self.salt());
        let unit = || sequence.at(n);
        let normal = || normal(sequence.bits(n));
        let sigma = |k: u64| 1.0 / (k as f32).sqrt();
        match self {
            Self::Zeros => out.extend([0; 4]),
            Self::Codes => out.push(e4m3_nearest(normal() * CODE_SIGMA)),
            Self::Scales(k) => {
                let scale = sigma(k) / CODE_SIGMA * (0.75 + 0.5 * unit());
                out.extend(scale.to_le_bytes());
            }
            Self::Normal(dtype, k) => push(out, dtype, normal() * sigma(k)),
            Self::AboutOne(dtype) => push(out, dtype, 1.0 + normal() / 8.0),
            Self::Uniform => out.extend(unit().to_le_bytes()),
            Self::Positive => out.extend((1.0 - unit()).to_le_bytes()),
        }
    }

    /// Tells kinds apart; widths and types of one kind share their sequence.
    const fn salt(self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Codes => 1 << 56,
            Self::Scales(_) => 2 << 56,
            Self::Normal(..) => 3 << 56,
            Self::AboutOne(_) => 4 << 56,
            Self::Uniform => 5 << 56,
            Self::Positive => 6 << 56,
        }
    }
}

fn push(out: &mut Vec<u8>, dtype: DType, value: f32) {
    match dtype {
        DType::F32 => out.extend(value.to_le_bytes()),
        DType::Bf16 => push_bf16(out, value),
        DType::E4m3 => out.push(e4m3_nearest(value)),
        DType::I32 => out.extend([0; 4]),
    }
}

/// Nearly normal of variance 1: the sum of four uniform 16-bit numbers, which is exact (Irwin and Hall). It ends
/// at 3.46 standard deviations.
fn normal(bits: u64) -> f32 {
    let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum();
    // Mean 2 * 65535; variance 4 * 65536^2 / 12, but for the 65536th part of it.
    const SQRT_3: f32 = 1.732_050_8;
    (sum as f32 - 131_070.0) / 65_536.0 * SQRT_3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::e4m3_to_f32;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let words = bytes.as_chunks::<4>().0.iter();
        words.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// Mean and variance of 65,536 values lie within five standard errors.
    #[test]
    fn distributions() {
        let n = 65_536;
        let mut tiles = Tiles::new(3);
        let values = floats(&tiles.bytes(Fill::Normal(DType::F32, 1), 9, n));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5.0 / 256.0, "{mean}");
        assert!((square - 1.0).abs() < 5.0 * 1.5 / 256.0, "{square}");

        let codes = tiles.bytes(Fill::Codes, 9, n);
        assert!(
            codes.iter().all(|code| code & 0x7f != 0x7f),
            "a code is NaN"
        );
        let scales = floats(&tiles.bytes(Fill::Scales(256), 9, n));
        assert!(scales.iter().all(|s| *s > 0.0));
        // Codes times scales have the variance 1/K, times 1 + 1/48 because scales vary.
        let power = codes
            .iter()
            .zip(&scales)
            .map(|(c, s)| f64::from(e4m3_to_f32(*c) * s).powi(2));
        let power = power.sum::<f64>() / n as f64 * 256.0;
        assert!((power - 1.0 - 1.0 / 48.0).abs() < 0.05, "{power}");

        let positive = floats(&tiles.bytes(Fill::Positive, 1, n));
        assert!(positive.iter().all(|v| *v > 0.0 && *v <= 1.0));
    }

    /// A buffer reads the same whether it is filled at once or from a tile that was made before, and wraps.
    #[test]
    fn short_and_long_fills_agree() {
        let mut fresh = Tiles::new(7);
        let short = fresh.bytes(Fill::Codes, TILE - 10, 100);
        let long = fresh.bytes(Fill::Codes, TILE - 10, TILE + 100);
        assert_eq!(short[..], long[..100]);
        assert_eq!(long[..100], long[TILE as usize..]);
        assert_eq!(short, fresh.bytes(Fill::Codes, TILE - 10, 100));
        assert_ne!(short, Tiles::new(8).bytes(Fill::Codes, TILE - 10, 100));
        // Two rows of a matrix whose width divides the usual sizes differ.
        assert_ne!(long[..4096], long[1 << 19..(1 << 19) + 4096]);
    }
}
