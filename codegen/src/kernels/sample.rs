//! `sample`: the next token of a row of logits, greedy or from a nucleus; one block a row.
//!
//! Meaning: the op `sample`. Temperature 0: the largest logit, lowest index on ties. Otherwise probabilities
//! `e^((l - max) / temperature)`; kept are the tokens of which the strictly larger ones have less than
//! `top_p` of the mass; the choice walks the kept tokens in index order. No sort: the kept tokens are those
//! at or above a threshold, which bisection over the 32 bits of the logits' order finds.
//!
//! Thread t holds the tokens `t * span ..`, in index order. Sums are FP32: each thread's tokens in order, then
//! the threads' sums in order, so that all comparisons see one order of addition.

use mcc_ir::kernel::Sample;

use super::row::rows_launch;
use super::{Family, Params, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{B1, F32, I32, Kernel, Val};
use crate::error::CodegenError;

const MAX_THREADS: u32 = 256;

/// Orders FP32 by their bits: a larger float has a larger signed key.
fn key<'k>(x: Val<'k, F32>) -> Val<'k, I32> {
    // +0 and -0 are equal as logits; adding +0 makes them equal in bits.
    let bits = (x + 0.0).to_bits();
    bits ^ ((bits >> 31) & i32::MAX)
}

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a Sample) -> Result<Family<'a>, CodegenError> {
    if c.vocab == 0 || c.vocab > 1 << 24 {
        return Err(unsupported(
            name,
            format!("a vocabulary of {}", c.vocab),
            "1 to 16777216",
        ));
    }
    let mut p = Params::default();
    let logits = p.matrix();
    let (temperature, top_p, uniform, out) = (p.pointer(), p.pointer(), p.pointer(), p.pointer());
    let threads = c.vocab.div_ceil(8).next_multiple_of(32).min(MAX_THREADS);
    let span = c.vocab.div_ceil(threads);
    let mut smem = SmemMap::default();
    let values = smem.reserve(4 * threads, 4);
    let indices = smem.reserve(4 * threads, 4);
    let launch = rows_launch(threads, 0, smem, p.list);
    let args = Args {
        logits,
        temperature,
        top_p,
        uniform,
        out,
        threads,
        span,
        values,
        indices,
    };
    Ok(Family::new(launch, move |k| body(k, c, args)))
}

/// Parameters and shape of the body.
#[derive(Clone, Copy)]
struct Args {
    logits: super::MatrixArg,
    temperature: usize,
    top_p: usize,
    uniform: usize,
    out: usize,
    threads: u32,
    /// Tokens a thread.
    span: u32,
    /// Shared-memory offsets: one FP32 and one I32 a thread.
    values: u32,
    indices: u32,
}

fn body<'k>(k: &'k Kernel, c: &Sample, a: Args) {
    let row_index = k.block_x();
    let row = k
        .arg_global(a.logits.pointer)
        .at(row_index.to_i64() * k.arg_i32(a.logits.stride).to_i64() * 4);
    let (values, indices) = (k.smem().offset(a.values), k.smem().offset(a.indices));
    let begin = k.tid() * a.span;
    let end = (begin + a.span).min(c.vocab.cast_signed());
    let logit = |i: Val<'k, I32>| row.index(i, 4).load::<F32>();
    let argument = |p: usize| k.arg_global(p).index(row_index, 4).load::<F32>();

    // The largest logit and its first index, in every thread.
    let best = k.var(k.f32(f32::NEG_INFINITY));
    let place = k.var(begin.min(c.vocab.cast_signed() - 1));
    k.for_(begin, end, 1, |i| {
        let x = logit(i);
        let better = x.fgt(best.get());
        best.set(better.select(x, best.get()));
        place.set(better.select(i, place.get()));
    });
    values.at(k.tid() * 4).store(best.get());
    indices.at(k.tid() * 4).store(place.get());
    k.sync_threads();
    let (max, argmax) = (k.var(values.load::<F32>()), k.var(indices.load::<I32>()));
    k.for_(1, a.threads, 1, |t| {
        let x = values.at(t * 4).load::<F32>();
        let better = x.fgt(max.get());
        max.set(better.select(x, max.get()));
        argmax.set(better.select(indices.at(t * 4).load(), argmax.get()));
    });
    k.sync_threads();

    let store = |token: Val<'k, I32>| k.arg_global(a.out).index(row_index, 4).store(token);
    let t = argument(a.temperature);
    k.if_else(
        t.fgt(0.0),
        || {
            let probability = |i: Val<'k, I32>| k.exp((logit(i) - max.get()) / t);
            // Mass of the tokens whose key is above (or at) `bound`; `values` keeps the threads' parts.
            let mass = |bound: Val<'k, I32>, strict: bool| {
                let own = k.var(k.f32(0.0));
                k.for_(begin, end, 1, |i| {
                    let order = key(logit(i));
                    let kept: Val<'k, B1> = if strict {
                        order.gt(bound)
                    } else {
                        order.ge(bound)
                    };
                    own.update(|m| m + kept.select(probability(i), k.f32(0.0)));
                });
                k.sync_threads();
                values.at(k.tid() * 4).store(own.get());
                k.sync_threads();
                let total = k.var(k.f32(0.0));
                k.for_(0, a.threads, 1, |t| {
                    total.update(|m| m + values.at(t * 4).load::<F32>())
                });
                total.get()
            };
            let everything = k.i32(i64::from(i32::MIN));
            let limit = argument(a.top_p) * mass(everything, false);
            // The smallest key above which less than the limit lies, bit by bit from the top. The
            // first step decides the sign; keys are signed.
            let threshold = k.var(everything);
            k.if_(argument(a.top_p).flt(1.0), || {
                let (low, high) = (k.var(everything), k.var(key(max.get())));
                k.while_(
                    || low.get().lt(high.get()),
                    || {
                        // Floor of the mean without overflow.
                        let (a, b) = (low.get(), high.get());
                        let middle = (a & b) + ((a ^ b) >> 1);
                        let fits = mass(middle, true).flt(limit);
                        high.set(fits.select(middle, b));
                        low.set(fits.select(a, middle + 1));
                    },
                );
                threshold.set(high.get());
            });
            let kept = mass(threshold.get(), false);
            let target = argument(a.uniform) * kept;
            // Thread 0 finds whose span the target falls into, then walks that span.
            k.if_(k.tid().eq(0), || {
                let before = k.var(k.f32(0.0));
                let owner = k.var(k.i32(0));
                let searching = k.var(k.i32(1));
                k.while_(
                    || searching.get().ne(0) & owner.get().lt(a.threads.cast_signed() - 1),
                    || {
                        let after = before.get() + values.at(owner.get() * 4).load::<F32>();
                        let here = after.fgt(target);
                        searching.set(here.select(k.i32(0), searching.get()));
                        before.set(here.select(before.get(), after));
                        owner.set(here.select(owner.get(), owner.get() + 1));
                    },
                );
                // Rounding can leave the target behind the last kept token: then that one is it.
                let token = k.var(argmax.get());
                let sum = k.var(before.get());
                let open = k.var(k.i32(1));
                let from = owner.get() * a.span;
                k.for_(from, (from + a.span).min(c.vocab.cast_signed()), 1, |i| {
                    let kept = key(logit(i)).ge(threshold.get()) & open.get().ne(0);
                    k.if_(kept, || {
                        sum.update(|s| s + probability(i));
                        token.set(i);
                        open.set(sum.get().fgt(target).select(k.i32(0), open.get()));
                    });
                });
                store(token.get());
            });
        },
        || k.if_(k.tid().eq(0), || store(argmax.get())),
    );
}
