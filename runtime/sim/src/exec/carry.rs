//! `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc` and `madc` (PTX ISA
//! "Extended-Precision Arithmetic").
//!
//! The condition code holds one carry for every lane; for a difference it is
//! the borrow.

use super::alu::Consts;
use super::state::Core;
use crate::isa::{Carry, CarryOp, P_CARRY, PSrc};

impl Core<'_> {
    pub fn carry(&mut self, i: &Carry, active: u32, consts: Consts<'_>) {
        let before = self.w.regs.pred(PSrc {
            p: P_CARRY,
            negated: false,
        });
        let taken = |lane: usize| u32::from(i.takes) & before >> lane & 1;
        let mut out = 0;
        if i.wide {
            let regs = &self.w.regs;
            let (a, b, c) = (
                regs.get64(consts, i.a),
                regs.get64(consts, i.b),
                regs.get64(consts, i.c),
            );
            let v = std::array::from_fn(|l| {
                let (v, carry) = one::<64>(i, [a[l], b[l], c[l]], taken(l).into());
                out |= u32::from(carry) << l;
                v
            });
            self.w.regs.put64(i.d, &v, active);
        } else {
            let regs = &self.w.regs;
            let (a, b, c) = (
                regs.get32(consts, i.a),
                regs.get32(consts, i.b),
                regs.get32(consts, i.c),
            );
            let v = std::array::from_fn(|l| {
                let words = [a[l], b[l], c[l]].map(u64::from);
                let (v, carry) = one::<32>(i, words, taken(l).into());
                out |= u32::from(carry) << l;
                v as u32
            });
            self.w.regs.put32(i.d, &v, active);
        }
        if i.gives {
            self.w.regs.put_pred(P_CARRY, out, active);
        }
    }
}

/// The result of one lane, and its carry or borrow.
fn one<const BITS: u32>(i: &Carry, [a, b, c]: [u64; 3], carry: u128) -> (u64, bool) {
    let product = || {
        if i.signed {
            let s = |x: u64| i128::from((x << (64 - BITS)) as i64 >> (64 - BITS));
            (s(a) * s(b)) as u128
        } else {
            u128::from(a) * u128::from(b)
        }
    };
    let mask = (1u128 << BITS) - 1;
    let (x, y) = match i.f {
        CarryOp::Add => (u128::from(a), u128::from(b)),
        CarryOp::Sub => {
            let v = u128::from(a).wrapping_sub(u128::from(b) + carry);
            return ((v & mask) as u64, v >> BITS != 0);
        }
        CarryOp::MadLo => (product() & mask, u128::from(c)),
        CarryOp::MadHi => (product() >> BITS & mask, u128::from(c)),
    };
    let v = x + y + carry;
    ((v & mask) as u64, v >> BITS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(f: CarryOp, signed: bool) -> Carry {
        Carry {
            f,
            wide: false,
            signed,
            takes: true,
            gives: true,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
        }
    }

    #[test]
    fn a_product_of_two_words_by_parts_is_the_wide_product() {
        // The limbs of x y + z, as a compiler writes a 64-bit multiply-add.
        let mut seed = 1u64;
        for _ in 0..10_000 {
            let mut draw = || {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                // Extreme words are common.
                match seed >> 62 {
                    0 => u64::from(u32::MAX),
                    1 => 1 << 31,
                    _ => seed >> 20 & 0xffff_ffff,
                }
            };
            let (x, y, low, high) = (draw(), draw(), draw(), draw());
            for signed in [false, true] {
                let (d0, carry) = one::<32>(&op(CarryOp::MadLo, signed), [x, y, low], 0);
                let hi = one::<32>(&op(CarryOp::MadHi, signed), [x, y, high], carry.into());
                let product = if signed {
                    (i64::from(x as i32) * i64::from(y as i32)) as u64
                } else {
                    x * y
                };
                let want = u128::from(product) + u128::from(high << 32 | low);
                assert_eq!((hi.0 << 32 | d0, hi.1), (want as u64, want >> 64 != 0));
            }
        }
    }

    #[test]
    fn differences_borrow() {
        let sub = op(CarryOp::Sub, false);
        assert_eq!(one::<32>(&sub, [0, 0, 0], 1), (0xffff_ffff, true));
        assert_eq!(one::<32>(&sub, [5, 5, 0], 0), (0, false));
        assert_eq!(one::<64>(&sub, [0, u64::MAX, 0], 1), (0, true));
        assert_eq!(one::<64>(&sub, [7, 3, 0], 1), (3, false));
        let add = op(CarryOp::Add, false);
        assert_eq!(
            one::<64>(&add, [u64::MAX, u64::MAX, 0], 1),
            (u64::MAX, true)
        );
    }
}
