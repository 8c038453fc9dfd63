//! `atom` and `red` (PTX ISA 9.7.13.5): read, compute, write as one step,
//! also against other CTAs on other host threads.

use mcc_ptx::Type;

use super::alu::Consts;
use super::reach::{Home, Place};
use super::state::Core;
use super::sync::lanes;
use crate::check::Access;
use crate::error::{Exec, illegal};
use crate::isa::{Atom, AtomOp, Space};
use crate::memory::cells::{self, Cells};
use crate::numerics::convert::{BF16, F16};
use crate::numerics::rounding::{add_small, max_f32, min_f32};

impl<'a> Core<'a> {
    pub fn atom(&mut self, a: &Atom, mask: u32, consts: Consts<'_>) -> Exec<()> {
        if a.space == Space::Param || a.space == Space::Local {
            return Err(illegal("atomics need global or shared memory"));
        }
        let size = u64::from(a.ty.bits() / 8);
        let len = size * a.b.len() as u64;
        let addrs = self.addresses(a.addr, mask, consts);
        let places = self.places(a.space, &addrs, mask, len, len)?;
        let access = Access {
            space: a.space,
            len,
            reads: true,
            writes: true,
            order: a.order,
        };
        if self.check.is_some() {
            self.check_access(access, &addrs, mask, 0)?;
        }
        self.count_writes(a.space, &addrs, mask, len);
        for (e, &b) in a.b.iter().enumerate() {
            let b = self.w.regs.get_wide(consts, b);
            let c =
                a.c.map(|c| self.w.regs.get_wide(consts, c))
                    .unwrap_or([0; 32]);
            let mut old = [0; 32];
            let mut changed = false;
            for l in lanes(mask) {
                let l = l as usize;
                let place = places[l].add(e * size as usize);
                old[l] = self.update(place, a.op, a.ty, b[l], c[l])?;
                // Float additions are compared by their bits, too.
                let new = compute(a.op, a.ty, old[l], b[l], c[l]);
                changed |= truncated(new, a.ty) != old[l];
            }
            // What changes nothing wakes nobody.
            self.flight.progress += u64::from(changed);
            if let Some(dst) = &a.dst {
                self.w.regs.put_wide(dst[e], &old, mask);
            }
        }
        if self.check.is_some() {
            self.check_seen(access, &addrs, mask);
        }
        Ok(())
    }

    /// Applies one atomic operation; gives the value before it.
    pub fn update(&mut self, place: Place<'a>, op: AtomOp, ty: Type, b: u64, c: u64) -> Exec<u64> {
        if let Home::Global(cells) = place.home {
            return Ok(update(cells, place.at, op, ty, b, c));
        }
        // The rest belongs to this host thread alone.
        let size = (ty.bits() / 8) as u8;
        let old = self.load(place, size);
        self.store(place, size, compute(op, ty, old, b, c))?;
        Ok(old)
    }
}

/// Applies one atomic operation to global memory; gives the value before it.
pub fn update(cells: &Cells, at: usize, op: AtomOp, ty: Type, b: u64, c: u64) -> u64 {
    let size = ty.bits() as usize / 8;
    cells::update(cells, at, size, |old| compute(op, ty, old, b, c))
}

/// The new value of a cell; also the element step of reducing bulk copies.
pub fn compute(op: AtomOp, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    match op {
        AtomOp::Exch => return b,
        AtomOp::Cas => {
            return if truncated(old, ty) == truncated(b, ty) {
                c
            } else {
                old
            };
        }
        AtomOp::And => return old & b,
        AtomOp::Or => return old | b,
        AtomOp::Xor => return old ^ b,
        // PTX ISA 9.7.13.5: wrap around at b.
        AtomOp::Inc => {
            return if old as u32 >= b as u32 {
                0
            } else {
                u64::from(old as u32 + 1)
            };
        }
        AtomOp::Dec => {
            let (o, m) = (old as u32, b as u32);
            return u64::from(if o == 0 || o > m { m } else { o - 1 });
        }
        AtomOp::Add | AtomOp::Min | AtomOp::Max => {}
    }
    let f32_op = |x: f32, y: f32| match op {
        AtomOp::Add => x + y,
        AtomOp::Min => min_f32(x, y, false),
        _ => max_f32(x, y, false),
    };
    match ty {
        Type::F32 => {
            u64::from(f32_op(f32::from_bits(old as u32), f32::from_bits(b as u32)).to_bits())
        }
        Type::F64 => {
            let (x, y) = (f64::from_bits(old), f64::from_bits(b));
            match op {
                AtomOp::Add => x + y,
                AtomOp::Min => x.min(y),
                _ => x.max(y),
            }
            .to_bits()
        }
        Type::F16 | Type::Bf16 => half(op, ty, old as u32, b as u32).into(),
        Type::F16x2 | Type::Bf16x2 => {
            let one = if ty == Type::F16x2 {
                Type::F16
            } else {
                Type::Bf16
            };
            let low = half(op, one, old as u32 & 0xffff, b as u32 & 0xffff);
            let high = half(op, one, old as u32 >> 16, b as u32 >> 16);
            u64::from(low | high << 16)
        }
        _ if op == AtomOp::Add => old.wrapping_add(b),
        Type::S32 => {
            let (x, y) = (old as i32, b as i32);
            u64::from(if op == AtomOp::Min {
                x.min(y)
            } else {
                x.max(y)
            } as u32)
        }
        Type::S64 => {
            let (x, y) = (old as i64, b as i64);
            if op == AtomOp::Min {
                x.min(y) as u64
            } else {
                x.max(y) as u64
            }
        }
        _ => {
            let (x, y) = (truncated(old, ty), truncated(b, ty));
            if op == AtomOp::Min {
                x.min(y)
            } else {
                x.max(y)
            }
        }
    }
}

fn truncated(v: u64, ty: Type) -> u64 {
    crate::numerics::convert::zero_extend(v, ty.bits())
}

fn half(op: AtomOp, ty: Type, x: u32, y: u32) -> u32 {
    let fmt = if ty == Type::F16 { F16 } else { BF16 };
    let read = |v| crate::numerics::convert::decode(v, fmt);
    let (a, b) = (read(x), read(y));
    match op {
        AtomOp::Add => add_small(a, b, fmt),
        AtomOp::Min => {
            if a <= b || b.is_nan() {
                x
            } else {
                y
            }
        }
        _ => {
            if a >= b || b.is_nan() {
                x
            } else {
                y
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_counters_and_halves() {
        let u = |op, old, b| compute(op, Type::U32, old, b, 0);
        assert_eq!((u(AtomOp::Inc, 6, 7), u(AtomOp::Inc, 7, 7)), (7, 0));
        assert_eq!(
            (
                u(AtomOp::Dec, 0, 7),
                u(AtomOp::Dec, 9, 7),
                u(AtomOp::Dec, 3, 7)
            ),
            (7, 7, 2)
        );
        assert_eq!(
            compute(AtomOp::Min, Type::S32, u64::from(-1i32 as u32), 1, 0) as i32,
            -1
        );
        let two = u64::from(0x4000_3c00u32);
        assert_eq!(compute(AtomOp::Add, Type::F16x2, two, two, 0), 0x4400_4000);
    }
}
