//! How the next token is chosen, and where its randomness comes from.
//!
//! In: temperature, nucleus, seed. Out: one uniform number for each position of the text.
//! Holds: the number depends on seed and position alone, so that a text does not change with the way in
//! which its prompt was cut into chunks.

use crate::error::RuntimeError;

/// Sampling parameters; the default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest one.
    pub temperature: f32,
    /// Probability mass that may be chosen from, most probable first.
    pub top_p: f32,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// When a parameter means nothing.
    pub fn check(&self) -> Result<(), RuntimeError> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let value = self.temperature;
            return Err(RuntimeError::BadSampling {
                name: "temperature",
                value,
                allowed: "0 or more",
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let value = self.top_p;
            return Err(RuntimeError::BadSampling {
                name: "top_p",
                value,
                allowed: "above 0, at most 1",
            });
        }
        Ok(())
    }

    /// Uniform in `[0, 1)`, for the token that follows `position`.
    #[must_use]
    pub fn uniform(&self, position: u64) -> f32 {
        SplitMix64::new(self.seed).at(position)
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
///
/// Its state is a counter, so the n-th number can be had without those before it.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix64 {
    seed: u64,
}

impl SplitMix64 {
    /// A sequence.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The n-th number of the sequence, from 0.
    #[must_use]
    pub const fn bits(self, n: u64) -> u64 {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .seed
            .wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN_RATIO));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The n-th number as a multiple of 2^-24 in `[0, 1)`, exact in FP32.
    #[must_use]
    pub fn at(self, n: u64) -> f32 {
        (self.bits(n) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator's published sequence for seed 1234567.
    #[test]
    fn known_sequence() {
        let generator = SplitMix64::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!([0, 1, 2].map(|n| generator.bits(n)), expected);
    }

    #[test]
    fn uniforms_fill_the_unit_interval() {
        let sampling = Sampling {
            seed: 7,
            ..Sampling::default()
        };
        let values: Vec<f32> = (0..4096).map(|n| sampling.uniform(n)).collect();
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 4096.0;
        // Four standard errors of the mean of 4096 uniform numbers.
        assert!((mean - 0.5).abs() < 4.0 * 0.289 / 64.0, "{mean}");
    }

    #[test]
    fn ranges() {
        let with = |temperature, top_p| {
            Sampling {
                temperature,
                top_p,
                seed: 0,
            }
            .check()
            .is_ok()
        };
        assert!(with(0.0, 1.0) && with(1.5, 0.1));
        assert!(!with(-1.0, 1.0) && !with(f32::NAN, 1.0) && !with(f32::INFINITY, 1.0));
        assert!(!with(1.0, 0.0) && !with(1.0, 1.1) && !with(1.0, f32::NAN));
    }
}
