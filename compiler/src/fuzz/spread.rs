//! How far two right computations of one graph may be apart: its own sensitivity, found by disturbing it.
//!
//! In: a graph in plain ops and steps to run. Out: the outputs of a disturbed evaluation, and which tokens may go to
//! other experts. What is disturbed, and by how much, follows from what may differ:
//!
//! **Kernels** may differ from the evaluator where the order of operations is not defined (`docs/model.md`): norms,
//! activations, attention, products of BF16, and what follows from a gate's sigmoid. Each computes a value in FP32, off
//! by a relative 2^-12 at most (products of BF16: `tests/tests/conformance/gemm/bf16.rs`; the others far less), and
//! rounds it to BF16, whose units are 2^-8 or more: the result is the evaluator's or a neighbour of it. Attention rounds
//! its weights to BF16 as well: two units. Everything else is bit for bit the same of equal operands.
//!
//! The disturbed evaluation moves *every* such result to a neighbour, up or down at random. A kernel moves those few
//! whose FP32 value is that near to the middle between two BF16 values, a random part of them; what comes of it behind
//! other ops, other E4M3 codes among it, is a part of what comes of moving all, since independent deviations add in
//! the square. So the distance of the disturbed outputs from the undisturbed ones is one that kernels stay below, but
//! for the spread of random numbers themselves, for which [`SLACK`] is allowed. Where nothing may differ the distance
//! is 0 and kernels are held to the bits.
//!
//! **Roundings** may be moved by rules where the author allows it. Then both graphs are as far from the real numbers as
//! their roundings lead them. An evaluation whose every rounding is disturbed by what it rounds, a unit of BF16 or half a
//! unit of E4M3 (2^-4 of the value), is as far from the undisturbed one.
//!
//! **Routing** is no continuous function: where two experts are all but equally good, any deviation chooses between them.
//! A token whose choice changes when the logits do by twice their disturbance is *open*. Its rows are not compared, nor
//! are those of later tokens that attend to it.

use mcc_ir::eval::{Dims, Rng, Tensor, eval_op};
use mcc_ir::{DType, Op};

/// How many times the disturbed distance kernels and rules may be away.
pub(super) const SLACK: f64 = 2.0;

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// What kernels may compute otherwise.
    Kernels,
    /// Every rounding.
    Roundings,
}

/// Sizes of the deviations that the module's doc derives.
const FP32_PRODUCTS: f32 = 1.0 / 4096.0;
const SIGMOID: f32 = 1.0 / (1 << 20) as f32;
const HALF_E4M3: f32 = 1.0 / 16.0;

/// A disturbed evaluation on its way through the ops of a step.
pub(super) struct Disturbed<'a> {
    of: Of,
    rng: Rng,
    /// Operands of the gates in the undisturbed evaluation, in order.
    gates: &'a mut dyn Iterator<Item = [Tensor; 2]>,
    /// Whether each token of this step is open.
    pub open: Vec<bool>,
    /// Whether an open token may be in a cache.
    pub stained: bool,
}

impl<'a> Disturbed<'a> {
    pub fn new(
        of: Of,
        seed: u64,
        tokens: usize,
        stained: bool,
        gates: &'a mut dyn Iterator<Item = [Tensor; 2]>,
    ) -> Self {
        Self {
            of,
            rng: Rng::new(seed ^ 0xd157),
            gates,
            open: vec![false; tokens],
            stained,
        }
    }

    /// Disturbs the results of an op.
    pub fn after(&mut self, op: &Op, operands: &[&Tensor], results: &mut [Tensor]) {
        if let Op::Route { .. } = op {
            self.find_open(op, operands[0]);
        }
        // Positions ascend: a token sees those before it.
        if let Op::Attention { .. } = op {
            let mut seen = self.stained;
            for open in &mut self.open {
                seen |= *open;
                *open = seen;
            }
        }
        if let Op::CacheWrite = op {
            self.stained |= self.open.contains(&true);
        }
        let all = self.of == Of::Roundings;
        let of_bf16 = operands.first().is_some_and(|x| x.dtype() == DType::BF16);
        let units = match op {
            Op::Attention { .. } => 2,
            Op::RmsNorm { .. } | Op::Swiglu | Op::Combine | Op::ScaleRows => 1,
            Op::Matmul { .. } | Op::BatchedMatmul { .. } | Op::GroupedMatmul { .. } => {
                i32::from(all || of_bf16)
            }
            Op::Add | Op::CombineSum | Op::Rope { .. } | Op::Dequantize => i32::from(all),
            Op::Quantize if all => {
                self.quantize(operands[0], &mut results[0]);
                0
            }
            Op::Route { .. } => {
                self.scale(&mut results[1], SIGMOID);
                0
            }
            _ => 0,
        };
        if let (1.., Some(result)) = (units, results.first_mut()) {
            match result.dtype() {
                DType::BF16 => self.neighbours(result, units),
                DType::F32 => self.sums(result),
                DType::E4M3 | DType::I32 => {}
            }
        }
    }

    /// One up or one down.
    fn sign(&mut self) -> bool {
        self.rng.bits() & 1 == 1
    }

    fn neighbours(&mut self, x: &mut Tensor, units: i32) {
        let moved = x.as_float().unwrap_or_default().iter().map(|v| {
            let by = if self.sign() { units } else { -units };
            // Magnitudes of BF16 are in the order of their bits; below zero there are none.
            let bits = (v.abs().to_bits() >> 16).saturating_add_signed(by);
            f32::from_bits(bits << 16).copysign(*v)
        });
        let moved = moved.collect();
        replace(x, |shape| Tensor::bf16(shape, moved));
    }

    /// FP32 sums, off by a share of what they usually are: the products that cancel each other are as large.
    fn sums(&mut self, x: &mut Tensor) {
        let values = x.as_float().unwrap_or_default();
        let squares: f32 = values.iter().map(|v| v * v).sum();
        let usual = (squares / values.len().max(1) as f32).sqrt();
        let off = |v: &f32| v + if self.sign() { usual } else { -usual } * FP32_PRODUCTS;
        let moved = values.iter().map(off).collect();
        replace(x, |shape| Tensor::f32(shape, moved));
    }

    fn scale(&mut self, x: &mut Tensor, share: f32) {
        let off = |v: &f32| {
            v * if self.sign() {
                1.0 + share
            } else {
                1.0 - share
            }
        };
        let moved = x.as_float().unwrap_or_default().iter().map(off).collect();
        replace(x, |shape| Tensor::f32(shape, moved));
    }

    fn quantize(&mut self, x: &Tensor, q: &mut Tensor) {
        // Uniform in the half unit to both sides.
        let off = |v: &f32| v * (1.0 + HALF_E4M3 * (2.0 * self.rng.unit() - 1.0));
        let moved: Vec<f32> = x.as_float().unwrap_or_default().iter().map(off).collect();
        replace(q, |shape| Tensor::quantized(shape, &moved));
    }

    /// Opens tokens whose experts depend on logits that are off by twice as much as these disturbed ones.
    fn find_open(&mut self, op: &Op, disturbed: &Tensor) {
        let Some([logits, bias]) = self.gates.next() else {
            return;
        };
        let experts = logits.shape()[1];
        let rows = |x: &Tensor| x.as_float().unwrap_or_default().to_vec();
        let (base, disturbed) = (rows(&logits), rows(disturbed));
        let pairs = base.chunks(experts).zip(disturbed.chunks(experts));
        for (open, (base, disturbed)) in self.open.iter_mut().zip(pairs) {
            let off = base.iter().zip(disturbed).map(|(a, b)| (a - b).abs());
            let off = 2.0 * off.fold(0.0, f32::max);
            *open |= depends(op, base, &bias, off);
        }
    }
}

/// Whether a token's experts change when logits are off by `off`. What favours an expert most: its own logit goes up,
/// or all of its group's do, and all others go down.
fn depends(op: &Op, logits: &[f32], bias: &Tensor, off: f32) -> bool {
    let Op::Route { n_group, .. } = op else {
        return false;
    };
    let group = logits.len() / (*n_group as usize).max(1);
    let variant = |raised: &dyn Fn(usize) -> bool| {
        let one = |(i, x): (usize, &f32)| if raised(i) { x + off } else { x - off };
        logits.iter().enumerate().map(one).collect::<Vec<f32>>()
    };
    let mut variants = logits.to_vec();
    for expert in 0..logits.len() {
        variants.extend(variant(&|i| i == expert));
        variants.extend(variant(&|i| i / group.max(1) == expert / group.max(1)));
    }
    let shape = [variants.len() / logits.len(), logits.len()];
    let chosen = Tensor::f32(&shape, variants)
        .ok()
        .and_then(|variants| eval_op(op, &[&variants, bias], &Dims::new()).ok());
    let Some([experts, _]) = chosen.as_deref() else {
        return true;
    };
    let k = experts.shape()[1];
    let mut sets = experts.as_i32().unwrap_or_default().chunks(k).map(|set| {
        let mut set = set.to_vec();
        set.sort_unstable();
        set
    });
    let first = sets.next();
    sets.any(|set| Some(set) != first)
}

/// Puts in place what has the same shape.
fn replace<E>(x: &mut Tensor, made: impl FnOnce(&[usize]) -> Result<Tensor, E>) {
    if let Ok(made) = made(x.shape()) {
        *x = made;
    }
}
