//! The routed experts' ops: gate, dispatch, combine; and row gather and token sampling.

use super::dense::{float, int};
use super::error::{EvalError, indices};
use super::layout::take_rows;
use super::tensor::Tensor;

/// Attributes of `route`.
pub(super) struct Gate {
    /// Experts a token.
    pub top_k: usize,
    /// Groups of consecutive experts.
    pub n_group: usize,
    /// Groups that may be chosen from.
    pub topk_group: usize,
    /// Multiplies the weights.
    pub scaling: f32,
    /// Divides the weights by their sum.
    pub normalize: bool,
}

/// Sigmoid gate with group-limited top-k (`docs/model.md`, "Gate"): experts `i32 [T, k]` and weights
/// `f32 [T, k]`.
///
/// The sigmoid is rounded once to FP32; everything after it is FP32 in the stated order. Ties go to
/// the lowest index, for groups and for experts.
pub(super) fn route(logits: &Tensor, bias: &Tensor, gate: &Gate) -> Result<[Tensor; 2], EvalError> {
    let (tokens, n_experts) = (logits.shape()[0], logits.shape()[1]);
    let bias = float("route", bias)?;
    let group_size = n_experts / gate.n_group.max(1);
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in float("route", logits)?.chunks_exact(n_experts.max(1)) {
        let scores: Vec<f32> = row
            .iter()
            .map(|&x| (1.0 / (1.0 + (-f64::from(x)).exp())) as f32)
            .collect();
        let mut biased: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
        let group_scores: Vec<f32> = biased
            .chunks_exact(group_size.max(1))
            .map(|group| {
                top(group, 2)
                    .into_iter()
                    .map(|i| group[i])
                    .reduce(|a, b| a + b)
                    .unwrap_or(0.0)
            })
            .collect();
        let kept = top(&group_scores, gate.topk_group);
        for (i, z) in biased.iter_mut().enumerate() {
            if !kept.contains(&(i / group_size.max(1))) {
                *z = f32::NEG_INFINITY;
            }
        }
        let chosen = top(&biased, gate.top_k);
        let sum = if gate.normalize {
            chosen.iter().fold(1e-20f32, |sum, &i| sum + scores[i])
        } else {
            1.0
        };
        weights.extend(chosen.iter().map(|&i| scores[i] / sum * gate.scaling));
        experts.extend(chosen.iter().map(|&i| i as i32));
    }
    Ok([
        Tensor::i32(&[tokens, gate.top_k], experts)?,
        Tensor::f32(&[tokens, gate.top_k], weights)?,
    ])
}

/// Indices of the `k` largest in descending order; the lowest index first among equals.
fn top(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // NaN sorts behind every number; the sort is stable.
    let key = |i: usize| {
        if values[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            values[i]
        }
    };
    order.sort_by(|&a, &b| {
        key(b)
            .partial_cmp(&key(a))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    order.truncate(k);
    order
}

/// Rows grouped by expert, inside an expert in ascending (token, slot): rows, offsets `[E + 1]`,
/// slots `[T, k]`.
pub(super) fn dispatch(
    x: &Tensor,
    experts: &Tensor,
    n_experts: usize,
) -> Result<[Tensor; 3], EvalError> {
    let op = "dispatch";
    let (tokens, k) = (experts.shape()[0], experts.shape()[1]);
    let chosen = indices(op, "expert", int(op, experts)?, n_experts)?;
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    order.sort_by_key(|&flat| chosen[flat]);
    let mut slots = vec![0i32; chosen.len()];
    for (row, &flat) in order.iter().enumerate() {
        slots[flat] = row as i32;
    }
    let offsets = (0..=n_experts)
        .map(|e| chosen.iter().filter(|&&c| c < e).count() as i32)
        .collect();
    let sources: Vec<usize> = order.iter().map(|flat| flat / k.max(1)).collect();
    let rows = take_rows(x, &sources).ok_or_else(|| {
        EvalError::operands(op, format!("rows of {} cannot be moved one by one", x.ty()))
    })?;
    Ok([
        rows,
        Tensor::i32(&[n_experts + 1], offsets)?,
        Tensor::i32(&[tokens, k], slots)?,
    ])
}

/// One more expert and its weight behind each token's.
pub(super) fn append_expert(
    experts: &Tensor,
    weights: &Tensor,
    expert: u32,
    weight: f32,
) -> Result<[Tensor; 2], EvalError> {
    let op = "append_expert";
    let expert = i32::try_from(expert)
        .map_err(|_| EvalError::operands(op, "the expert's number does not fit i32"))?;
    let (tokens, k) = (experts.shape()[0], experts.shape()[1]);
    fn behind<T: Copy>(data: &[T], k: usize, last: T) -> Vec<T> {
        let rows = data.chunks_exact(k.max(1));
        rows.flat_map(|row| row.iter().copied().chain([last]))
            .collect()
    }
    let shape = [tokens, k + 1];
    Ok([
        Tensor::i32(&shape, behind(int(op, experts)?, k, expert))?,
        Tensor::f32(&shape, behind(float(op, weights)?, k, weight))?,
    ])
}

/// The weight of each dispatched row.
pub(super) fn row_weights(slots: &Tensor, weights: &Tensor) -> Result<Tensor, EvalError> {
    let op = "row_weights";
    let weights = float(op, weights)?;
    let mut out = vec![0.0; weights.len()];
    let rows = indices(op, "slot", int(op, slots)?, weights.len())?;
    for (row, weight) in rows.into_iter().zip(weights) {
        out[row] = *weight;
    }
    Ok(Tensor::f32(&[out.len()], out)?)
}

/// `sum_s y[slots[t, s]]`: FP32 additions in slot order from 0, one rounding.
pub(super) fn combine_sum(y: &Tensor, slots: &Tensor) -> Result<Tensor, EvalError> {
    let ones = vec![1.0; slots.shape().iter().product()];
    combine(y, slots, &Tensor::f32(slots.shape(), ones)?)
}

/// `sum_s weights[t, s] * y[slots[t, s]]`: FP32 FMA in slot order from 0, one rounding.
pub(super) fn combine(y: &Tensor, slots: &Tensor, weights: &Tensor) -> Result<Tensor, EvalError> {
    let op = "combine";
    let ([tokens, k], d) = ([slots.shape()[0], slots.shape()[1]], y.shape()[1]);
    let rows = indices(op, "slot", int(op, slots)?, y.shape()[0])?;
    let (y, weights) = (float(op, y)?, float(op, weights)?);
    let mut out = Vec::with_capacity(tokens * d);
    for t in 0..tokens {
        for c in 0..d {
            out.push(
                (t * k..(t + 1) * k)
                    .fold(0f32, |acc, s| weights[s].mul_add(y[rows[s] * d + c], acc)),
            );
        }
    }
    Ok(Tensor::bf16(&[tokens, d], out)?)
}

/// Rows of a table.
pub(super) fn gather(table: &Tensor, index: &Tensor) -> Result<Tensor, EvalError> {
    let rows = indices("gather", "index", int("gather", index)?, table.shape()[0])?;
    take_rows(table, &rows)
        .ok_or_else(|| EvalError::operands("gather", format!("no row gather of {}", table.ty())))
}

/// Rows `positions[t]` of the cache replaced by `x[t]`; the last of equal positions stays.
pub(super) fn cache_write(
    cache: &Tensor,
    x: &Tensor,
    positions: &Tensor,
) -> Result<Tensor, EvalError> {
    let op = "cache_write";
    let positions = indices(op, "position", int(op, positions)?, cache.shape()[0])?;
    let width = super::dense::width(cache);
    let mut out = float(op, cache)?.to_vec();
    for (row, position) in float(op, x)?.chunks_exact(width).zip(positions) {
        out[position * width..(position + 1) * width].copy_from_slice(row);
    }
    Ok(Tensor::bf16(cache.shape(), out)?)
}

/// One token a row: greedy at temperature 0, else the nucleus of mass `top_p` and the inverse of
/// its cumulative mass at `uniform`.
///
/// Masses are `f64` sums of `exp((l - max) / temperature)`. A token is kept iff the tokens strictly
/// more likely hold less than `top_p` of the mass, so that equal logits are kept or dropped
/// together.
pub(super) fn sample(
    logits: &Tensor,
    temperature: &Tensor,
    top_p: &Tensor,
    uniform: &Tensor,
) -> Result<Tensor, EvalError> {
    let op = "sample";
    let (temperature, top_p, uniform) = (
        float(op, temperature)?,
        float(op, top_p)?,
        float(op, uniform)?,
    );
    let mut out = Vec::new();
    for (r, row) in float(op, logits)?
        .chunks_exact(super::dense::width(logits))
        .enumerate()
    {
        let order = top(row, row.len());
        let best = order.first().copied().unwrap_or(0);
        if temperature[r] == 0.0 {
            out.push(best as i32);
            continue;
        }
        let mass: Vec<f64> = row
            .iter()
            .map(|&l| (f64::from(l - row[best]) / f64::from(temperature[r])).exp())
            .collect();
        let limit = f64::from(top_p[r]) * mass.iter().sum::<f64>();
        let mut kept = vec![false; row.len()];
        let mut larger = 0f64;
        for tied in order.chunk_by(|&a, &b| row[a] == row[b]) {
            // The most likely token stays even with top_p = 0.
            if larger >= limit && tied[0] != best {
                break;
            }
            tied.iter().for_each(|&i| kept[i] = true);
            larger += tied.iter().map(|&i| mass[i]).sum::<f64>();
        }
        let total: f64 = (0..row.len()).filter(|&i| kept[i]).map(|i| mass[i]).sum();
        let target = f64::from(uniform[r]) * total;
        let mut cumulative = 0f64;
        let mut pick = best;
        for i in (0..row.len()).filter(|&i| kept[i]) {
            cumulative += mass[i];
            pick = i;
            if cumulative > target {
                break;
            }
        }
        out.push(pick as i32);
    }
    Ok(Tensor::i32(&[logits.shape()[0]], out)?)
}
