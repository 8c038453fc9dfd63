//! Exact binary numbers and their rounding: the judge of these tests.
//!
//! In: codes of a format. Out: exact values, exact sums, products, quotients
//! and roots; and the code to which a value rounds. It shares nothing with
//! `mcc_sim::numerics`: sums are kept in one wide fixed-point register, and
//! rounding looks for the two neighbouring codes by bisection and compares
//! exactly, instead of shifting bits.

use std::cmp::Ordering;

/// A binary format by its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub exp_bits: u32,
    pub man_bits: u32,
    /// Infinities and NaN take the whole top exponent; otherwise the last code
    /// alone is NaN (E4M3).
    pub ieee: bool,
    /// The NaN that instructions write.
    pub nan: u64,
}

const fn format(exp_bits: u32, man_bits: u32, ieee: bool, nan: u64) -> Format {
    Format {
        exp_bits,
        man_bits,
        ieee,
        nan,
    }
}

pub const E4M3: Format = format(4, 3, false, 0x7f);
pub const E5M2: Format = format(5, 2, true, 0x7f);
pub const F16: Format = format(5, 10, true, 0x7fff);
pub const BF16: Format = format(8, 7, true, 0x7fff);
/// Without the 13 low bits of its register.
pub const TF32: Format = format(8, 10, true, 0x3ffff);
pub const F32: Format = format(8, 23, true, 0x7fff_ffff);
pub const F64: Format = format(11, 52, true, 0x7fff_ffff_ffff_ffff);

/// Directions of rounding (PTX ISA 9.7.3 and 9.7.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Even,
    Zero,
    Down,
    Up,
    Away,
}

impl Mode {
    pub const DIRECTED: [(&str, Mode); 4] = [
        ("rn", Mode::Even),
        ("rz", Mode::Zero),
        ("rm", Mode::Down),
        ("rp", Mode::Up),
    ];
}

/// `magnitude * 2^exponent`, and when `more` is set something between that and
/// `(magnitude + 1) * 2^exponent`. Zeros have a sign.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    pub negative: bool,
    pub magnitude: u128,
    pub exponent: i32,
    pub more: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Value {
    Nan,
    Infinite(bool),
    Finite(Number),
}

impl Number {
    pub fn new(negative: bool, magnitude: u128, exponent: i32) -> Number {
        Number {
            negative,
            magnitude,
            exponent,
            more: false,
        }
    }

    pub fn is_zero(self) -> bool {
        self.magnitude == 0 && !self.more
    }

    /// Compares the magnitudes; `other` is exact.
    pub fn compare(self, other: Number) -> Ordering {
        let top = |n: Number| 128 - n.magnitude.leading_zeros() as i32 + n.exponent;
        let order = match (self.magnitude, other.magnitude) {
            (0, 0) => Ordering::Equal,
            (0, _) => Ordering::Less,
            (_, 0) => Ordering::Greater,
            (a, b) => top(self)
                .cmp(&top(other))
                .then_with(|| (a << a.leading_zeros()).cmp(&(b << b.leading_zeros()))),
        };
        match order {
            Ordering::Equal if self.more => Ordering::Greater,
            o => o,
        }
    }

    /// Integers, for instance.
    pub fn from_int(v: i128) -> Number {
        Number::new(v < 0, v.unsigned_abs(), 0)
    }
}

impl Value {
    pub fn negate(self) -> Value {
        match self {
            Value::Nan => Value::Nan,
            Value::Infinite(n) => Value::Infinite(!n),
            Value::Finite(n) => Value::Finite(Number {
                negative: !n.negative,
                ..n
            }),
        }
    }
}

impl Format {
    pub fn sign(self) -> u64 {
        1 << (self.exp_bits + self.man_bits)
    }

    /// Code of the largest finite magnitude.
    pub fn max_finite(self) -> u64 {
        if self.ieee {
            (((1 << self.exp_bits) - 1) << self.man_bits) - 1
        } else {
            self.sign() - 2
        }
    }

    pub fn is_nan(self, code: u64) -> bool {
        let magnitude = code & (self.sign() - 1);
        magnitude > self.max_finite() + u64::from(self.ieee)
    }

    /// Value of a magnitude by its fields, also past the largest finite one.
    fn by_fields(self, magnitude: u64) -> Number {
        let bias = (1 << (self.exp_bits - 1)) - 1;
        let exponent = (magnitude >> self.man_bits) as i32;
        let fraction = magnitude & ((1 << self.man_bits) - 1);
        let hidden = u64::from(exponent > 0) << self.man_bits;
        Number::new(
            false,
            u128::from(fraction + hidden),
            exponent.max(1) - bias - self.man_bits as i32,
        )
    }

    /// The value of a code.
    pub fn value(self, code: u64) -> Value {
        let negative = code & self.sign() != 0;
        let magnitude = code & (self.sign() - 1);
        if self.is_nan(code) {
            Value::Nan
        } else if magnitude > self.max_finite() {
            Value::Infinite(negative)
        } else {
            Value::Finite(Number {
                negative,
                ..self.by_fields(magnitude)
            })
        }
    }

    /// Subnormals become zeros of their sign.
    pub fn flush(self, code: u64) -> u64 {
        if code & (self.sign() - 1) < 1 << self.man_bits {
            code & self.sign()
        } else {
            code
        }
    }
}

/// Rounds to a format. Keeps the last pair of neighbours, as inputs in order
/// often share it.
#[derive(Debug, Clone, Copy)]
pub struct Rounder {
    format: Format,
    mode: Mode,
    /// What is too large becomes the largest finite number.
    saturate: bool,
    low: u64,
}

impl Rounder {
    pub fn new(format: Format, mode: Mode, saturate: bool) -> Rounder {
        Rounder {
            format,
            mode,
            saturate,
            low: 0,
        }
    }

    pub fn round(&mut self, value: Value) -> u64 {
        let f = self.format;
        let n = match value {
            Value::Nan => return f.nan,
            Value::Infinite(negative) => return self.overflow(negative),
            Value::Finite(n) => n,
        };
        let sign = if n.negative { f.sign() } else { 0 };
        if n.is_zero() {
            return sign;
        }
        self.find(n);
        let (low, high) = (f.by_fields(self.low), f.by_fields(self.low + 1));
        let up = match (n.compare(low), self.mode) {
            (Ordering::Equal, _) | (_, Mode::Zero) => false,
            (_, Mode::Down) => n.negative,
            (_, Mode::Up) => !n.negative,
            (_, nearest) => {
                let sum = low.magnitude + (high.magnitude << (high.exponent - low.exponent));
                match n.compare(Number::new(false, sum, low.exponent - 1)) {
                    Ordering::Less => false,
                    Ordering::Greater => true,
                    Ordering::Equal => nearest == Mode::Away || self.low & 1 == 1,
                }
            }
        };
        let magnitude = self.low + u64::from(up);
        if magnitude > f.max_finite() {
            return self.overflow(n.negative);
        }
        sign | magnitude
    }

    /// Sets `low` to the largest finite code that is not above.
    fn find(&mut self, n: Number) {
        let f = self.format;
        let not_above = |code: u64| n.compare(f.by_fields(code)) != Ordering::Less;
        let max = f.max_finite();
        // The last pair of neighbours, or the one after it.
        for low in [self.low, self.low + 1] {
            if low <= max && not_above(low) && (low == max || !not_above(low + 1)) {
                self.low = low;
                return;
            }
        }
        let (mut low, mut above) = (0, max + 1);
        while above - low > 1 {
            let middle = low + (above - low) / 2;
            if not_above(middle) {
                low = middle;
            } else {
                above = middle;
            }
        }
        self.low = low;
    }

    fn overflow(&self, negative: bool) -> u64 {
        let f = self.format;
        let sign = if negative { f.sign() } else { 0 };
        if self.saturate {
            sign | f.max_finite()
        } else if f.ieee {
            sign | (f.max_finite() + 1)
        } else {
            sign | f.nan
        }
    }
}

/// Words of a [`Sum`]; the lowest bit of the first one is 2^BASE.
const WORDS: usize = 72;
const BASE: i32 = -2304;

/// A register wide enough for every sum of products of `f64`, in two's
/// complement (after Kulisch).
pub struct Sum([u64; WORDS]);

impl Default for Sum {
    fn default() -> Sum {
        Sum([0; WORDS])
    }
}

impl Sum {
    /// Adds an exact number.
    pub fn add(&mut self, n: Number) {
        assert!(!n.more, "only exact terms");
        let at = usize::try_from(n.exponent - BASE).expect("above 2^-2304");
        let (word, shift) = (at / 64, at % 64);
        // 128 bits shifted by less than 64.
        let low = n.magnitude << shift;
        let high = if shift == 0 {
            0
        } else {
            (n.magnitude >> (128 - shift)) as u64
        };
        let parts = [low as u64, (low >> 64) as u64, high];
        let mut carry = false;
        for (i, w) in self.0[word..].iter_mut().enumerate() {
            let part = parts.get(i).copied().unwrap_or(0);
            if i >= 3 && !carry {
                break;
            }
            let (a, b) = if n.negative {
                let (x, b1) = w.overflowing_sub(part);
                let (x, b2) = x.overflowing_sub(u64::from(carry));
                (x, b1 || b2)
            } else {
                let (x, c1) = w.overflowing_add(part);
                let (x, c2) = x.overflowing_add(u64::from(carry));
                (x, c1 || c2)
            };
            (*w, carry) = (a, b);
        }
    }

    /// The sum; a zero is positive.
    pub fn number(&self) -> Number {
        let mut words = self.0;
        let negative = words[WORDS - 1] >> 63 == 1;
        if negative {
            let mut carry = true;
            for w in &mut words {
                let (x, c) = (!*w).overflowing_add(u64::from(carry));
                (*w, carry) = (x, c);
            }
        }
        let Some(top) = (0..WORDS).rev().find(|&i| words[i] != 0) else {
            return Number::new(false, 0, 0);
        };
        let from = top.saturating_sub(1);
        let magnitude = if top == 0 {
            u128::from(words[0])
        } else {
            u128::from(words[top]) << 64 | u128::from(words[top - 1])
        };
        Number {
            negative,
            magnitude,
            exponent: BASE + 64 * from as i32,
            more: words[..from].iter().any(|&w| w != 0),
        }
    }
}

/// `a * b + c`; the mode decides the sign of an exact zero.
pub fn fma(a: Value, b: Value, c: Value, mode: Mode) -> Value {
    let product = mul(a, b);
    match (product, c) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite(p), Value::Infinite(c)) if p != c => Value::Nan,
        (Value::Infinite(n), _) | (_, Value::Infinite(n)) => Value::Infinite(n),
        (Value::Finite(p), Value::Finite(c)) => {
            let mut sum = Sum::default();
            sum.add(p);
            sum.add(c);
            let mut n = sum.number();
            if n.is_zero() {
                n.negative = if p.negative == c.negative {
                    p.negative
                } else {
                    mode == Mode::Down
                };
            }
            Value::Finite(n)
        }
    }
}

pub fn mul(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite(x), Value::Infinite(y)) => Value::Infinite(x != y),
        (Value::Infinite(x), Value::Finite(n)) | (Value::Finite(n), Value::Infinite(x)) => {
            if n.is_zero() {
                Value::Nan
            } else {
                Value::Infinite(x != n.negative)
            }
        }
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(Number::new(
            x.negative != y.negative,
            x.magnitude * y.magnitude,
            x.exponent + y.exponent,
        )),
    }
}

pub fn one() -> Value {
    Value::Finite(Number::from_int(1))
}

pub fn add(a: Value, b: Value, mode: Mode) -> Value {
    fma(a, one(), b, mode)
}

pub fn div(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) | (Value::Infinite(_), Value::Infinite(_)) => Value::Nan,
        (Value::Infinite(x), Value::Finite(n)) => Value::Infinite(x != n.negative),
        (Value::Finite(n), Value::Infinite(x)) => Value::Finite(Number::new(x != n.negative, 0, 0)),
        (Value::Finite(x), Value::Finite(y)) => {
            let negative = x.negative != y.negative;
            if y.is_zero() {
                return if x.is_zero() {
                    Value::Nan
                } else {
                    Value::Infinite(negative)
                };
            }
            if x.is_zero() {
                return Value::Finite(Number::new(negative, 0, 0));
            }
            // At least 74 bits of quotient.
            let shift = x.magnitude.leading_zeros();
            let numerator = x.magnitude << shift;
            Value::Finite(Number {
                negative,
                magnitude: numerator / y.magnitude,
                exponent: x.exponent - shift as i32 - y.exponent,
                more: numerator % y.magnitude != 0,
            })
        }
    }
}

pub fn sqrt(a: Value) -> Value {
    match a {
        Value::Finite(n) if n.is_zero() => a,
        Value::Nan | Value::Infinite(true) => Value::Nan,
        Value::Finite(n) if n.negative => Value::Nan,
        Value::Infinite(false) => a,
        Value::Finite(n) => {
            // 126 bits at least, under an even exponent: 63 bits of root.
            let mut shift = n.magnitude.leading_zeros();
            if (n.exponent - shift as i32) % 2 != 0 {
                shift -= 1;
            }
            let radicand = n.magnitude << shift;
            let root = radicand.isqrt();
            Value::Finite(Number {
                negative: false,
                magnitude: root,
                exponent: (n.exponent - shift as i32) / 2,
                more: root * root != radicand,
            })
        }
    }
}

/// Rounds to an integer: magnitude and sign; `None` when it has over 100 bits.
pub fn integral(n: Number, mode: Mode) -> Option<i128> {
    if n.is_zero() {
        return Some(0);
    }
    if n.exponent > 0 {
        if n.exponent > 64 {
            return None;
        }
        let m = n.magnitude.checked_mul(1u128 << n.exponent)?;
        let m = i128::try_from(m).ok()?;
        return Some(if n.negative { -m } else { m });
    }
    // Halves are enough to see ties; what lies below them is `rest`.
    let down = (-n.exponent) as u32;
    let shift = |by: u32| if by > 127 { 0 } else { n.magnitude >> by };
    let whole = shift(down);
    let exact = whole
        .checked_shl(down)
        .is_some_and(|w| down < 128 && w == n.magnitude)
        && !n.more;
    let (half, rest) = if down == 0 {
        (false, n.more)
    } else {
        let halves = shift(down - 1);
        let back = if down - 1 > 127 {
            0
        } else {
            halves << (down - 1)
        };
        (halves & 1 == 1, back != n.magnitude || n.more)
    };
    let up = !exact
        && match mode {
            Mode::Zero => false,
            Mode::Down => n.negative,
            Mode::Up => !n.negative,
            Mode::Away => half,
            Mode::Even => half && (rest || whole & 1 == 1),
        };
    let m = i128::try_from(whole).ok()? + i128::from(up);
    Some(if n.negative { -m } else { m })
}

#[test]
fn the_judge_knows_the_host_arithmetic() {
    let mut random = super::lanes::Random(3);
    let mut to = Rounder::new(F64, Mode::Even, false);
    for _ in 0..100_000 {
        let [a, b, c] = random.f64s();
        let [x, y, z] = [a, b, c].map(|v| F64.value(v));
        let [p, q, r] = [a, b, c].map(f64::from_bits);
        let mut same = |v: Value, host: f64| {
            let bits = to.round(v);
            assert!(
                bits == host.to_bits() || (F64.is_nan(bits) && host.is_nan()),
                "{p:e} {q:e} {r:e}: {bits:x} {host:e}"
            );
        };
        same(fma(x, y, z, Mode::Even), p.mul_add(q, r));
        same(add(x, y, Mode::Even), p + q);
        same(mul(x, y), p * q);
        same(div(x, y), p / q);
        same(sqrt(x), p.sqrt());
        let whole = match x {
            Value::Finite(n) => integral(n, Mode::Even),
            _ => None,
        };
        if let Some(whole) = whole {
            assert_eq!(whole as f64, p.round_ties_even(), "{p:e}");
        }
    }
}
