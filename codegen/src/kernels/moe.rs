//! Movement of tokens to experts and back: `moe_plan`, `expand` (together `dispatch`) and `combine`.
//!
//! Meaning: `dispatch` and `combine` of the graph IR on one rank; bit for bit.
//!
//! `moe_plan` is a stable counting sort: block e counts the (token, slot) pairs of smaller experts, which is
//! where its own rows begin, then walks the pairs in order and numbers its own. Every block reads all
//! pairs; they stay in L2.

use mcc_ir::kernel::{Combine, Expand, MoePlan};
use mcc_ir::program::Expr;

use super::row::{CHUNK, RowShape, bf16_at, load8, pack8, rows_launch};
use super::{Family, Launch, Params, unsupported};
use crate::emit::pipeline::SmemMap;
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

/// `expand`: the row of each (token, slot) pair.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn expand<'a>(name: &str, c: &'a Expand) -> Result<Family<'a>, CodegenError> {
    let element = if c.quant { 1 } else { 2 };
    let bytes = c.width * element;
    if bytes == 0 || !bytes.is_multiple_of(16) {
        return Err(unsupported(
            name,
            format!("rows of {bytes} bytes"),
            "a multiple of 16 bytes",
        ));
    }
    let mut p = Params::default();
    let x = p.matrix();
    let scales = c.quant.then(|| p.scales());
    let row_token_operand = if c.quant { 2 } else { 1 };
    let row_token = p.pointer();
    let out = p.matrix();
    let out_scales = c.quant.then(|| p.scales());
    let vectors = bytes / 16;
    let threads = vectors.next_multiple_of(32).min(256);
    let groups = c.width.div_ceil(128);
    let launch = rows_launch(threads, row_token_operand, SmemMap::default(), p.list);
    Ok(Family::new(launch, move |k| {
        copy_row(
            k,
            &Copy {
                row_token,
                from: x,
                to: out,
                element,
                vectors,
                threads,
            },
        );
        if let (Some(from), Some(to)) = (scales, out_scales) {
            copy_scales(k, row_token, from, to, groups, threads);
        }
    }))
}

/// Parameters of [`copy_row`].
struct Copy {
    row_token: usize,
    from: super::MatrixArg,
    to: super::MatrixArg,
    /// Bytes of an element.
    element: u32,
    /// 16-byte vectors of a row.
    vectors: u32,
    threads: u32,
}

fn copy_row<'k>(k: &'k Kernel, c: &Copy) {
    let row = k.block_x();
    let token = k.arg_global(c.row_token).index(row, 4).load::<I32>();
    let line = |m: super::MatrixArg, row: Val<'k, I32>| {
        k.arg_global(m.pointer)
            .at(row.to_i64() * k.arg_i32(m.stride).to_i64() * i64::from(c.element))
    };
    let (from, to) = (line(c.from, token), line(c.to, row));
    k.for_(k.tid(), c.vectors, c.threads, |i| {
        let v: [Val<'k, I32>; 4] = from.index(i, 16).load_vec();
        to.index(i, 16).store_vec(v);
    });
}

fn copy_scales<'k>(
    k: &'k Kernel,
    row_token: usize,
    from: super::ScalesArg,
    to: super::ScalesArg,
    groups: u32,
    threads: u32,
) {
    let row = k.block_x();
    let token = k.arg_global(row_token).index(row, 4).load::<I32>();
    k.for_(k.tid(), groups, threads, |g| {
        let at = |m: super::ScalesArg, row: Val<'k, I32>| {
            let index = g.to_i64() * k.arg_i32(m.stride).to_i64() + row.to_i64();
            k.arg_global(m.pointer).at(index * 4)
        };
        at(to, row).store(at(from, token).load::<F32>());
    });
}

/// `combine`: FP32 sums in slot order, one rounding.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn combine<'a>(name: &str, c: &'a Combine) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let y = p.matrix();
    let (slots, weights) = (p.pointer(), p.pointer());
    let out = p.matrix();
    let body = move |k: &Kernel| {
        let token = k.block_x();
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            shape.inside(k, i, chunk, || {
                let mut acc = [k.f32(0.0); 8];
                for slot in 0..c.top_k {
                    let pair = token * c.top_k + slot;
                    let row = k.arg_global(slots).index(pair, 4).load::<I32>();
                    let weight = k.arg_global(weights).index(pair, 4).load::<F32>();
                    let v = load8(bf16_at(
                        k.arg_global(y.pointer),
                        row,
                        k.arg_i32(y.stride),
                        chunk * CHUNK,
                    ));
                    acc = std::array::from_fn(|j| weight.fma(v[j], acc[j]));
                }
                bf16_at(
                    k.arg_global(out.pointer),
                    token,
                    k.arg_i32(out.stride),
                    chunk * CHUNK,
                )
                .store_vec(pack8(k, &acc));
            });
        }
    };
    Ok(Family::new(
        shape.launch(1, SmemMap::default(), p.list),
        body,
    ))
}
