//! `mma.sync` (PTX ISA "Warp-level matrix instructions"): the matrix product of
//! one warp, from registers to registers.
//!
//! In: the fragments of A (M x K), B (K x 8) and C (M x 8), M being 16 or 8.
//! Out: D, in the layout of C. With g = lane / 4, t = lane % 4 and e elements to
//! a register:
//!
//! ```text
//!   A, register i:  row g + 8 (i % (M/8)),   from column e t + 4 e (i / (M/8))
//!   B, register i:  column g,                from row    e t + 4 e i
//!   C, element r:   row g + 8 (r / 2),       column 2 t + r % 2
//! ```
//!
//! An FP16 accumulator holds elements 2 r and 2 r + 1 in register r.
//!
//! Arithmetic: one fused sum of C and all K products for 16-bit and TF32
//! operands ([`crate::numerics::wgmma`], measured for K = 16 of FP16 and BF16).
//! Hopper has no warp-level FP8 product: `ptxas` 12.9 and 13.5 unpack the codes
//! to FP16 and make two products of them, of the elements 0 and 1 and then of
//! the elements 2 and 3 of each register, from a zero accumulator, to which C is
//! added at the end by a plain addition. So does this. FP64 is a chain of fused
//! multiply-adds in the order of K (inferred, not measured), and integers are
//! exact.

use super::alu::Consts;
use super::state::Core;
use crate::error::Exec;
use crate::isa::{Mma, MmaKind, Row32, Row64};
use crate::numerics::convert::{E4M3, F16, Rounding, decode, encode, f16_to_f32};
use crate::numerics::rounding::add_small;
use crate::numerics::wgmma::{Element, NAN, Precision, Tile, mma, mma_half};

/// Rows of the largest shape, columns of every shape.
const M: usize = 16;
const N: usize = 8;
/// Bytes of K in a row of codes; shorter rows end in zeros, which take no part
/// in a fused sum.
const SPAN: usize = 32;

type CodesA = [u8; M * SPAN];
type CodesB = [u8; N * SPAN];

/// Operand tiles that every `mma.sync` reuses.
#[derive(Debug, Default)]
pub struct Scratch {
    a: Tile,
    b: Tile,
}

impl Core<'_> {
    pub fn mma(&mut self, inst: &Mma, active: u32, consts: Consts<'_>) -> Exec<()> {
        self.converged(active, "of the warp")?;
        if inst.kind == MmaKind::Double {
            self.mma_double(inst, active, consts);
            return Ok(());
        }
        let (a, b) = self.codes(inst, consts);
        match inst.kind {
            MmaKind::Float { element, half } => {
                self.load_tiles(element, &a, &b);
                if half {
                    let mut c = self.half_accumulators(inst, consts);
                    mma_half(Precision::Full, &self.mma.a, &self.mma.b, &mut c);
                    self.put_half(inst, &c, active);
                } else {
                    let mut c = self.accumulators(inst, consts).map(f32::from_bits);
                    mma(Precision::Full, &self.mma.a, &mut self.mma.b, &mut c, 0);
                    self.put_words(inst, &c.map(f32::to_bits), active);
                }
            }
            MmaKind::Fp8 {
                a_e5m2,
                b_e5m2,
                half,
            } => {
                let (mut sum, mut sum_half) = ([0f32; M * N], [0u16; M * N]);
                for part in 0..2 {
                    self.load_tiles(
                        Element::F16,
                        &unpack(&a, part, a_e5m2),
                        &unpack(&b, part, b_e5m2),
                    );
                    if half {
                        mma_half(Precision::Full, &self.mma.a, &self.mma.b, &mut sum_half);
                    } else {
                        mma(Precision::Full, &self.mma.a, &mut self.mma.b, &mut sum, 0);
                    }
                }
                if half {
                    let mut c = self.half_accumulators(inst, consts);
                    for (c, s) in c.iter_mut().zip(sum_half) {
                        let (x, y) = (f16_to_f32(*c), f16_to_f32(s));
                        *c = add_small(x.into(), y.into(), F16) as u16;
                    }
                    self.put_half(inst, &c, active);
                } else {
                    let mut c = self.accumulators(inst, consts);
                    for (c, s) in c.iter_mut().zip(sum) {
                        let v = f32::from_bits(*c) + s;
                        *c = if v.is_nan() { NAN } else { v.to_bits() };
                    }
                    self.put_words(inst, &c, active);
                }
            }
            MmaKind::Integer {
                a_signed,
                b_signed,
                saturate,
            } => {
                let mut c = self.accumulators(inst, consts);
                for (at, c) in c.iter_mut().enumerate() {
                    let (row, col) = (at / N * SPAN, at % N * SPAN);
                    let products = a[row..row + SPAN].iter().zip(&b[col..col + SPAN]);
                    let sum: i64 = products
                        .map(|(&x, &y)| widen(x, a_signed) * widen(y, b_signed))
                        .sum::<i64>()
                        + i64::from(*c as i32);
                    *c = if saturate {
                        sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32
                    } else {
                        sum as u32
                    };
                }
                self.put_words(inst, &c, active);
            }
            MmaKind::Double => {}
        }
        Ok(())
    }

    /// The operands as `[row of A][bytes of K]` and `[column of B][bytes of K]`.
    fn codes(&self, inst: &Mma, consts: Consts<'_>) -> (CodesA, CodesB) {
        let (mut a, mut b) = ([0; M * SPAN], [0; N * SPAN]);
        let blocks = inst.row_blocks();
        for (i, &r) in inst.a.iter().enumerate() {
            for (l, v) in self.w.regs.get32(consts, r).iter().enumerate() {
                let row = l / 4 + 8 * (i % blocks);
                let at = row * SPAN + 4 * (l % 4) + 16 * (i / blocks);
                a[at..at + 4].copy_from_slice(&v.to_le_bytes());
            }
        }
        for (i, &r) in inst.b.iter().enumerate() {
            for (l, v) in self.w.regs.get32(consts, r).iter().enumerate() {
                let at = l / 4 * SPAN + 4 * (l % 4) + 16 * i;
                b[at..at + 4].copy_from_slice(&v.to_le_bytes());
            }
        }
        (a, b)
    }

    fn load_tiles(&mut self, element: Element, a: &CodesA, b: &CodesB) {
        self.mma.a.load(element, a, M, false);
        self.mma.b.load(element, b, N, false);
    }

    fn accumulators(&self, inst: &Mma, consts: Consts<'_>) -> [u32; M * N] {
        let mut c = [0; M * N];
        for (r, &reg) in inst.c.iter().enumerate() {
            for (l, &v) in self.w.regs.get32(consts, reg).iter().enumerate() {
                c[place(l, r)] = v;
            }
        }
        c
    }

    fn put_words(&mut self, inst: &Mma, c: &[u32; M * N], active: u32) {
        for (r, &reg) in inst.d.iter().enumerate() {
            let v: Row32 = std::array::from_fn(|l| c[place(l, r)]);
            self.w.regs.put32(reg, &v, active);
        }
    }

    fn half_accumulators(&self, inst: &Mma, consts: Consts<'_>) -> [u16; M * N] {
        let mut c = [0; M * N];
        for (r, &reg) in inst.c.iter().enumerate() {
            for (l, &v) in self.w.regs.get32(consts, reg).iter().enumerate() {
                let at = place(l, 2 * r);
                (c[at], c[at + 1]) = (v as u16, (v >> 16) as u16);
            }
        }
        c
    }

    fn put_half(&mut self, inst: &Mma, c: &[u16; M * N], active: u32) {
        for (r, &reg) in inst.d.iter().enumerate() {
            let v: Row32 = std::array::from_fn(|l| {
                let at = place(l, 2 * r);
                u32::from(c[at]) | u32::from(c[at + 1]) << 16
            });
            self.w.regs.put32(reg, &v, active);
        }
    }

    fn mma_double(&mut self, inst: &Mma, active: u32, consts: Consts<'_>) {
        let k = usize::from(inst.k);
        let blocks = inst.row_blocks();
        let regs = &self.w.regs;
        let value = |reg: u16, lane: usize| f64::from_bits(regs.get64(consts, reg)[lane]);
        let results: Vec<Row64> = (0..inst.d.len())
            .map(|r| {
                std::array::from_fn(|l| {
                    let (row, col) = (l / 4 + 8 * (r / 2), 2 * (l % 4) + r % 2);
                    let sum = (0..k).fold(value(inst.c[r], l), |sum, k| {
                        let x = value(inst.a[row / 8 + blocks * (k / 4)], 4 * (row % 8) + k % 4);
                        x.mul_add(value(inst.b[k / 4], 4 * col + k % 4), sum)
                    });
                    sum.to_bits()
                })
            })
            .collect();
        for (&d, v) in inst.d.iter().zip(&results) {
            self.w.regs.put64(d, v, active);
        }
    }
}

/// Where element r of lane l lies in the row-major accumulator tile.
fn place(l: usize, r: usize) -> usize {
    (l / 4 + 8 * (r / 2)) * N + 2 * (l % 4) + r % 2
}

fn widen(code: u8, signed: bool) -> i64 {
    if signed {
        i64::from(code as i8)
    } else {
        i64::from(code)
    }
}

/// FP8 codes to FP16 ones, which hold every value of both formats: of each four
/// the first two (`part` 0) or the last two.
fn unpack<const LEN: usize>(codes: &[u8; LEN], part: usize, e5m2: bool) -> [u8; LEN] {
    let mut out = [0; LEN];
    for (codes, out) in codes.chunks_exact(SPAN).zip(out.chunks_exact_mut(SPAN)) {
        for (quad, out) in codes.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
            for (&code, out) in quad[2 * part..].iter().zip(out.chunks_exact_mut(2)) {
                let half = if e5m2 {
                    // The upper byte of an FP16 number.
                    u16::from(code) << 8
                } else {
                    let value = decode(code.into(), E4M3);
                    encode(value, F16, Rounding::NearestEven, false) as u16
                };
                out.copy_from_slice(&half.to_le_bytes());
            }
        }
    }
    out
}
