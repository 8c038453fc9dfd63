//! `f64` arithmetic in the directed modes (PTX ISA 9.7.3: `.rz`, `.rm`, `.rp`),
//! which the host does not offer; nearest even is the host's own.
//!
//! In: operands and a mode. Out: the exact result rounded once. Finite operands
//! are taken apart to integers; a sum or product has at most 107 significant
//! bits beside each other, and what lies below 128 bits only says that there is
//! more.

use super::convert::Rounding;

/// `magnitude * 2^exponent`, and a little more in magnitude when `more`.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    magnitude: u128,
    exponent: i32,
    more: bool,
}

impl Exact {
    fn new(x: f64) -> Exact {
        let bits = x.to_bits();
        let stored = (bits >> 52) as i32 & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        Exact {
            negative: x.is_sign_negative(),
            magnitude: u128::from(fraction | u64::from(stored > 0) << 52),
            exponent: stored.max(1) - 1075,
            more: false,
        }
    }

    fn times(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            magnitude: self.magnitude * other.magnitude,
            exponent: self.exponent + other.exponent,
            more: false,
        }
    }

    /// Exponent of the leading bit.
    fn top(self) -> i32 {
        127 - self.magnitude.leading_zeros() as i32 + self.exponent
    }

    /// The sum of two exact numbers of at most 107 bits.
    fn plus(self, other: Exact) -> Exact {
        if self.magnitude == 0 {
            return other;
        }
        if other.magnitude == 0 {
            return self;
        }
        let (mut high, low) = if self.top() >= other.top() {
            (self, other)
        } else {
            (other, self)
        };
        // The leading bit goes to place 126: room for a carry.
        let up = high.magnitude.leading_zeros() - 1;
        high.magnitude <<= up;
        high.exponent -= up as i32;
        let apart = low.exponent - high.exponent;
        let (aligned, lost) = if apart >= 0 {
            (low.magnitude << apart, false)
        } else if apart > -128 {
            let kept = low.magnitude >> -apart;
            (kept, kept << -apart != low.magnitude)
        } else {
            (0, true)
        };
        if high.negative == low.negative {
            high.magnitude += aligned;
        } else if high.magnitude >= aligned {
            // What was lost makes the difference a little less.
            high.magnitude = high.magnitude - aligned - u128::from(lost);
        } else {
            // Nothing is lost when the leading bits are alike.
            high.magnitude = aligned - high.magnitude;
            high.negative = low.negative;
        }
        high.more = lost;
        high
    }

    /// Rounds in a directed mode; not zero.
    fn round(self, mode: Rounding) -> f64 {
        let away = match mode {
            Rounding::Down => self.negative,
            Rounding::Up => !self.negative,
            _ => false,
        };
        let top = self.top();
        // Exponent of the result's last place.
        let last = top.max(-1022) - 52;
        let shift = last - self.exponent;
        let (kept, rest) = match shift {
            128.. => (0, true),
            1.. => {
                let kept = self.magnitude >> shift;
                (kept, kept << shift != self.magnitude || self.more)
            }
            _ => (self.magnitude << -shift, self.more),
        };
        let kept = kept as u64 + u64::from(rest && away);
        // The hidden bit and a carry land in the exponent field by themselves.
        let field = (top.max(-1022) + 1022) as u64;
        let bits = (field << 52) + kept;
        let largest = f64::MAX.to_bits();
        let bits = match bits > largest {
            true if away => f64::INFINITY.to_bits(),
            true => largest,
            false => bits,
        };
        f64::from_bits(bits | u64::from(self.negative) << 63)
    }
}

pub fn fma(a: f64, b: f64, c: f64, mode: Rounding) -> f64 {
    if mode == Rounding::NearestEven || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    let (product, c) = (Exact::new(a).times(Exact::new(b)), Exact::new(c));
    let sum = product.plus(c);
    if sum.magnitude != 0 {
        return sum.round(mode);
    }
    // An exact zero of opposite signs is -0 only when rounding down.
    let negative = if product.negative == c.negative {
        c.negative
    } else {
        mode == Rounding::Down
    };
    if negative { -0.0 } else { 0.0 }
}

pub fn add(a: f64, b: f64, mode: Rounding) -> f64 {
    fma(a, 1.0, b, mode)
}

pub fn mul(a: f64, b: f64, mode: Rounding) -> f64 {
    let near = a * b;
    if mode == Rounding::NearestEven || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return near;
    }
    Exact::new(a).times(Exact::new(b)).round(mode)
}

pub fn div(a: f64, b: f64, mode: Rounding) -> f64 {
    let near = a / b;
    if mode == Rounding::NearestEven || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return near;
    }
    let (a, b) = (Exact::new(a), Exact::new(b));
    // 128 bits over at most 53: 75 bits of quotient.
    let up = a.magnitude.leading_zeros();
    let numerator = a.magnitude << up;
    Exact {
        negative: a.negative != b.negative,
        magnitude: numerator / b.magnitude,
        exponent: a.exponent - up as i32 - b.exponent,
        more: numerator % b.magnitude != 0,
    }
    .round(mode)
}

pub fn sqrt(a: f64, mode: Rounding) -> f64 {
    let near = a.sqrt();
    if mode == Rounding::NearestEven || !near.is_finite() || near == 0.0 {
        return near;
    }
    let x = Exact::new(a);
    // 127 or 128 bits under an even exponent: 64 bits of root.
    let mut up = x.magnitude.leading_zeros();
    up -= u32::from((x.exponent - up as i32) % 2 != 0);
    let radicand = x.magnitude << up;
    let root = radicand.isqrt();
    Exact {
        negative: false,
        magnitude: root,
        exponent: (x.exponent - up as i32) / 2,
        more: root * root != radicand,
    }
    .round(mode)
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` (PTX ISA 9.7.3): of the
/// operand only the upper word counts, of the result only that is not zero.
pub fn gross(x: f64, function: impl Fn(f64) -> f64) -> f64 {
    let upper = f64::from_bits(flush(x).to_bits() & !0xffff_ffff);
    let r = function(upper);
    if x.is_nan() || r.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    let bits = flush(r).to_bits();
    // Nearest of 20 fraction bits; infinity and zero have none.
    f64::from_bits((bits + 0x8000_0000) & !0xffff_ffff)
}

fn flush(x: f64) -> f64 {
    if x.is_subnormal() {
        0f64.copysign(x)
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_modes_bracket() {
        let third = div(1.0, 3.0, Rounding::Down);
        assert_eq!(div(1.0, 3.0, Rounding::Up), third.next_up());
        assert_eq!(sqrt(2.0, Rounding::Up), sqrt(2.0, Rounding::Zero).next_up());
        assert_eq!(add(1.0, 1e-300, Rounding::Up), 1f64.next_up());
        assert_eq!(add(1.0, -1e-300, Rounding::Down), 1f64.next_down());
        assert_eq!(add(1.0, -1.0, Rounding::Down).to_bits(), 1 << 63);
        assert_eq!(mul(f64::MAX, 2.0, Rounding::Zero), f64::MAX);
        assert_eq!(mul(f64::MAX, -2.0, Rounding::Down), f64::NEG_INFINITY);
        assert_eq!(mul(f64::MIN_POSITIVE, 1e-300, Rounding::Up).to_bits(), 1);
        assert_eq!(gross(3.0, |x| 1.0 / x).to_bits(), 0x3fd5_5555_0000_0000);
    }
}
