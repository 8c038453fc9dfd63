//! Seeded numbers: SplitMix64, so that a tile's content depends on its key alone and tiles can be made in any order.
//!
//! In: a seed and a key. Out: numbers, and codes of a format by kind.

use mcc_runtime::SplitMix64;

use super::types::Format;

/// A generator.
#[derive(Clone, Debug)]
pub(super) struct Random {
    sequence: SplitMix64,
    /// Numbers taken so far.
    taken: u64,
}

impl Random {
    /// A generator for one key of a run.
    pub fn new(seed: u64, key: &[u64]) -> Self {
        let seed = key
            .iter()
            .fold(seed, |seed, k| SplitMix64::new(seed).bits(0) ^ k);
        Self {
            sequence: SplitMix64::new(seed),
            taken: 0,
        }
    }

    pub fn next(&mut self) -> u64 {
        self.taken += 1;
        self.sequence.bits(self.taken - 1)
    }

    pub fn bits(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Below `end`, which is small: the bias does not matter.
    pub fn below(&mut self, end: u32) -> u32 {
        self.bits() % end
    }

    /// Between both, inclusive.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        let (low, high) = (low.min(high), low.max(high));
        low + self.below((high - low + 1) as u32) as i32
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub fn sign(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    fn fraction(&mut self, format: Format) -> u32 {
        self.bits() & ((1 << format.man_bits) - 1)
    }

    /// A normal number with an exponent in the range, as far as the format has it.
    pub fn normal(&mut self, format: Format, low: i32, high: i32) -> u32 {
        let (min, max) = format.exponents();
        let exponent = self.between(low.clamp(min, max), high.clamp(min, max));
        let mut fraction = self.fraction(format);
        if exponent == max {
            fraction = fraction.min(format.max_fraction());
        }
        format.code(self.sign(), (exponent + format.bias) as u32, fraction)
    }

    /// A power of two.
    pub fn power(&mut self, format: Format, exponent: i32) -> u32 {
        let (min, max) = format.exponents();
        let exponent = exponent.clamp(min, max);
        format.code(self.sign(), (exponent + format.bias) as u32, 0)
    }

    /// Any finite number, each exponent as likely.
    pub fn finite(&mut self, format: Format) -> u32 {
        let (min, max) = format.exponents();
        // One below the least exponent stands for the subnormals and zero.
        if self.between(min - 1, max) < min {
            return format.code(self.sign(), 0, self.fraction(format));
        }
        self.normal(format, min, max)
    }

    pub fn subnormal(&mut self, format: Format) -> u32 {
        let fraction = self.fraction(format).max(1);
        format.code(self.sign(), 0, fraction)
    }

    pub fn zero(&mut self, format: Format) -> u32 {
        format.code(self.sign(), 0, 0)
    }

    /// One of the few largest magnitudes.
    pub fn largest(&mut self, format: Format) -> u32 {
        let exponent = format.exponents().1 + format.bias;
        let less = self.below(3).min(format.max_fraction());
        format.code(self.sign(), exponent as u32, format.max_fraction() - less)
    }

    /// An infinity; the largest number where there is none.
    pub fn infinity(&mut self, format: Format) -> u32 {
        if format.ieee {
            format.code(self.sign(), (1 << format.exp_bits) - 1, 0)
        } else {
            self.largest(format)
        }
    }

    /// A NaN with any payload and sign, quiet or signalling.
    pub fn nan(&mut self, format: Format) -> u32 {
        let fraction = if format.ieee {
            self.fraction(format).max(1)
        } else {
            (1 << format.man_bits) - 1
        };
        format.code(self.sign(), (1 << format.exp_bits) - 1, fraction)
    }
}

#[cfg(test)]
mod tests {
    use mcc_sim::numerics::convert::{E4M3, E5M2, F16, decode};
    use mcc_sim::numerics::wgmma::Element;

    use super::*;

    /// The kinds are what their names say, judged by the simulator's decoding.
    #[test]
    fn codes_have_their_kind() {
        let mut random = Random::new(7, &[1, 2]);
        for (element, reference) in [
            (Element::E4m3, E4M3),
            (Element::E5m2, E5M2),
            (Element::F16, F16),
        ] {
            let format = Format::of(element);
            let value = |code: u32| decode(code, reference);
            let max = value(reference.max_finite());
            for _ in 0..1000 {
                assert!(value(random.finite(format)).is_finite());
                assert!(value(random.nan(format)).is_nan());
                assert!(format.is_nan(random.nan(format)));
                assert!(!format.is_nan(random.finite(format)));
                let small = value(random.subnormal(format)).abs();
                assert!(small > 0.0 && small < 2f64.powi(format.exponents().0));
                let large = value(random.largest(format)).abs();
                assert!(large <= max && large > 0.6 * max, "{large} {max}");
                assert_eq!(value(random.zero(format)), 0.0);
                let narrow = value(random.normal(format, -1, 1)).abs();
                assert!((0.5..4.0).contains(&narrow));
                assert_eq!(value(random.power(format, -2)).abs(), 0.25);
                if format.ieee {
                    assert!(value(random.infinity(format)).is_infinite());
                }
            }
        }
    }
}
