//! Who goes where in a routing: `moe_plan` (with `expand` it is `dispatch`), `row_weights`, `append_expert`.
//!
//! Meaning: where `dispatch` puts rows on one rank, and the ops of the same names; bit for bit.
//!
//! `moe_plan` is a stable counting sort: block e counts the (token, slot) pairs of smaller experts, which is
//! where its own rows begin, then walks the pairs in order and numbers its own. Every block reads all
//! pairs; they stay in L2.

use mcc_ir::kernel::{AppendExpert, MoePlan, RowWeights};
use mcc_ir::program::{Expr, Param};

use super::{Family, Launch, Params, unsupported};
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// `moe_plan`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn plan<'a>(name: &str, c: &'a MoePlan) -> Result<Family<'a>, CodegenError> {
    if c.experts == 0 || c.top_k == 0 {
        return Err(unsupported(
            name,
            format!("{} experts, top {}", c.experts, c.top_k),
            "at least one of each",
        ));
    }
    let mut p = Params::default();
    let (experts, offsets, slots, row_token) = (p.pointer(), p.pointer(), p.pointer(), p.pointer());
    let tokens = p.extent(0, 0);
    let launch = Launch {
        grid: [
            Expr::Const(u64::from(c.experts)),
            Expr::Const(1),
            Expr::Const(1),
        ],
        block: 32,
        cluster: 1,
        smem_bytes: 0,
        params: p.list,
    };
    let body = move |k: &Kernel| {
        let expert = k.block_x();
        let pairs = k.arg_i32(tokens) * c.top_k;
        // The expert of pair `i`, or one that matches nobody behind the end.
        let expert_of = |i: Val<'_, I32>| {
            let e = k.var(k.i32(i64::from(i32::MAX)));
            let i = i + k.lane();
            k.if_(i.lt(pairs), || {
                e.set(k.arg_global(experts).index(i, 4).load())
            });
            e.get()
        };
        let smaller = k.var(k.i32(0));
        k.for_(0, pairs, 32, |i| {
            smaller.update(|n| n + expert_of(i).lt(expert).to_i32());
        });
        let begin = k.reduce(smaller.get(), 32, |a, b| a + b);

        let next = k.var(begin);
        k.for_(0, pairs, 32, |i| {
            let mine = expert_of(i).eq(expert);
            let votes = k.ballot(mine);
            // Lanes below this one that voted: the pairs before it.
            let below = votes & ((k.i32(1) << k.lane()) - 1);
            let row = next.get() + k.popc(below);
            k.if_(mine, || {
                let pair = i + k.lane();
                k.arg_global(slots).index(pair, 4).store(row);
                k.arg_global(row_token)
                    .index(row, 4)
                    .store(pair.udiv(c.top_k));
            });
            next.update(|n| n + k.popc(votes));
        });
        k.if_(k.lane().eq(0), || {
            k.arg_global(offsets).index(expert, 4).store(begin);
            k.if_(expert.eq(c.experts.cast_signed() - 1), || {
                k.arg_global(offsets)
                    .offset(4 * c.experts)
                    .store(next.get());
            });
        });
    };
    Ok(Family::new(launch, body))
}

/// `row_weights`: each pair's weight to the row that it went to.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn row_weights<'a>(name: &str, c: &'a RowWeights) -> Result<Family<'a>, CodegenError> {
    let mut p = Params::default();
    let (slots, weights, out) = (p.pointer(), p.pointer(), p.pointer());
    let tokens = p.extent(0, 0);
    let launch = flat_launch(name, c.top_k, p.list)?;
    let body = move |k: &Kernel| {
        let pair = flat_index(k);
        k.if_(pair.lt(k.arg_i32(tokens) * c.top_k), || {
            let row = k.arg_global(slots).index(pair, 4).load::<I32>();
            let weight = k.arg_global(weights).index(pair, 4).load::<F32>();
            k.arg_global(out).index(row, 4).store(weight);
        });
    };
    Ok(Family::new(launch, body))
}

/// `append_expert`: a thread for each slot of the results.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn append_expert<'a>(name: &str, c: &'a AppendExpert) -> Result<Family<'a>, CodegenError> {
    let mut p = Params::default();
    let (experts, weights) = (p.pointer(), p.pointer());
    let (all_experts, all_weights) = (p.pointer(), p.pointer());
    let tokens = p.extent(0, 0);
    let slots = c.top_k + 1;
    let launch = flat_launch(name, slots, p.list)?;
    let body = move |k: &Kernel| {
        let pair = flat_index(k);
        k.if_(pair.lt(k.arg_i32(tokens) * slots), || {
            let token = pair.udiv(slots);
            // Slots of earlier tokens are one more each here.
            let before = pair - token;
            let is_old = (pair - token * slots).lt(c.top_k.cast_signed());
            let expert = k.var(k.i32(i64::from(c.expert)));
            let weight = k.var(k.f32(c.weight));
            k.if_(is_old, || {
                expert.set(k.arg_global(experts).index(before, 4).load());
                weight.set(k.arg_global(weights).index(before, 4).load());
            });
            k.arg_global(all_experts).index(pair, 4).store(expert.get());
            k.arg_global(all_weights).index(pair, 4).store(weight.get());
        });
    };
    Ok(Family::new(launch, body))
}

/// Threads of a block that works on (token, slot) pairs.
const PAIRS: u32 = 128;

/// A thread for each of `slots` slots of the tokens, which are axis 0 of operand 0.
fn flat_launch(name: &str, slots: u32, params: Vec<Param>) -> Result<Launch, CodegenError> {
    if slots == 0 {
        return Err(unsupported(name, "tokens without slots", "at least one"));
    }
    let tokens = Expr::Extent {
        operand: 0,
        axis: 0,
    };
    let pairs = Expr::Mul(vec![tokens, Expr::Const(u64::from(slots))]);
    Ok(Launch {
        grid: [
            Expr::CeilDiv(Box::new(pairs), u64::from(PAIRS)),
            Expr::Const(1),
            Expr::Const(1),
        ],
        block: PAIRS,
        cluster: 1,
        smem_bytes: 0,
        params,
    })
}

/// The pair of this thread.
fn flat_index(k: &Kernel) -> Val<'_, I32> {
    k.block_x() * PAIRS + k.tid()
}
