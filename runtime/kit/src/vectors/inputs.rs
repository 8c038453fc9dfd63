//! The classes of inputs: what each one is to find out, and tiles of it.
//!
//! In: a seed, types, a form, a class and a number. Out: one tile, always the same for the same key.
//! Holds: a class says what the tile as a whole is; single codes are drawn from it.

use super::form::{Form, K_BYTES, M};
use super::random::Random;
use super::types::{Format, Types};

/// One kind of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Narrow,
    FullRange,
    Subnormal,
    SignedZero,
    ZeroTimesLarge,
    Infinity,
    NanPayload,
    Saturated,
    Cancellation,
    OneLarge,
    CutOff,
    CZero,
    CNegativeZero,
    CNear,
    CDominant,
    CSubnormal,
    Chained,
    AnyBits,
    UnusedBits,
}

impl Class {
    const ALL: [Self; 19] = [
        Self::Narrow,
        Self::FullRange,
        Self::Subnormal,
        Self::SignedZero,
        Self::ZeroTimesLarge,
        Self::Infinity,
        Self::NanPayload,
        Self::Saturated,
        Self::Cancellation,
        Self::OneLarge,
        Self::CutOff,
        Self::CZero,
        Self::CNegativeZero,
        Self::CNear,
        Self::CDominant,
        Self::CSubnormal,
        Self::Chained,
        Self::AnyBits,
        Self::UnusedBits,
    ];

    /// Those that these types have.
    pub fn all(types: Types) -> Vec<Self> {
        let unused = Format::of(types.a).unused > 0;
        Self::ALL
            .into_iter()
            .filter(|&class| class != Self::UnusedBits || unused)
            .collect()
    }

    /// Its name in reports, and what it holds.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Narrow => ("narrow", "normal numbers within a few powers of two"),
            Self::FullRange => ("full_range", "finite numbers of every exponent"),
            Self::Subnormal => ("subnormal", "subnormal operands, also against large ones"),
            Self::SignedZero => ("signed_zero", "mostly zeros of both signs"),
            Self::ZeroTimesLarge => (
                "zero_times_large",
                "zeros against the largest numbers, beside small products: do zeros align the sum?",
            ),
            Self::Infinity => ("infinity", "some infinities; NaN compares as NaN"),
            Self::NanPayload => ("nan_payload", "some NaN with payloads; results bit for bit"),
            Self::Saturated => (
                "saturated",
                "the largest numbers and accumulators: results beyond the accumulator's range",
            ),
            Self::Cancellation => (
                "cancellation",
                "products that cancel, and small ones beside",
            ),
            Self::OneLarge => ("one_large", "one large product among many small ones"),
            Self::CutOff => (
                "cut_off",
                "products around the last bit that the adder keeps, of both signs",
            ),
            Self::CZero => ("c_zero", "accumulator +0"),
            Self::CNegativeZero => ("c_negative_zero", "accumulator -0, some products all zero"),
            Self::CNear => (
                "c_near",
                "accumulator of the products' size, all fraction bits",
            ),
            Self::CDominant => (
                "c_dominant",
                "accumulator larger than the products, or huge",
            ),
            Self::CSubnormal => ("c_subnormal", "accumulator subnormal or tiny"),
            Self::Chained => ("chained", "several steps into one accumulator"),
            Self::AnyBits => ("any_bits", "codes of any bits; NaN compares as NaN"),
            Self::UnusedBits => ("unused_bits", "bits below the format's fraction are set"),
        }
    }

    /// Whether NaN must have the model's bits.
    pub const fn nan_by_bits(self) -> bool {
        matches!(self, Self::NanPayload)
    }

    /// Whether a form makes sense for the class.
    pub const fn takes(self, form: Form) -> bool {
        match self {
            Self::Chained => form.steps > 1 && form.scale_d,
            Self::CZero
            | Self::CNegativeZero
            | Self::CNear
            | Self::CDominant
            | Self::CSubnormal => form.scale_d,
            _ => true,
        }
    }
}

/// Operands and accumulators of one product.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tile {
    /// Codes, little-endian: `[step][row][32 bytes of K]`.
    pub a: Vec<u8>,
    pub b: Vec<u8>,
    /// `[row][column]`, bits of the accumulator's format.
    pub c: Vec<u32>,
}

impl Tile {
    /// Makes one tile.
    pub fn new(seed: u64, types: Types, form: Form, class: Class, number: u64) -> Self {
        let key = Types::ALL.iter().position(|&t| t == types).unwrap_or(0);
        let mut maker = Maker {
            types,
            form,
            class,
            random: Random::new(seed, &[key as u64, class as u64, number]),
            mood: 0,
        };
        maker.mood = maker.random.bits();
        maker.make()
    }
}

struct Maker {
    types: Types,
    form: Form,
    class: Class,
    random: Random,
    /// A draw for the whole tile.
    mood: u32,
}

impl Maker {
    fn make(&mut self) -> Tile {
        let a = self.operand(true);
        let b = self.operand(false);
        let c = (0..self.form.results())
            .map(|_| self.accumulator())
            .collect();
        let mut tile = Tile { a, b, c };
        if self.class == Class::Cancellation {
            self.cancel(&mut tile);
        }
        tile
    }

    fn operand(&mut self, is_a: bool) -> Vec<u8> {
        let (element, rows) = if is_a {
            (self.types.a, M)
        } else {
            (self.types.b, self.form.n)
        };
        let format = Format::of(element);
        let mut codes = Vec::with_capacity(self.form.steps * rows * K_BYTES);
        for _ in 0..self.form.steps {
            for row in 0..rows {
                for k in 0..element.k() {
                    let code = self.code(format, is_a, row, k);
                    codes.extend_from_slice(&code.to_le_bytes()[..element.bytes()]);
                }
            }
        }
        codes
    }

    fn code(&mut self, f: Format, is_a: bool, row: usize, k: usize) -> u32 {
        let mood = self.mood;
        let r = &mut self.random;
        let (min, max) = f.exponents();
        match self.class {
            Class::Narrow | Class::CZero | Class::CNear | Class::Chained => r.normal(f, -2, 2),
            Class::FullRange => r.finite(f),
            Class::Subnormal => match (mood % 3, is_a) {
                // Small against small vanishes in the wide formats: FP8 and FP16 alone keep such products.
                (0, _) => small(r, f),
                (1, true) | (2, false) => small(r, f),
                _ => r.normal(f, max - 6, max - 1),
            },
            Class::SignedZero => {
                if r.one_in(4) {
                    r.normal(f, -2, 2)
                } else {
                    r.zero(f)
                }
            }
            Class::ZeroTimesLarge => match k % 4 {
                0 if is_a => r.zero(f),
                0 => r.largest(f),
                1 if is_a => r.largest(f),
                1 => r.zero(f),
                _ => r.normal(f, (min / 2).max(-12), (min / 2).max(-12) + 4),
            },
            Class::Infinity => {
                if r.one_in(96) {
                    r.infinity(f)
                } else if r.one_in(8) {
                    r.zero(f)
                } else {
                    r.normal(f, -3, 3)
                }
            }
            Class::NanPayload => {
                if r.one_in(128) {
                    r.nan(f)
                } else {
                    r.normal(f, -3, 3)
                }
            }
            Class::Saturated => {
                if r.one_in(8) {
                    r.normal(f, max - 2, max)
                } else {
                    r.largest(f)
                }
            }
            // Products of even k; `cancel` makes the odd ones.
            Class::Cancellation => {
                if r.one_in(4) {
                    r.normal(f, -8, -4)
                } else {
                    r.normal(f, -2, 2)
                }
            }
            Class::OneLarge => {
                let large = mood as usize % self.form_k();
                let r = &mut self.random;
                let lift = (mood >> 8) as i32 % 14;
                if k == large {
                    r.normal(f, lift / 2, lift / 2 + 3)
                } else {
                    r.normal(f, -7, -3)
                }
            }
            Class::CutOff => {
                // Exponents of A and B add up to about F below the first product's.
                let kept = if f.man_bits <= 3 { 13 } else { 25 };
                if k == row % 3 {
                    r.power(f, (kept / 2 - 4).min(max / 2))
                } else {
                    let low = if is_a { -2 } else { 2 - kept / 2 };
                    let exponent = r.between(low - 2, low + 2) - if kept == 25 { 3 } else { 0 };
                    if r.one_in(3) {
                        r.normal(f, exponent, exponent)
                    } else {
                        r.power(f, exponent)
                    }
                }
            }
            Class::CNegativeZero => match (mood % 2, row % 4) {
                (0, _) | (_, 0 | 1) => r.zero(f),
                _ => r.normal(f, -2, 2),
            },
            Class::CDominant => r.normal(f, -4, 1),
            Class::CSubnormal => match mood % 3 {
                0 => r.zero(f),
                1 => small(r, f),
                _ => r.normal(f, min, min + 3),
            },
            Class::AnyBits => {
                let bits = 1 + f.exp_bits + f.man_bits;
                (r.bits() & (u32::MAX >> (32 - bits))) << f.unused
            }
            Class::UnusedBits => {
                let low = r.bits() & ((1 << f.unused) - 1);
                r.normal(f, -3, 3) | low
            }
        }
    }

    fn form_k(&self) -> usize {
        self.types.a.k()
    }

    fn accumulator(&mut self) -> u32 {
        let f = self.types.accumulator.format();
        let (min, max) = f.exponents();
        let mood = self.mood;
        // Exponents of the operands' largest product, which bounds what C is beside.
        let (pa, pb) = (
            Format::of(self.types.a).exponents(),
            Format::of(self.types.b).exponents(),
        );
        let r = &mut self.random;
        match self.class {
            Class::CZero => 0,
            Class::CNegativeZero => f.code(true, 0, 0),
            Class::Narrow | Class::Chained | Class::UnusedBits => r.normal(f, -4, 6),
            Class::CNear => r.normal(f, 0, 8),
            Class::FullRange => {
                if r.one_in(4) {
                    r.zero(f)
                } else {
                    r.normal(f, pa.0 + pb.0, pa.1 + pb.1)
                }
            }
            Class::SignedZero => {
                if r.one_in(8) {
                    r.normal(f, -2, 2)
                } else {
                    r.zero(f)
                }
            }
            Class::Subnormal | Class::CSubnormal => match r.below(4) {
                0 => r.zero(f),
                1 => r.normal(f, min, min + 30),
                _ => r.subnormal(f),
            },
            Class::ZeroTimesLarge => {
                if mood & 1 == 0 {
                    r.zero(f)
                } else {
                    r.normal(f, -20, -4)
                }
            }
            Class::Infinity => {
                if r.one_in(16) {
                    r.infinity(f)
                } else {
                    r.normal(f, -3, 3)
                }
            }
            Class::NanPayload => {
                if r.one_in(8) {
                    r.nan(f)
                } else {
                    r.normal(f, -3, 3)
                }
            }
            Class::Saturated => match r.below(4) {
                0 => r.largest(f),
                1 => r.normal(f, max - 3, max),
                2 => r.zero(f),
                _ => r.normal(f, pa.1 + pb.1 - 2, pa.1 + pb.1 + 4),
            },
            Class::Cancellation | Class::OneLarge => {
                if mood & 2 == 0 {
                    r.zero(f)
                } else {
                    r.normal(f, -8, 6)
                }
            }
            Class::CutOff => match mood % 3 {
                0 => r.zero(f),
                1 => r.normal(f, -14, -4),
                _ => r.normal(f, 4, 12),
            },
            Class::CDominant => {
                if mood.is_multiple_of(4) {
                    r.normal(f, max - 4, max - 1)
                } else {
                    r.normal(f, 4, 32)
                }
            }
            Class::AnyBits => r.bits() & (u32::MAX >> (31 - f.exp_bits - f.man_bits)),
        }
    }

    /// Makes the products of odd k the negatives of their left neighbours, but for some.
    fn cancel(&mut self, tile: &mut Tile) {
        let (a, b) = (self.types.a, self.types.b);
        for (codes, element, flip) in [(&mut tile.a, a, false), (&mut tile.b, b, true)] {
            let width = element.bytes();
            for pair in codes.chunks_exact_mut(2 * width) {
                // Rows and columns draw apart, so that some pairs cancel and some leave a rest.
                if self.random.one_in(24) {
                    continue;
                }
                let (left, right) = pair.split_at_mut(width);
                right.copy_from_slice(left);
                if flip {
                    right[width - 1] ^= 0x80;
                }
            }
        }
    }
}

/// Subnormal, or the least normal numbers.
fn small(r: &mut Random, f: Format) -> u32 {
    if r.one_in(3) {
        r.normal(f, f.exponents().0, f.exponents().0 + 1)
    } else {
        r.subnormal(f)
    }
}
