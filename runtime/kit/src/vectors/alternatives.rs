//! Other adders: what the tensor core may do instead, where it differs from the model.
//!
//! In: tiles with the device's results. Out: for each alternative how many results it misses.
//! Holds: nothing here decides whether a device passes; it only says which arithmetic to look at next. Each
//! alternative changes one property of the model, which is written here a second time with its properties open;
//! a test holds the unchanged form to `mcc_sim`'s.

use mcc_sim::numerics::wgmma::{self, Precision, fused_sum, fused_sum_half};
use rayon::prelude::*;

use super::form::{Form, K_BYTES, M};
use super::inputs::Tile;
use super::report::AlternativeReport;
use super::types::{Accumulator, Format, Types};

/// An adder by its properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Adder {
    /// Fraction bits to which terms are aligned.
    kept: i32,
    /// Fraction bits of the result.
    result: i32,
    /// How the result is rounded.
    rounding: Rounding,
    /// How terms are cut.
    align: Rounding,
    /// Zeros take part in the largest exponent, with their format's least.
    zeros_align: bool,
    /// Products are normalised before they are aligned.
    normalised: bool,
    /// The K of one instruction is added in so many sums, one after the other.
    blocks: usize,
    /// The accumulator is added after the products' sum, in FP32.
    separate_c: bool,
    /// A result too large becomes the largest number.
    saturate: bool,
    /// Subnormal operands, accumulators and results count as zero.
    flush: [bool; 3],
    /// A sum of negative zeros is -0, and so is a negative sum that vanishes.
    negative_zero: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    Zero,
    Down,
    NearestEven,
}

/// An exponent below that of every number.
const NONE: i32 = -4000;

/// A term: m * 2^q, and the exponent by which it is aligned.
#[derive(Clone, Copy)]
struct Term {
    m: i128,
    q: i32,
    exponent: i32,
    /// Its sign, also of a zero.
    negative: bool,
}

impl Adder {
    fn model(types: Types) -> Self {
        let (kept, result) = match (types.a.precision(), types.accumulator) {
            (Precision::Fp8, Accumulator::F32) => (13, 13),
            (Precision::Full, Accumulator::F32) => (25, 23),
            (Precision::Fp8, Accumulator::F16) => (13, 10),
            (Precision::Full, Accumulator::F16) => (25, 10),
        };
        Self {
            kept,
            result,
            rounding: match types.accumulator {
                Accumulator::F32 => Rounding::Zero,
                Accumulator::F16 => Rounding::NearestEven,
            },
            align: Rounding::Zero,
            zeros_align: false,
            normalised: false,
            blocks: 1,
            separate_c: false,
            saturate: false,
            flush: [false; 3],
            negative_zero: false,
        }
    }

    /// The model with one property changed, and what to call it.
    fn all(types: Types) -> Vec<(String, Self)> {
        let model = Self::model(types);
        let mut all = vec![("the model".to_owned(), model)];
        for kept in [-3, -2, -1, 1, 2, 3].map(|more| model.kept + more) {
            all.push((
                format!("the adder keeps {kept} fraction bits"),
                Self { kept, ..model },
            ));
        }
        if types.accumulator == Accumulator::F32 {
            for result in [12, 13, 14, 22, 23]
                .into_iter()
                .filter(|&b| b != model.result)
            {
                all.push((
                    format!("the result keeps {result} fraction bits"),
                    Self { result, ..model },
                ));
            }
        }
        let other = match model.rounding {
            Rounding::NearestEven => Rounding::Zero,
            _ => Rounding::NearestEven,
        };
        let named = [
            (
                "the result is rounded the other way (toward zero, nearest even)",
                Self {
                    rounding: other,
                    ..model
                },
            ),
            (
                "terms are cut downward instead of toward zero",
                Self {
                    align: Rounding::Down,
                    ..model
                },
            ),
            (
                "terms are rounded to nearest even instead of cut",
                Self {
                    align: Rounding::NearestEven,
                    ..model
                },
            ),
            (
                "zeros take part in the largest exponent",
                Self {
                    zeros_align: true,
                    ..model
                },
            ),
            (
                "products are normalised before they are aligned",
                Self {
                    normalised: true,
                    ..model
                },
            ),
            ("two sums of half of K each", Self { blocks: 2, ..model }),
            (
                "four sums of a quarter of K each",
                Self { blocks: 4, ..model },
            ),
            (
                "the accumulator is added after the products' sum",
                Self {
                    separate_c: true,
                    ..model
                },
            ),
            (
                "a result too large becomes the largest number",
                Self {
                    saturate: true,
                    ..model
                },
            ),
            (
                "subnormal operands count as zero",
                Self {
                    flush: [true, false, false],
                    ..model
                },
            ),
            (
                "subnormal accumulators count as zero",
                Self {
                    flush: [false, true, false],
                    ..model
                },
            ),
            (
                "subnormal results become zero",
                Self {
                    flush: [false, false, true],
                    ..model
                },
            ),
            (
                "a zero result may be negative",
                Self {
                    negative_zero: true,
                    ..model
                },
            ),
        ];
        all.extend(named.map(|(name, adder)| (name.to_owned(), adder)));
        all
    }

    /// One instruction: bits of the accumulator in and out.
    fn add(&self, types: Types, a: (&[f32], &[i16]), b: (&[f32], &[i16]), c: u32) -> u32 {
        let value = match types.accumulator {
            Accumulator::F32 => f32::from_bits(c),
            Accumulator::F16 => half::f16::from_bits(c as u16).to_f32(),
        };
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        if !(value.is_finite() && finite(a.0) && finite(b.0)) {
            let precision = types.a.precision();
            return match types.accumulator {
                Accumulator::F32 => fused_sum(precision, a.0, a.1, b.0, b.1, value).to_bits(),
                Accumulator::F16 => {
                    u32::from(fused_sum_half(precision, a.0, a.1, b.0, b.1, c as u16))
                }
            };
        }
        let products: Vec<Term> = (0..a.0.len())
            .map(|k| self.product(types, (a.0[k], a.1[k]), (b.0[k], b.1[k])))
            .collect();
        let mut bits = c;
        if self.separate_c {
            let sum = self.fused(types, &products, None);
            let zero = self.term(types, 0);
            let (sum, c) = (self.term(types, sum), self.term(types, bits));
            return self.fused(types, &[sum, zero], Some(c));
        }
        for block in products.chunks(products.len() / self.blocks) {
            let c = self.term(types, bits);
            bits = self.fused(types, block, Some(c));
        }
        bits
    }

    fn product(&self, types: Types, (x, ex): (f32, i16), (y, ey): (f32, i16)) -> Term {
        let small = |v: f32, element: Format| {
            self.flush[0] && f64::from(v.abs()) < f64::from(element.exponents().0).exp2()
        };
        let (fa, fb) = (Format::of(types.a), Format::of(types.b));
        let negative = x.is_sign_negative() != y.is_sign_negative();
        let x = if small(x, fa) { 0.0 } else { x };
        let y = if small(y, fb) { 0.0 } else { y };
        if x == 0.0 || y == 0.0 {
            let least = |v: f32, e: i16, f: Format| {
                if v == 0.0 {
                    f.exponents().0
                } else {
                    i32::from(e)
                }
            };
            return Term {
                m: 0,
                q: 0,
                exponent: if self.zeros_align {
                    least(x, ex, fa) + least(y, ey, fb)
                } else {
                    NONE
                },
                negative,
            };
        }
        let ((xm, xq), (ym, yq)) = (parts(x), parts(y));
        let (m, q) = (i128::from(xm) * i128::from(ym), xq + yq);
        Term {
            m,
            q,
            exponent: if self.normalised {
                m.unsigned_abs().ilog2() as i32 + q
            } else {
                i32::from(ex) + i32::from(ey)
            },
            negative,
        }
    }

    /// The accumulator as a term.
    fn term(&self, types: Types, bits: u32) -> Term {
        let (format, value) = match types.accumulator {
            Accumulator::F32 => (types.accumulator.format(), f32::from_bits(bits)),
            Accumulator::F16 => (
                types.accumulator.format(),
                half::f16::from_bits(bits as u16).to_f32(),
            ),
        };
        let least = format.exponents().0;
        let (m, q) = parts(value);
        let exponent = (m.unsigned_abs().max(1).ilog2() as i32 + q).max(least);
        let small = self.flush[1] && f64::from(value.abs()) < f64::from(least).exp2();
        if m == 0 || small {
            return Term {
                m: 0,
                q: 0,
                exponent: if self.zeros_align { least } else { NONE },
                negative: value.is_sign_negative(),
            };
        }
        Term {
            m: i128::from(m),
            q,
            exponent,
            negative: value.is_sign_negative(),
        }
    }

    fn fused(&self, types: Types, terms: &[Term], c: Option<Term>) -> u32 {
        let all = || terms.iter().chain(&c);
        let top = all().map(|term| term.exponent).max().unwrap_or(NONE);
        let sum: i128 = all()
            .map(|term| shifted(term.m, term.q + self.kept - top, self.align))
            .sum();
        let negative = all().all(|term| term.negative);
        self.encode(types, sum, top - self.kept, negative)
    }

    /// `sum * 2^q` in the accumulator's format.
    fn encode(&self, types: Types, sum: i128, q: i32, all_negative: bool) -> u32 {
        let format = types.accumulator.format();
        let zero = |negative: bool| format.code(negative && self.negative_zero, 0, 0);
        if sum == 0 {
            return zero(all_negative);
        }
        let (least, most) = format.exponents();
        let exponent = (sum.unsigned_abs().ilog2() as i32 + q).max(least);
        let mut last = exponent - self.result;
        let mut kept = shifted(sum, q - last, self.rounding).unsigned_abs();
        // Subnormal numbers of FP32 have all of its fraction bits, or those that the result keeps.
        let drop = self.result - format.man_bits as i32;
        if drop < 0 {
            kept <<= -drop;
            last += drop;
        }
        let units = kept as u64;
        if units == 0 {
            return zero(sum < 0);
        }
        let top = units.ilog2() as i32 + last;
        let biggest = format.code(sum < 0, (most + format.bias) as u32, format.max_fraction());
        if top > most {
            return if self.saturate {
                biggest
            } else {
                format.code(sum < 0, (most + format.bias + 1) as u32, 0)
            };
        }
        let hidden = 1u64 << format.man_bits;
        if units < hidden {
            return if self.flush[2] {
                zero(sum < 0)
            } else {
                format.code(sum < 0, 0, units as u32)
            };
        }
        // Rounding may have carried into the next power of two.
        let shift = units.ilog2() - format.man_bits;
        let fraction = (units >> shift) & (hidden - 1);
        format.code(sum < 0, (top + format.bias) as u32, fraction as u32)
    }
}

/// (m, q) with x = m * 2^q exactly.
fn parts(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let e = (bits >> 23 & 0xff) as i32;
    let m = i64::from(bits & 0x7f_ffff) | if e == 0 { 0 } else { 1 << 23 };
    (if bits >> 31 == 1 { -m } else { m }, e.max(1) - 150)
}

/// m * 2^shift as an integer.
fn shifted(m: i128, shift: i32, rounding: Rounding) -> i128 {
    if shift >= 0 {
        // Terms are bounded by the largest exponent, so this loses nothing.
        return m << shift.min(64);
    }
    let drop = (-shift).min(120);
    let floor = m >> drop;
    let rest = m - (floor << drop);
    match rounding {
        Rounding::Down => floor,
        Rounding::Zero => floor + i128::from(m < 0 && rest != 0),
        Rounding::NearestEven => {
            let half = 1i128 << (drop - 1);
            floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
        }
    }
}

/// Results of a tile to try alternatives on.
pub(super) struct Sample<'a> {
    tile: &'a Tile,
    results: &'a [u32],
    at: Vec<usize>,
}

/// Results that are tried of a tile whether they differ or not.
const SPREAD: usize = 64;

impl<'a> Sample<'a> {
    /// The results that differ, as far as they are listed, and some of the others.
    pub fn new(tile: &'a Tile, results: &'a [u32], differing: &[usize]) -> Self {
        // Odd, so that columns and rows vary.
        let stride = (results.len() / SPREAD).max(1) | 1;
        let others = (0..results.len()).step_by(stride);
        let others = others.filter(|i| !differing.contains(i));
        Self {
            tile,
            results,
            at: differing.iter().copied().chain(others).collect(),
        }
    }
}

/// Counts what each alternative misses of some results.
#[derive(Default)]
pub(super) struct Alternatives(Vec<AlternativeReport>);

impl Alternatives {
    /// Tries all of them: what differs from the model must come to agree, the rest must stay so.
    pub fn add(&mut self, types: Types, form: Form, samples: &[Sample<'_>]) {
        let adders = Adder::all(types);
        if self.0.is_empty() {
            self.0 = adders
                .iter()
                .map(|(name, _)| AlternativeReport {
                    what: name.clone(),
                    results: 0,
                    mismatches: 0,
                })
                .collect();
        }
        let missed: Vec<u64> = adders
            .par_iter()
            .map(|(_, adder)| {
                let missed = |sample: &Sample<'_>| missed(*adder, types, form, sample);
                samples.iter().map(missed).sum()
            })
            .collect();
        for (report, missed) in self.0.iter_mut().zip(missed) {
            let tried = samples.iter().map(|sample| sample.at.len() as u64);
            report.results += tried.sum::<u64>();
            report.mismatches += missed;
        }
    }

    /// The nearest ones, best first; empty where the model needed none.
    pub fn nearest(mut self) -> Vec<AlternativeReport> {
        self.0.sort_by_key(|report| report.mismatches);
        self.0.truncate(5);
        self.0
    }
}

/// Results of a sample that an adder does not give; NaN agrees with NaN.
fn missed(adder: Adder, types: Types, form: Form, sample: &Sample<'_>) -> u64 {
    let tile = sample.tile;
    let first = |i: usize| if form.scale_d { tile.c[i] } else { 0 };
    let mut d: Vec<u32> = sample.at.iter().map(|&i| first(i)).collect();
    let (mut a, mut b) = (wgmma::Tile::default(), wgmma::Tile::default());
    for step in 0..form.steps {
        let part = |rows: usize| step * rows * K_BYTES..(step + 1) * rows * K_BYTES;
        a.load(types.a, &tile.a[part(M)], M, false);
        b.load(types.b, &tile.b[part(form.n)], form.n, false);
        for (d, i) in d.iter_mut().zip(&sample.at) {
            *d = adder.add(types, a.row(i / form.n), b.row(i % form.n), *d);
        }
    }
    let format = types.accumulator.format();
    let differs = |x: u32, y: u32| x != y && !(format.is_nan(x) && format.is_nan(y));
    let pairs = d.iter().zip(&sample.at);
    pairs
        .filter(|&(&d, &i)| differs(d, sample.results[i]))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::inputs::Class;
    use super::*;

    /// What an adder gives for a tile.
    fn results(adder: Adder, types: Types, form: Form, tile: &Tile) -> Vec<u32> {
        let (mut a, mut b) = (wgmma::Tile::default(), wgmma::Tile::default());
        a.load(types.a, &tile.a, M, false);
        b.load(types.b, &tile.b, form.n, false);
        let add = |i: usize| adder.add(types, a.row(i / form.n), b.row(i % form.n), tile.c[i]);
        (0..form.results()).map(add).collect()
    }

    /// The second writing of the model gives the first one's bits in every class.
    #[test]
    fn the_unchanged_adder_is_the_model() {
        for types in Types::ALL {
            let form = Form::all(types)[1];
            for class in Class::all(types) {
                if !class.takes(form) {
                    continue;
                }
                for number in 0..2 {
                    let tile = Tile::new(9, types, form, class, number);
                    let model = super::super::probe::model(types, form, &tile);
                    let all: Vec<usize> = (0..form.results()).collect();
                    let sample = Sample::new(&tile, &model, &all);
                    let wrong = missed(Adder::model(types), types, form, &sample);
                    assert_eq!(wrong, 0, "{} {class:?}", types.name());
                }
            }
        }
    }

    fn tiles(types: Types, form: Form, count: u64) -> Vec<Tile> {
        let classes = Class::all(types).into_iter();
        classes
            .filter(|class| class.takes(form))
            .flat_map(|class| (0..count).map(move |n| Tile::new(5, types, form, class, n)))
            .collect()
    }

    /// Each alternative gives other results than the model in some class, for FP8 or for BF16.
    #[test]
    fn inputs_tell_the_alternatives_apart() {
        let mut apart = std::collections::BTreeMap::new();
        for types in [Types::ALL[0], Types::ALL[1]] {
            let form = Form::all(types)[1];
            let tiles = tiles(types, form, 2);
            let model: Vec<Vec<u32>> = tiles
                .iter()
                .map(|tile| super::super::probe::model(types, form, tile))
                .collect();
            for (name, adder) in Adder::all(types).into_iter().skip(1) {
                let all: Vec<usize> = (0..form.results()).collect();
                let mut pairs = tiles.iter().zip(&model);
                let differs = pairs
                    .any(|(tile, d)| missed(adder, types, form, &Sample::new(tile, d, &all)) > 0);
                *apart.entry(name).or_insert(false) |= differs;
            }
        }
        let not: Vec<&String> = apart.iter().filter(|(_, a)| !**a).map(|(n, _)| n).collect();
        assert!(not.is_empty(), "{not:#?}");
    }

    /// A device that follows an alternative is told which.
    #[test]
    fn the_right_alternative_is_nearest() {
        let types = Types::ALL[0];
        let form = Form::all(types)[1];
        let tiles = tiles(types, form, 1);
        for (name, adder) in Adder::all(types) {
            if !name.starts_with("the adder keeps 14") && !name.starts_with("terms are cut down") {
                continue;
            }
            let device: Vec<Vec<u32>> = tiles
                .iter()
                .map(|tile| results(adder, types, form, tile))
                .collect();
            let samples: Vec<Sample<'_>> = tiles
                .iter()
                .zip(&device)
                .map(|(tile, d)| {
                    let model = super::super::probe::model(types, form, tile);
                    let differing = (0..d.len()).filter(|&i| d[i] != model[i]);
                    Sample::new(tile, d, &differing.collect::<Vec<_>>())
                })
                .collect();
            let mut alternatives = Alternatives::default();
            alternatives.add(types, form, &samples);
            let nearest = alternatives.nearest();
            assert_eq!((nearest[0].mismatches, &nearest[0].what), (0, &name));
            assert!(nearest[1].mismatches > 0, "{nearest:#?}");
        }
    }
}
