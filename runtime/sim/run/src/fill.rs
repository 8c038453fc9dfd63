//! Contents that are made, not read: constants, ramps and random numbers.
//!
//! In: a distribution, a seed and an element type. Out: bytes, which depend on
//! nothing else, not even on the machine: element i is a function of seed and
//! i that uses exact arithmetic only.

use crate::dtype::{DType, Num};

#[derive(Debug, Clone, PartialEq)]
pub enum Fill {
    /// Every element the same.
    Constant(Num),
    /// `start + i * step`.
    Ramp { start: f64, step: f64 },
    /// Evenly in [low, high).
    Uniform { low: f64, high: f64 },
    /// Close to a normal distribution: the sum of twelve uniform numbers, so
    /// that nothing is further from the mean than six standard deviations.
    Normal { mean: f64, std: f64 },
    /// Integers from `low` to `high`, both included.
    Integers { low: i128, high: i128 },
}

impl Fill {
    /// The bytes of `count` elements.
    pub fn bytes(&self, dtype: DType, seed: u64, count: usize) -> Result<Vec<u8>, String> {
        let numbers = matches!(self, Fill::Uniform { .. } | Fill::Normal { .. });
        if numbers && !dtype.is_float() {
            return Err(format!(
                "fractions do not go into {dtype}; fill it with `integers`"
            ));
        }
        let mut out = Vec::with_capacity(count.saturating_mul(dtype.bytes()));
        let mut put = |bits: u64| out.extend_from_slice(&bits.to_le_bytes()[..dtype.bytes()]);
        match *self {
            Fill::Constant(value) => {
                let bits = dtype.encode(value)?;
                (0..count).for_each(|_| put(bits));
            }
            Fill::Ramp { start, step } => {
                (0..count).for_each(|i| put(dtype.saturate(start + i as f64 * step)));
            }
            Fill::Uniform { low, high } => (0..count as u64).for_each(|i| {
                let u = (mix(seed, i) >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
                put(dtype.saturate(low + u * (high - low)));
            }),
            Fill::Normal { mean, std } => (0..count as u64).for_each(|i| {
                // Twelve numbers of 32 bits; their sum is exact.
                let sum: u64 = (0..6)
                    .map(|j| mix(seed, i.wrapping_mul(6).wrapping_add(j)))
                    .map(|r| (r >> 32) + (r & 0xffff_ffff))
                    .sum();
                let x = sum as f64 * (1.0 / (1u64 << 32) as f64) - 6.0;
                put(dtype.saturate(mean + std * x));
            }),
            Fill::Integers { low, high } => {
                dtype.encode(Num::Int(low))?;
                dtype.encode(Num::Int(high))?;
                let span = (high - low + 1) as u128;
                for i in 0..count as u64 {
                    // The span is at most 2^64: no overflow.
                    let r = (u128::from(mix(seed, i)) * span) >> 64;
                    put(dtype.encode(Num::Int(low + r as i128))?);
                }
            }
        }
        Ok(out)
    }
}

/// A seed for what has a name only (FNV-1a).
pub fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Number `i` of a sequence (the output function of SplitMix64).
fn mix(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add((i.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fill: &Fill, dtype: DType, seed: u64, n: usize) -> Vec<f64> {
        let bytes = fill.bytes(dtype, seed, n).expect("legal");
        (0..n)
            .map(|i| dtype.decode(dtype.element(&bytes, i)))
            .collect()
    }

    #[test]
    fn distributions_have_their_moments() {
        let n = 100_000;
        let normal = Fill::Normal {
            mean: 2.0,
            std: 3.0,
        };
        let v = values(&normal, DType::F64, 1, n);
        let mean = v.iter().sum::<f64>() / n as f64;
        let var = v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
        assert!(
            (mean - 2.0).abs() < 0.05 && (var - 9.0).abs() < 0.2,
            "{mean} {var}"
        );
        let uniform = Fill::Uniform {
            low: -1.0,
            high: 1.0,
        };
        let v = values(&uniform, DType::F64, 1, n);
        assert!(v.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((v.iter().sum::<f64>() / n as f64).abs() < 0.01);
        let v = values(&Fill::Integers { low: -2, high: 2 }, DType::E4m3, 1, n);
        for want in -2..=2 {
            let count = v.iter().filter(|&&x| x == f64::from(want)).count();
            assert!((19_000..21_000).contains(&count), "{want}: {count}");
        }
    }

    #[test]
    fn seeds_matter_and_repeat() {
        let fill = Fill::Uniform {
            low: 0.0,
            high: 1.0,
        };
        let bytes = |seed| fill.bytes(DType::F32, seed, 64).expect("legal");
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
        assert_ne!(seed_of("a"), seed_of("b"));
        // Pinned: the same on every machine and in every version.
        assert_eq!(mix(0, 0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn misfits_are_refused() {
        let uniform = Fill::Uniform {
            low: 0.0,
            high: 1.0,
        };
        assert!(uniform.bytes(DType::U8, 0, 1).is_err());
        assert!(
            Fill::Integers { low: 0, high: 256 }
                .bytes(DType::U8, 0, 1)
                .is_err()
        );
        assert!(
            Fill::Constant(Num::Float(0.5))
                .bytes(DType::S32, 0, 1)
                .is_err()
        );
        let all = Fill::Integers {
            low: i64::MIN.into(),
            high: i64::MAX.into(),
        };
        assert_eq!(all.bytes(DType::S64, 3, 4).map(|b| b.len()), Ok(32));
        let v = values(
            &Fill::Ramp {
                start: 1.0,
                step: 2.0,
            },
            DType::U8,
            0,
            3,
        );
        assert_eq!(v, [1.0, 3.0, 5.0]);
    }
}
