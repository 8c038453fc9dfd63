//! What a graph means in real numbers, and how far its roundings may lead from that.
//!
//! In: a graph and its inputs. Out: for each float value the real number `v` that it stands for, computed in `f64`
//! without any rounding of the graph, and an error `e` such that what the evaluator gives lies within `v +- e`. Each
//! op passes on the errors of its operands and adds those of its own roundings:
//!
//! | rounding | error |
//! |---|---|
//! | to BF16, to FP32 | `2^-8`, `2^-24` of the value |
//! | to E4M3 with scale `s` | `2^-4` of the value, or half of the smallest code, `2^-10 s` |
//! | FP8 product | see [`TENSOR_CORE`] |
//!
//! A rule that is no exact one holds in real numbers, so both of its sides have the same `v`, and differ by `e + e'` at
//! most. This is the bound that follows from the roundings that the rule moves; nothing in it is measured.

use std::collections::{BTreeMap, HashMap};

use mcc_ir::eval::{Tensor, Values, eval_op};
use mcc_ir::graph::{Graph, ValueId};
use mcc_ir::op::Op;
use mcc_ir::types::DType;

/// Half of a unit in the last place, relative to the value. FP32 arithmetic before a rounding to BF16 is in the first.
const BF16: f64 = 1.0 / 256.0 + 1.0 / 4_194_304.0;
const FP32: f64 = 1.0 / 16_777_216.0;
const E4M3: f64 = 1.0 / 16.0 + 1.0 / 4_194_304.0;
/// Half of the smallest code and, for what a product cuts off, the smallest code with all its significant bits.
const HALF_SMALLEST: f64 = 1.0 / 1024.0;
const SMALLEST_NORMAL: f64 = 1.0 / 64.0;

/// Of 32 products and a sum, each is cut to 13 bits below the largest exponent, and so is the result: 34 cuts of less
/// than `2^-13` of the largest, for each 32 of K. A code below the normal ones has the exponent of the smallest normal
/// one. The FP32 sum of the promoted ones, and the product of the scales, are the two FP32 roundings.
const TENSOR_CORE: f64 = 34.0 / 8192.0;

/// A tensor of reals with errors, row-major.
#[derive(Clone, Debug)]
pub(super) struct Ball {
    shape: Vec<usize>,
    pub(super) v: Vec<f64>,
    pub(super) e: Vec<f64>,
    /// Of each element the magnitude below which an FP8 product cuts it as if it were that large.
    floor: Vec<f64>,
}

/// Integers are what they are.
enum Value {
    Ints(Tensor),
    Ball(Ball),
}

impl Ball {
    fn exact(shape: &[usize], v: Vec<f64>) -> Ball {
        let zeros = vec![0.0; v.len()];
        Ball {
            shape: shape.to_vec(),
            v,
            e: zeros.clone(),
            floor: zeros,
        }
    }

    fn of(tensor: &Tensor) -> Ball {
        let mut ball = Ball::exact(tensor.shape(), tensor.to_f64());
        if let Some(scaled) = tensor.as_scaled() {
            // No group's scale is above the largest one.
            let scale = scaled.scales.iter().fold(0f64, |s, x| s.max(f64::from(*x)));
            ball.floor.fill(scale * SMALLEST_NORMAL);
        }
        ball
    }

    /// Adds the error of rounding each element.
    fn rounded(mut self, unit: f64) -> Ball {
        for (v, e) in self.v.iter().zip(&mut self.e) {
            // Halves of units below the normal range are far below every other error here.
            *e += unit * (v.abs() + *e) + 1e-38;
        }
        self
    }

    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Row `at` of rows as wide as the last axis.
    fn row(&self, at: usize) -> impl Iterator<Item = (f64, f64, f64)> + '_ {
        let columns = at * self.width()..(at + 1) * self.width();
        columns.map(|i| (self.v[i], self.e[i], self.floor[i]))
    }

    /// To E4M3 in groups of 128.
    fn quantized(&self) -> Ball {
        let mut out = self.clone();
        for row in 0..self.v.len() / self.width() {
            for group in (0..self.width()).step_by(128) {
                let at = row * self.width() + group
                    ..row * self.width() + (group + 128).min(self.width());
                let amax = at.clone().map(|i| self.v[i].abs() + self.e[i]);
                let scale = amax.fold(1e-4, f64::max) / 448.0 * (1.0 + 4.0 * FP32);
                for i in at {
                    let magnitude = self.v[i].abs() + self.e[i];
                    out.e[i] += (E4M3 * magnitude).max(HALF_SMALLEST * scale);
                    out.floor[i] = SMALLEST_NORMAL * scale;
                }
            }
        }
        out
    }
}

/// A sum of products of two rows: value and error before it is rounded.
fn dot(
    x: impl Iterator<Item = (f64, f64, f64)>,
    w: impl Iterator<Item = (f64, f64, f64)>,
    fp8: bool,
) -> (f64, f64) {
    let (mut value, mut error, mut cut, mut magnitude, mut k) = (0.0, 0.0, 0.0, 0.0, 0usize);
    for ((x, dx, fx), (w, dw, fw)) in x.zip(w) {
        value += x * w;
        error += dx * w.abs() + x.abs() * dw + dx * dw;
        let (x, w) = (x.abs() + dx, w.abs() + dw);
        cut += (x + fx) * (w + fw);
        magnitude += x * w;
        k += 1;
    }
    if fp8 {
        let steps = k.div_ceil(32) as f64;
        error += steps * TENSOR_CORE * cut + (steps + 2.0) * 2.0 * FP32 * (magnitude + cut);
    }
    (value, error + 1e-14 * magnitude)
}

/// What an op's float result is rounded to.
fn unit(out: DType) -> f64 {
    if out == DType::F32 { FP32 } else { BF16 }
}

/// Values of the outputs that are floats, in order.
pub(super) fn outputs(graph: &Graph, inputs: &Values, params: &Values, tokens: u64) -> Vec<Ball> {
    let graph = &graph.in_plain_ops().unwrap();
    let mut values: HashMap<ValueId, Value> = HashMap::new();
    let dims = BTreeMap::from([("T".into(), tokens)]);
    for node in graph.topo() {
        let op = graph.op(node);
        let results = match op {
            Op::Input { name } => vec![leaf(&inputs[name])],
            Op::Param { name } => vec![leaf(&params[name])],
            op => {
                let operands = graph.operands(node);
                let operands: Vec<&Value> = operands.iter().map(|v| &values[v]).collect();
                results(op, &operands, graph, node, &dims)
            }
        };
        values.extend(graph.results(node).zip(results));
    }
    let named = graph.outputs.iter();
    named
        .filter_map(|(_, value)| match &values[value] {
            Value::Ball(ball) => Some(ball.clone()),
            Value::Ints(_) => None,
        })
        .collect()
}

fn leaf(tensor: &Tensor) -> Value {
    if tensor.as_i32().is_some() {
        Value::Ints(tensor.clone())
    } else {
        Value::Ball(Ball::of(tensor))
    }
}

fn ints(value: &Value) -> &Tensor {
    match value {
        Value::Ints(tensor) => tensor,
        Value::Ball(_) => panic!("integers expected"),
    }
}

fn ball(value: &Value) -> &Ball {
    match value {
        Value::Ball(ball) => ball,
        Value::Ints(_) => panic!("floats expected"),
    }
}

fn results(
    op: &Op,
    operands: &[&Value],
    graph: &Graph,
    node: mcc_ir::NodeId,
    dims: &mcc_ir::eval::Dims,
) -> Vec<Value> {
    let is_fp8 = |at: usize| {
        let value = graph.operands(node)[at];
        graph.ty(value).scale.is_some()
    };
    let one = |result: Ball| vec![Value::Ball(result)];
    if operands.iter().all(|value| matches!(value, Value::Ints(_))) {
        // Integers are moved as they are.
        let operands: Vec<&Tensor> = operands.iter().map(|value| ints(value)).collect();
        let results = eval_op(op, &operands, dims).unwrap().into_iter();
        return results.map(Value::Ints).collect();
    }
    match op {
        Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. } => {
            let balls: Vec<&Ball> = operands.iter().map(|value| ball(value)).collect();
            one(moved(op, &balls, dims))
        }
        Op::Dequantize => one(ball(operands[0]).clone().rounded(BF16)),
        Op::Quantize => one(ball(operands[0]).quantized()),
        Op::RmsNorm { eps } => {
            let (x, w) = (ball(operands[0]), ball(operands[1]));
            one(rms_norm(x, w, f64::from(eps.get())))
        }
        Op::Gather => one(gathered(ball(operands[0]), ints(operands[1]))),
        Op::Add => {
            let (a, b) = (ball(operands[0]), ball(operands[1]));
            let mut sum = a.clone();
            for i in 0..sum.v.len() {
                sum.v[i] += b.v[i];
                sum.e[i] += b.e[i];
            }
            let out = graph.node(node).results[0].dtype;
            one(sum.rounded(unit(out)))
        }
        Op::ScaleRows => {
            let (x, s) = (ball(operands[0]), ball(operands[1]));
            let mut out = x.clone();
            for i in 0..out.v.len() {
                let row = i / x.width();
                out.v[i] = x.v[i] * s.v[row];
                out.e[i] = (x.v[i].abs() + x.e[i]) * s.e[row] + x.e[i] * s.v[row].abs();
            }
            one(out.rounded(BF16))
        }
        Op::Swiglu => one(swiglu(ball(operands[0]))),
        Op::Matmul { out, .. } => {
            let (x, w) = (ball(operands[0]), ball(operands[1]));
            let rows = (0..x.shape[0]).flat_map(|m| (0..w.shape[0]).map(move |n| (m, n)));
            let sums = rows.map(|(m, n)| dot(x.row(m), w.row(n), is_fp8(0)));
            one(sum_of(&[x.shape[0], w.shape[0]], sums).rounded(unit(*out)))
        }
        Op::BatchedMatmul { out } => {
            let (x, w) = (ball(operands[0]), ball(operands[1]));
            let [tokens, heads, n] = [x.shape[0], x.shape[1], w.shape[1]];
            let at = (0..tokens * heads * n).map(|i| (i / n, i / n % heads * n + i % n));
            let sums = at.map(|(row, column)| dot(x.row(row), w.row(column), false));
            one(sum_of(&[tokens, heads, n], sums).rounded(unit(*out)))
        }
        Op::GroupedMatmul { out, .. } => {
            let (x, w) = (ball(operands[0]), ball(operands[1]));
            let offsets = ints(operands[2]).as_i32().unwrap().to_vec();
            let n = w.shape[1];
            let at = (0..x.shape[0]).flat_map(|row| {
                let expert = offsets.iter().filter(|o| **o as usize <= row).count() - 1;
                (0..n).map(move |column| (row, expert * n + column))
            });
            let sums = at.map(|(row, column)| dot(x.row(row), w.row(column), is_fp8(0)));
            one(sum_of(&[x.shape[0], n], sums).rounded(unit(*out)))
        }
        Op::AppendExpert { expert, weight } => {
            let (experts, weights) = (ints(operands[0]), ball(operands[1]));
            let k = weights.width();
            let with = |last: f64| {
                let rows = weights.v.chunks(k);
                let v: Vec<f64> = rows
                    .flat_map(|row| row.iter().copied().chain([last]))
                    .collect();
                Ball::exact(&[weights.shape[0], k + 1], v)
            };
            let rows = experts.as_i32().unwrap().chunks(k);
            let all = rows.flat_map(|row| row.iter().copied().chain([*expert as i32]));
            let all = Tensor::i32(&[weights.shape[0], k + 1], all.collect()).unwrap();
            vec![Value::Ints(all), Value::Ball(with(f64::from(weight.get())))]
        }
        Op::Dispatch { .. } => dispatch(op, ball(operands[0]), ints(operands[1]), dims),
        Op::RowWeights => {
            let (slots, weights) = (ints(operands[0]), ball(operands[1]));
            let mut out = Ball::exact(&[weights.v.len()], weights.v.clone());
            for (at, slot) in slots.as_i32().unwrap().iter().enumerate() {
                out.v[*slot as usize] = weights.v[at];
                out.e[*slot as usize] = weights.e[at];
            }
            one(out)
        }
        Op::Combine => one(combined(
            ball(operands[0]),
            ints(operands[1]),
            ball(operands[2]),
        )),
        Op::CombineSum => {
            let slots = ints(operands[1]);
            let ones = vec![1.0; slots.shape().iter().product()];
            let ones = Ball::exact(slots.shape(), ones);
            one(combined(ball(operands[0]), slots, &ones))
        }
        Op::Attention { scale } => {
            let of: Vec<&Ball> = operands[..5].iter().map(|value| ball(value)).collect();
            let positions = ints(operands[5]).as_i32().unwrap();
            one(attention(&of, positions, f64::from(scale.get())))
        }
        op => panic!("no errors are known for `{op}`"),
    }
}

fn sum_of(shape: &[usize], sums: impl Iterator<Item = (f64, f64)>) -> Ball {
    let (v, e): (Vec<f64>, Vec<f64>) = sums.unzip();
    Ball {
        e,
        ..Ball::exact(shape, v)
    }
}

/// Movement of data: where each element of the result comes from is found by moving numbers of elements.
fn moved(op: &Op, operands: &[&Ball], dims: &mcc_ir::eval::Dims) -> Ball {
    let mut from: Vec<(f64, f64, f64)> = Vec::new();
    let mut numbered = Vec::new();
    for ball in operands {
        let numbers = (from.len()..from.len() + ball.v.len()).map(|i| i as f32);
        numbered.push(Tensor::f32(&ball.shape, numbers.collect()).unwrap());
        let elements = ball.v.iter().zip(&ball.e).zip(&ball.floor);
        from.extend(elements.map(|((v, e), floor)| (*v, *e, *floor)));
    }
    // FP32 counts that far.
    assert!(from.len() < 1 << 24);
    let numbered: Vec<&Tensor> = numbered.iter().collect();
    let to = eval_op(op, &numbered, dims).unwrap().remove(0);
    let of: Vec<(f64, f64, f64)> = to
        .as_float()
        .unwrap()
        .iter()
        .map(|number| from[*number as usize])
        .collect();
    Ball {
        shape: to.shape().to_vec(),
        v: of.iter().map(|of| of.0).collect(),
        e: of.iter().map(|of| of.1).collect(),
        floor: of.iter().map(|of| of.2).collect(),
    }
}

/// `x r w` with `r = 1 / sqrt(mean(x^2) + eps)`, where errors of `x` move the mean between two bounds.
fn rms_norm(x: &Ball, w: &Ball, eps: f64) -> Ball {
    let width = x.width();
    let rows = (0..x.v.len() / width).flat_map(|row| {
        let at = row * width..(row + 1) * width;
        let mean = |of: &dyn Fn(usize) -> f64| at.clone().map(of).sum::<f64>() / width as f64;
        let squares = mean(&|i| x.v[i] * x.v[i]);
        let off = mean(&|i| (2.0 * x.v[i].abs() + x.e[i]) * x.e[i]);
        let inverse = |square: f64| 1.0 / (square.max(0.0) + eps).sqrt();
        let (r, low, high) = (
            inverse(squares),
            inverse(squares + off),
            inverse(squares - off),
        );
        let swing = (high - r).max(r - low);
        at.clone().map(move |i| {
            let (w, dw) = (w.v[i % width], w.e[i % width]);
            let normed = x.v[i] * r;
            let error = x.e[i] * high + x.v[i].abs() * swing;
            (normed * w, error * (w.abs() + dw) + normed.abs() * dw)
        })
    });
    let rows: Vec<(f64, f64)> = rows.collect();
    sum_of(&x.shape, rows.into_iter()).rounded(BF16)
}

/// Rows of a table.
fn gathered(table: &Ball, index: &Tensor) -> Ball {
    let rows: Vec<usize> = index
        .as_i32()
        .unwrap()
        .iter()
        .map(|row| *row as usize)
        .collect();
    let pick = |of: &[f64]| -> Vec<f64> {
        let width = table.width();
        let rows = rows.iter().map(|row| &of[row * width..(row + 1) * width]);
        rows.flatten().copied().collect()
    };
    Ball {
        shape: vec![rows.len(), table.width()],
        v: pick(&table.v),
        e: pick(&table.e),
        floor: pick(&table.floor),
    }
}

/// `silu(g) u`; the slope of silu is below 1.1 everywhere.
fn swiglu(x: &Ball) -> Ball {
    let half = x.width() / 2;
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = half;
    let rows = x.v.len() / x.width();
    let at = (0..rows * half).map(|i| (i / half * x.width() + i % half, half));
    let gated = at.map(|(gate, half)| {
        let (g, u) = (x.v[gate], x.v[gate + half]);
        let (dg, du) = (x.e[gate], x.e[gate + half]);
        let silu = g / (1.0 + (-g).exp());
        (silu * u, 1.1 * dg * (u.abs() + du) + silu.abs() * du)
    });
    sum_of(&shape, gated).rounded(BF16)
}

fn dispatch(op: &Op, x: &Ball, experts: &Tensor, dims: &mcc_ir::eval::Dims) -> Vec<Value> {
    let empty = Tensor::zeros(DType::BF16, &x.shape, None);
    let plan = eval_op(op, &[&empty, experts], dims).unwrap();
    let (rows, d) = (plan[0].shape()[0], x.width());
    let slots = plan[2].as_i32().unwrap();
    let k = slots.len() / x.shape[0];
    let mut out = Ball::exact(&[rows, d], vec![0.0; rows * d]);
    for (at, slot) in slots.iter().enumerate() {
        let (to, from) = (*slot as usize * d, at / k * d);
        out.v[to..to + d].copy_from_slice(&x.v[from..from + d]);
        out.e[to..to + d].copy_from_slice(&x.e[from..from + d]);
        out.floor[to..to + d].copy_from_slice(&x.floor[from..from + d]);
    }
    let [_, offsets, slots]: [Tensor; 3] = plan.try_into().unwrap();
    vec![Value::Ball(out), Value::Ints(offsets), Value::Ints(slots)]
}

/// Sums of weighted rows in FP32, rounded once.
fn combined(y: &Ball, slots: &Tensor, weights: &Ball) -> Ball {
    let (d, k) = (y.width(), weights.width());
    let tokens = weights.shape[0];
    let slots = slots.as_i32().unwrap();
    let sums = (0..tokens * d).map(|i| {
        let (token, column) = (i / d, i % d);
        let rows =
            (token * k..(token + 1) * k).map(|s| (weights.v[s], slots[s] as usize * d + column));
        rows.fold((0.0, 0.0), |(v, e), (w, at)| {
            let magnitude = w.abs() * (y.v[at].abs() + y.e[at]);
            (
                v + w * y.v[at],
                e + w.abs() * y.e[at] + k as f64 * 2.0 * FP32 * magnitude,
            )
        })
    });
    sum_of(&[tokens, d], sums).rounded(BF16)
}

/// With scores off by `d` at most, each probability is off by a factor of `exp(2 d)` at most; then it is rounded to
/// BF16 and multiplies a value that is off as well.
fn attention(of: &[&Ball], positions: &[i32], scale: f64) -> Ball {
    let [q, q_rope, k, k_rope, v] = of else {
        panic!("five float operands")
    };
    let [heads, kv_heads, dv] = [q.shape[1], k.shape[1], v.width()];
    let mut sums = Vec::new();
    for (t, position) in positions.iter().enumerate() {
        for h in 0..heads {
            let kv_head = if kv_heads == 1 { 0 } else { h };
            let scores: Vec<(f64, f64)> = (0..=*position as usize)
                .map(|j| {
                    let row = j * kv_heads + kv_head;
                    let plain = dot(q.row(t * heads + h), k.row(row), false);
                    let turned = dot(q_rope.row(t * heads + h), k_rope.row(j), false);
                    (
                        scale * (plain.0 + turned.0),
                        scale.abs() * (plain.1 + turned.1),
                    )
                })
                .collect();
            let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.0));
            let off = scores.iter().fold(0f64, |m, s| m.max(s.1));
            let total: f64 = scores.iter().map(|s| (s.0 - max).exp()).sum();
            let factor = (2.0 * off).exp() * (1.0 + BF16);
            for c in 0..dv {
                let (mut value, mut error) = (0.0, 0.0);
                for (j, score) in scores.iter().enumerate() {
                    let at = (j * kv_heads + kv_head) * dv + c;
                    let p = (score.0 - max).exp() / total;
                    value += p * v.v[at];
                    error += p * ((factor - 1.0) * v.v[at].abs() + factor * v.e[at]);
                }
                sums.push((value, error));
            }
        }
    }
    sum_of(&[positions.len(), heads, dv], sums.into_iter()).rounded(BF16)
}
