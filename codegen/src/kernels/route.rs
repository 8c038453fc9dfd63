//! `route`: the sigmoid gate with group-limited top-k (`docs/model.md`, "Gate"), one warp a token.
//!
//! Meaning: the op `route`. Scores are `1 / (1 + e^-x)` with `ex2.approx`; everything behind them follows the
//! reference's order. Equal scores: the lowest index wins, for groups and for experts.
//!
//! ```text
//! shared memory   z [experts]: biased scores | g [n_group]: group scores
//! lane l          experts l, l + 32, …; group l
//! ```

use mcc_ir::kernel::Route;

use super::row::rows_launch;
use super::{Family, Params, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// Most experts: 32 a lane.
const MAX_EXPERTS: u32 = 1024;
/// Where the sum of weights starts, so that it is never zero.
const SUM_FLOOR: f32 = 1e-20;

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a Route) -> Result<Family<'a>, CodegenError> {
    let ok = c.experts > 0
        && c.experts <= MAX_EXPERTS
        && (1..=32).contains(&c.n_group)
        && c.experts.is_multiple_of(c.n_group)
        && (1..=c.n_group).contains(&c.topk_group)
        && (1..=32).contains(&c.top_k)
        && c.top_k <= c.topk_group * (c.experts / c.n_group);
    if !ok {
        return Err(unsupported(
            name,
            format!(
                "{} experts, top {} in {} of {} groups",
                c.experts, c.top_k, c.topk_group, c.n_group
            ),
            "up to 1024 experts in up to 32 equal groups, top_k up to 32 and to the experts of the kept groups",
        ));
    }
    let mut p = Params::default();
    let (logits, bias) = (p.matrix(), p.pointer());
    let (experts, weights) = (p.pointer(), p.pointer());
    let mut smem = SmemMap::default();
    let z = smem.reserve(4 * c.experts, 16);
    // LLVM reads the scores four at a time, also behind the last group.
    let scored = c.n_group.next_multiple_of(4);
    let g = smem.reserve(4 * scored, 16);
    let launch = rows_launch(32, 0, smem, p.list);
    let body = move |k: &Kernel| {
        let (z, g) = (k.smem().offset(z), k.smem().offset(g));
        let token = k.block_x();
        let lane = k.lane();
        let row = k
            .arg_global(logits.pointer)
            .at(token.to_i64() * k.arg_i32(logits.stride).to_i64() * 4);
        let minus_infinity = k.f32(f32::NEG_INFINITY);

        // 1. Scores of this lane's experts, and their biased form for all lanes.
        let slots = c.experts.div_ceil(32);
        let scores = k.vars(slots as usize, k.f32(0.0));
        let biased = k.vars(slots as usize, minus_infinity);
        let free = k.vars(slots as usize, k.i32(0));
        for i in 0..slots {
            let e = lane + i * 32;
            k.if_(e.lt(c.experts.cast_signed()), || {
                let x = row.index(e, 4).load::<F32>();
                let s = k.f32(1.0) / (k.exp(-x) + 1.0);
                let b = s + k.arg_global(bias).index(e, 4).load::<F32>();
                scores[i as usize].set(s);
                // A score that is no number counts as the lowest, so that every slot gets an expert.
                let b = b.feq(b).select(b, minus_infinity);
                biased[i as usize].set(b);
                free[i as usize].set(k.i32(1));
                z.at(e * 4).store(b);
            });
        }
        k.sync_threads();

        // 2. A group's score: the sum of its two largest.
        let size = c.experts / c.n_group;
        let group_score = k.var(minus_infinity);
        k.if_(lane.lt(c.n_group.cast_signed()), || {
            let (first, second) = (k.var(minus_infinity), k.var(minus_infinity));
            k.for_(0, size, 1, |i| {
                let v = z.at((lane * size + i) * 4).load::<F32>();
                let largest = first.get();
                second.set(second.get().fmax(largest.fmin(v)));
                first.set(largest.fmax(v));
            });
            let sum = if size > 1 {
                first.get() + second.get()
            } else {
                first.get()
            };
            group_score.set(sum);
        });
        k.if_(lane.lt(scored.cast_signed()), || {
            g.at(lane * 4).store(group_score.get());
        });
        k.sync_threads();

        // 3. A group is kept when fewer than `topk_group` come before it.
        let before = k.var(k.i32(0));
        k.for_(0, c.n_group, 1, |i| {
            let other = g.at(i * 4).load::<F32>();
            let mine = group_score.get();
            let ahead = other.fgt(mine) | (other.feq(mine) & i.lt(lane));
            before.update(|n| n + ahead.to_i32());
        });
        let kept = k
            .ballot(before.get().lt(c.topk_group.cast_signed()) & lane.lt(c.n_group.cast_signed()));
        for i in 0..slots {
            let group = (lane + i * 32).udiv(size) & 31;
            let keep = (kept.ushr(group) & 1).ne(0);
            let b = biased[i as usize];
            b.set(keep.select(b.get(), minus_infinity));
        }

        // 4. top_k times the best of what is left; lane s remembers slot s.
        let chosen = k.var(k.i32(0));
        let chosen_score = k.var(k.f32(0.0));
        for slot in 0..c.top_k {
            let best = k.var(minus_infinity);
            let index = k.var(k.i32(i64::from(i32::MAX)));
            let score = k.var(k.f32(0.0));
            for i in 0..slots {
                let b = biased[i as usize].get();
                // The first free one counts even at -inf.
                let better =
                    free[i as usize].get().ne(0) & (b.fgt(best.get()) | index.get().eq(i32::MAX));
                best.set(better.select(b, best.get()));
                index.set(better.select(lane + i * 32, index.get()));
                score.set(better.select(scores[i as usize].get(), score.get()));
            }
            let (mut value, mut winner): (Val<'_, F32>, Val<'_, I32>) = (best.get(), index.get());
            for distance in [16, 8, 4, 2, 1] {
                let (v, w) = (k.shfl_xor(value, distance), k.shfl_xor(winner, distance));
                let better = v.fgt(value) | (v.feq(value) & w.lt(winner));
                value = better.select(v, value);
                winner = better.select(w, winner);
            }
            let score = k.shfl_idx(score.get(), winner & 31);
            for i in 0..slots {
                let f = free[i as usize];
                f.set((lane + i * 32).eq(winner).select(k.i32(0), f.get()));
            }
            let here = lane.eq(slot.cast_signed());
            chosen.set(here.select(winner, chosen.get()));
            chosen_score.set(here.select(score, chosen_score.get()));
        }

        // 5. Weights, from the scores without bias.
        let mut weight = chosen_score.get();
        if c.normalize {
            let mut sum = k.f32(SUM_FLOOR);
            for slot in 0..c.top_k {
                sum = sum + k.shfl_idx(chosen_score.get(), k.i32(slot));
            }
            weight = weight / sum;
        }
        let weight = weight * c.scaling;
        k.if_(lane.lt(c.top_k.cast_signed()), || {
            let pair = token * c.top_k + lane;
            k.arg_global(experts).index(pair, 4).store(chosen.get());
            k.arg_global(weights).index(pair, 4).store(weight);
        });
    };
    Ok(Family::new(launch, body))
}
