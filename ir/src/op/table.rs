//! The rows of the op table; [`super`] says what a row is made of.

use super::{AttrDecl, OpRow, Place, TypeError, ValueDecl};
use crate::attr::{Attr, AttrValue};
use crate::infer::{self, GroupAttrs, Signature};
use crate::kernel::NO_PROMOTION;
use crate::types::{DType, Dim, F32, Name, Type};

/// The attributes that say over which ranks an op goes.
macro_rules! group {
    ($n_experts:ident, $nodes:ident, $gpus:ident, $tokens:ident) => {
        GroupAttrs {
            n_experts: *$n_experts,
            nodes: *$nodes,
            gpus: *$gpus,
            tokens: *$tokens,
        }
    };
}

op_table! {
    /// Selects rows of a table: an embedding lookup, or the rows that need logits.
    ///
    /// `out[r, :] = table[index[r], :]`; of a block-scaled table codes and scales alike.
    "gather" Gather(table: "bf16[N, D] or e4m3[N, D]/f32[1x128]", index: "i32[R]")
        -> (out: "bf16[R, D] or e4m3[R, D]/f32[1x128]") = gather();

    /// Elementwise sum, computed in f32 and rounded once.
    "add" Add(a: "bf16[..] or f32[..]", b: "bf16[..] or f32[..]") -> (out: "bf16[..] or f32[..]") = add();

    /// Root-mean-square normalisation of the last axis.
    ///
    /// `out = x * rsqrt(mean(x^2) + eps) * w` in f32, rounded once.
    "rms_norm" RmsNorm(x: "bf16[.., D]", w: "bf16[D]") {
        /// Added to the mean of squares.
        eps: F32,
    } -> (out: "bf16[.., D]") = rms_norm(*eps);

    /// Quantises the last axis to E4M3 in groups of 128.
    ///
    /// `amax = max(max |x|, 1e-4)` over the group, `s = amax / 448`, `q = e4m3(x / s)`: true divisions, nearest
    /// even, saturating. The last group may be partial.
    "quantize" Quantize(x: "bf16[.., K]") -> (out: "e4m3[.., K]/f32[1x128]") = quantize();

    /// `quantize` with longer groups, for products that the tensor core sums up over more than 128 of K.
    "quantize_wide" QuantizeWide(x: "bf16[.., K]") {
        /// Elements that share a scale: 256 or 512; `none`: all of the last axis, which is then constant.
        group: u32 | none = NO_PROMOTION,
    } -> (out: "e4m3[.., K]/f32[1xG]") = quantize_wide(*group);

    /// `quantize` with scales that are powers of two: `s = 2^ceil(log2(amax / 448))`.
    ///
    /// Codes of a group whose scale changes by powers of two hold the same numbers, so a value may be quantised
    /// again, in other groups, without a second rounding of what both groups can hold.
    "quantize_pow2" QuantizePow2(x: "bf16[.., K]") -> (out: "e4m3[.., K]/f32[1x128]") = quantize();

    /// Multiplies each row by its own weight, in f32, rounded once.
    ///
    /// `out[.., d] = x[.., d] * s[..]`
    "scale_rows" ScaleRows(x: "bf16[.., D]", s: "f32[..]") -> (out: "bf16[.., D]") = scale_rows();

    /// Code times scale in f32, rounded to bf16.
    "dequantize" Dequantize(x: "e4m3[.., N, K]/f32[1x128] or e4m3[.., N, K]/f32[128x128]") -> (out: "bf16[.., N, K]") = dequantize();

    /// Matrix product `out[m, n] = sum_k x[m, k] * w[n, k]`.
    ///
    /// Block-scaled operands are defined bit for bit: for each `promote` of K in turn, the tensor core sums the
    /// products of codes into `p`, from zero and with its own truncation, then `acc = fma(s, p, acc)` in f32 where
    /// `s` is the f32 product of the two scales; `acc` is rounded to `out` at the end. Where the interval is longer
    /// than 128, so are the scale groups along K, of both operands: `f32[1x256]` and `f32[128x256]`. bf16 operands
    /// accumulate in f32 in an order that is not defined.
    "matmul" Matmul(x: "bf16[M, K] or e4m3[M, K]/f32[1x128]", w: "bf16[N, K] or e4m3[N, K]/f32[128x128]") {
        /// `bf16` or `f32`.
        out: DType,
        /// Products summed by the tensor core before they are added to the f32 accumulator: 32, 64 or 128; 256 or
        /// 512 where scale groups are that long; `none` where a group is all of K. Of no effect on bf16 operands.
        promote: u32 | none = NO_PROMOTION,
    } -> (out: "out[M, N]") = matmul(*out, *promote);

    /// One matrix product for each head: `out[m, h, n] = sum_k x[m, h, k] * w[h, n, k]`, f32 accumulation.
    "batched_matmul" BatchedMatmul(x: "bf16[M, H, K]", w: "bf16[H, N, K]") {
        /// `bf16` or `f32`.
        out: DType,
    } -> (out: "out[M, H, N]") = batched_matmul(*out);

    /// One matrix product for each expert over its rows of `x`.
    ///
    /// `out[r, n] = sum_k x[r, k] * w[e, n, k]` for the `e` with `offsets[e] <= r < offsets[e + 1]`; numerics of
    /// `matmul`. Offsets rise from 0. Rows from `offsets[E]` on have no meaning: the evaluator gives zeros, kernels
    /// leave what was there.
    "grouped_matmul" GroupedMatmul(
        x: "bf16[R, K] or e4m3[R, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        offsets: "i32[E + 1]"
    ) {
        /// `bf16` or `f32`.
        out: DType,
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (out: "out[R, N]") = grouped_matmul(*out, *promote);

    /// One matrix product for each expert over the rows in use of its part of `x`.
    ///
    /// `out[e, c, n] = sum_k x[e, c, k] * w[e, n, k]` for `c < counts[e]`; numerics of `matmul`. The other rows of
    /// `out` have no meaning: the evaluator gives zeros, kernels leave what was there.
    "masked_matmul" MaskedMatmul(
        x: "bf16[E, C, K] or e4m3[E, C, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        counts: "i32[E]"
    ) {
        /// `bf16` or `f32`.
        out: DType,
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (out: "out[E, C, N]") = masked_matmul(*out, *promote);

    /// Adds each expert's weight gradient to what has been accumulated, in place.
    ///
    /// `out[e, m, n] = acc[e, m, n] + p`, one f32 addition, with `p = sum_k x[m, k] * y[n, k]` over the `k` with
    /// `offsets[e] <= k < offsets[e + 1]`. K counts tokens; it is constant, or a multiple of 128 of a named dim.
    /// Offsets rise, by any step; where an expert has no tokens `acc` stays as it is.
    ///
    /// Block-scaled operands have the numerics of `matmul` with a scale for each row and 128 of K on both sides.
    /// Groups and intervals lie where they lie in all of K: of a group that an offset cuts, the codes of other
    /// experts count as zero.
    "weight_grad" WeightGrad(
        x: "bf16[M, K] or e4m3[M, K]/f32[1x128]",
        y: "bf16[N, K] or e4m3[N, K]/f32[1x128]",
        offsets: "i32[E + 1]",
        acc: "f32[E, M, N]"
    ) {
        /// As for `matmul`: 32, 64 or 128.
        promote: u32,
    } -> (out: "f32[E, M, N]") = weight_grad(*promote);

    /// Gated activation: `out = silu(gate) * up` in f32, rounded once.
    ///
    /// The left half of the last axis is the gate, the right half is up.
    "swiglu" Swiglu(x: "bf16[.., 2*I]") -> (out: "bf16[.., I]") = swiglu();

    /// Rotary embedding of some channels of the last axis.
    ///
    /// Channels `start..start + dr` are pairs `(2i, 2i+1)` rotated by `table[positions[t], i] = (cos, sin)` in
    /// f32 and rounded once; the others are copied. `dr` is twice the table's middle axis.
    "rope" Rope(x: "bf16[T, D] or bf16[T, H, D]", positions: "i32[T]", table: "f32[P, dr/2, 2]") {
        /// First rotated channel.
        start: u64,
    } -> (out: "bf16[T, D] or bf16[T, H, D]") = rope(*start);

    /// A contiguous part of one axis.
    "slice" Slice(x: "any") {
        /// The axis, outermost is 0; its extent is constant.
        axis: usize,
        /// First index taken.
        start: u64,
        /// Indices taken.
        len: u64,
    } -> (out: "any") = slice(*axis, *start, *len);

    /// Joins values along one axis.
    "concat" Concat(; xs: "any") {
        /// The axis, outermost is 0.
        axis: usize,
    } -> (out: "any") = concat(*axis);

    /// The same elements, in row-major order, under another shape.
    "reshape" Reshape(x: "any") {
        /// The shape of the result.
        shape: Vec<Dim>,
    } -> (out: "any") = reshape(shape);

    /// Swaps two axes. Of a block-scaled value the scale blocks are as long along one as along the other.
    "transpose" Transpose(x: "any") {
        /// One axis, outermost is 0.
        a: usize,
        /// The other one.
        b: usize,
    } -> (out: "any") = transpose(*a, *b);

    /// Repeats a value along an axis of extent 1.
    "expand" Expand(x: "any") {
        /// The axis, outermost is 0; scale blocks do not run along it.
        axis: usize,
        /// Its extent in the result.
        len: u64,
    } -> (out: "any") = expand(*axis, *len);

    /// Writes this step's rows into a cache: the result is `cache` with row `positions[t]` replaced by `x[t]`.
    "cache_write" CacheWrite(cache: "bf16[C, D]", x: "bf16[T, D]", positions: "i32[T]") -> (out: "bf16[C, D]") = cache_write();

    /// Causal attention with a rotated key part that all heads share.
    ///
    /// `score[t, h, j] = scale * (q[t, h] . k[j, hk] + q_rope[t, h] . k_rope[j])` in f32; key `j` is visible to
    /// query `t` iff `j <= positions[t]`; softmax in f32; probabilities are rounded to bf16 before they multiply
    /// `v`. `hk` is `h`, or 0 when there is one key head (absorbed MLA, where `k = v =` the latent).
    "attention" Attention(
        q: "bf16[T, H, dk]",
        q_rope: "bf16[T, H, dr]",
        k: "bf16[C, Hk, dk]",
        k_rope: "bf16[C, dr]",
        v: "bf16[C, Hk, dv]",
        positions: "i32[T]"
    ) {
        /// Factor on the scores.
        scale: F32,
    } -> (out: "bf16[T, H, dv]") = attention(*scale);

    /// Chooses experts by sigmoid scores within the best groups.
    ///
    /// `s = sigmoid(logits)`, `z = s + bias` in f32. Experts form `n_group` groups of neighbours; a group's score
    /// is the sum of its two largest `z`; `z` outside of the `topk_group` best groups becomes minus infinity.
    /// Experts come in descending order of `z`, ties by lowest index. Weights are `s` at those, divided by their
    /// sum (slot order, starting from 1e-20) if `normalize`, times `scaling`.
    "route" Route(logits: "f32[T, E]", bias: "f32[E]") {
        /// Experts a token.
        top_k: u32,
        /// Groups of neighbouring experts.
        n_group: u32,
        /// Groups kept.
        topk_group: u32,
        /// Factor on the weights.
        scaling: F32,
        /// Whether weights are divided by their sum.
        normalize: bool,
    } -> (experts: "i32[T, k]", weights: "f32[T, k]") = route(*top_k, *n_group, *topk_group, *scaling);

    /// Adds one more expert to each token's: a shared expert, as one that is always chosen.
    ///
    /// `experts[t, k] = expert`, `weights[t, k] = weight`; the slots before are copied.
    "append_expert" AppendExpert(experts: "i32[T, k]", weights: "f32[T, k]") {
        /// Number of the expert.
        expert: u32,
        /// Its weight for every token.
        weight: F32,
    } -> (experts: "i32[T, k + 1]", weights: "f32[T, k + 1]") = append_expert(*weight);

    /// Copies each token's row once for each of its experts, grouped by expert.
    ///
    /// Expert `e` owns `rows[offsets[e]..offsets[e + 1]]`, in ascending order of the flat (token, slot) index,
    /// without padding. `slots[t, s]` is the row of token `t` in slot `s`.
    "dispatch" Dispatch(x: "bf16[T, D] or e4m3[T, D]/f32[1x128]", experts: "i32[T, k]") {
        /// Number of experts.
        n_experts: u32,
    } -> (
        rows: "bf16[k*T, D] or e4m3[k*T, D]/f32[1x128]",
        offsets: "i32[E + 1]",
        slots: "i32[T, k]"
    ) = dispatch(*n_experts);

    /// Weighted sum of each token's expert rows.
    ///
    /// `out[t] = sum_s weights[t, s] * y[slots[t, s]]`, f32 fused multiply-adds in slot order from 0, rounded once.
    "combine" Combine(y: "bf16[k*T, D]", slots: "i32[T, k]", weights: "f32[T, k]") -> (out: "bf16[T, D]") = combine();

    /// The weight of each row of `dispatch`: `out[slots[t, s]] = weights[t, s]`.
    "row_weights" RowWeights(slots: "i32[T, k]", weights: "f32[T, k]") -> (out: "f32[k*T]") = row_weights_of_slots();

    /// Sum of each token's expert rows: `combine` of rows that carry their weights.
    ///
    /// `out[t] = sum_s y[slots[t, s]]`, f32 additions in slot order from 0, rounded once.
    "combine_sum" CombineSum(y: "bf16[k*T, D]", slots: "i32[T, k]") -> (out: "bf16[T, D]") = combine_sum();

    /// `dispatch` to the ranks that hold the experts, in two hops: over the network to one GPU of each node, then
    /// on inside the node.
    ///
    /// The `n_experts` lie on `nodes * gpus` ranks, `L = n_experts / ranks` in a row on each; every rank has its own
    /// `T <= tokens`. Rows of the rank's expert `l` are `rows[offsets[l]..offsets[l + 1]]`, ordered by source rank, there
    /// by the flat (token, slot) index, without padding; rows from `offsets[L]` on have no meaning (the evaluator gives
    /// zeros), and it is an error when they are more than `capacity`. `row_weights` are the weights that came with
    /// the rows. `record` is opaque: what the way back needs to know; the evaluator gives zeros.
    "dispatch_two_hop" DispatchTwoHop(
        x: "bf16[T, D] or e4m3[T, D]/f32[1x128]",
        experts: "i32[T, k]",
        weights: "f32[T, k]"
    ) {
        /// Number of experts on all ranks, copies counted.
        n_experts: u32,
        /// Nodes that the experts are spread over.
        nodes: u32,
        /// GPUs of each node; one rank each, numbered node by node.
        gpus: u32,
        /// Most tokens of any rank.
        tokens: u32,
        /// Rows that the result has room for.
        capacity: u32,
        /// Thread blocks that move rows.
        channels: u32,
    } -> (
        rows: "bf16[S, D] or e4m3[S, D]/f32[1x128]",
        offsets: "i32[L + 1]",
        row_weights: "f32[S]",
        record: "i32[W]"
    ) = dispatch_two_hop(group!(n_experts, nodes, gpus, tokens), *capacity, *channels);

    /// The way back of `dispatch_two_hop`: sums in each rank, then in each node, then over nodes.
    ///
    /// With the row of (token, slot) where `dispatch_two_hop` put it, for each token: for each rank `g` that holds one
    /// or more of its experts `p_g = bf16(sum over its slots on g of weight * y)`, f32 fused multiply-adds in slot
    /// order from 0; for each node with such ranks `q_n = bf16(sum of p_g)` in the order of ranks; `out = bf16(sum of
    /// q_n)` in the order of nodes; all sums in f32 from 0. The weights are those that came with the rows.
    "combine_two_hop" CombineTwoHop(
        y: "bf16[S, D]",
        experts: "i32[T, k]",
        weights: "f32[T, k]",
        record: "i32[W]"
    ) {
        /// As for `dispatch_two_hop`.
        n_experts: u32,
        /// As for `dispatch_two_hop`.
        nodes: u32,
        /// As for `dispatch_two_hop`.
        gpus: u32,
        /// As for `dispatch_two_hop`.
        tokens: u32,
        /// As for `dispatch_two_hop`.
        capacity: u32,
        /// As for `dispatch_two_hop`.
        channels: u32,
        /// Whether rows are multiplied by their weights; `false` where they carry them already.
        weighted: bool,
    } -> (out: "bf16[T, D]") = combine_two_hop(group!(n_experts, nodes, gpus, tokens), *capacity, *channels);

    /// `dispatch` to the ranks that hold the experts, each row straight to its place there: for few tokens.
    ///
    /// Ranks and experts as for `dispatch_two_hop`. Rows of the rank's expert `l` are `rows[l, 0..counts[l]]`, ordered
    /// by source rank, there by the flat (token, slot) index; the other rows of `S = nodes * gpus * tokens` have no
    /// meaning (the evaluator gives zeros). A token's experts are different ones. What `masked_matmul` takes.
    "dispatch_direct" DispatchDirect(
        x: "bf16[T, D] or e4m3[T, D]/f32[1x128]",
        experts: "i32[T, k]",
        weights: "f32[T, k]"
    ) {
        /// As for `dispatch_two_hop`.
        n_experts: u32,
        /// As for `dispatch_two_hop`.
        nodes: u32,
        /// As for `dispatch_two_hop`.
        gpus: u32,
        /// As for `dispatch_two_hop`.
        tokens: u32,
    } -> (
        rows: "bf16[L, S, D] or e4m3[L, S, D]/f32[1x128]",
        counts: "i32[L]",
        row_weights: "f32[L, S]",
        record: "i32[W]"
    ) = dispatch_direct(group!(n_experts, nodes, gpus, tokens));

    /// The way back of `dispatch_direct`: rows come as they are, and the source rank sums them.
    ///
    /// `out[t] = bf16(sum over slots of weights[t, s] * y(t, s))`, f32 fused multiply-adds in slot order from 0: the
    /// bits of `combine` on one rank, or of `combine_sum`.
    "combine_direct" CombineDirect(
        y: "bf16[L, S, D]",
        experts: "i32[T, k]",
        weights: "f32[T, k]",
        record: "i32[W]"
    ) {
        /// As for `dispatch_two_hop`.
        n_experts: u32,
        /// As for `dispatch_two_hop`.
        nodes: u32,
        /// As for `dispatch_two_hop`.
        gpus: u32,
        /// As for `dispatch_two_hop`.
        tokens: u32,
        /// As for `combine_two_hop`.
        weighted: bool,
    } -> (out: "bf16[T, D]") = combine_direct(group!(n_experts, nodes, gpus, tokens));

    /// Chooses one of the copies of each expert: from logical numbers to physical ones.
    ///
    /// `out[t, s] = table[e, (rank + t * 23333) mod copies[e]]` with `e = experts[t, s]`, where `rank` counts the ranks
    /// that the experts are spread over: a rule that needs no talk between ranks and spreads tokens evenly.
    "replica" Replica(experts: "i32[T, k]", table: "i32[E, X]", copies: "i32[E]") -> (out: "i32[T, k]") = replica();

    /// Adds up how often each expert was chosen: the load statistics of a rank.
    ///
    /// `out[e] = load[e] +` the number of `(t, s)` with `experts[t, s] = e`, modulo 2^32.
    "count_experts" CountExperts(load: "i32[E]", experts: "i32[T, k]") -> (out: "i32[E]") = count_experts();

    /// Draws a token for each row.
    ///
    /// Temperature 0: the largest logit, lowest index on ties. Else `p_i = exp((l_i - max) / temperature)`; the
    /// nucleus keeps every `i` for which the mass of strictly larger logits is below `top_p` times the total, so
    /// ties are all kept; the result is the lowest `i` whose cumulative kept mass, in index order, exceeds
    /// `uniform` times the kept mass.
    "sample" Sample(logits: "f32[R, V]", temperature: "f32[R]", top_p: "f32[R]", uniform: "f32[R]") -> (token: "i32[R]") = sample();

    /// `y = rms_norm(x, w); q = quantize(y)`
    "rms_norm_quantize" RmsNormQuantize(x: "bf16[.., D]", w: "bf16[D]") {
        /// As for `rms_norm`.
        eps: F32,
    } -> (y: "bf16[.., D]", q: "e4m3[.., D]/f32[1x128]") fused = rms_norm_quantize(*eps);

    /// `sum = add(x, r); y = rms_norm(sum, w)`
    "add_rms_norm" AddRmsNorm(x: "bf16[.., D]", r: "bf16[.., D]", w: "bf16[D]") {
        /// As for `rms_norm`.
        eps: F32,
    } -> (sum: "bf16[.., D]", y: "bf16[.., D]") fused = add_rms_norm(*eps);

    /// `sum = add(x, r); y = rms_norm(sum, w); q = quantize(y)`
    "add_rms_norm_quantize" AddRmsNormQuantize(x: "bf16[.., D]", r: "bf16[.., D]", w: "bf16[D]") {
        /// As for `rms_norm`.
        eps: F32,
    } -> (sum: "bf16[.., D]", y: "bf16[.., D]", q: "e4m3[.., D]/f32[1x128]") fused = add_rms_norm_quantize(*eps);

    /// `out = add(combine(y, slots, weights), r)`
    "combine_add" CombineAdd(y: "bf16[k*T, D]", slots: "i32[T, k]", weights: "f32[T, k]", r: "bf16[T, D]")
        -> (out: "bf16[T, D]") fused = combine_add();

    /// `sum = add(combine(y, slots, weights), r); y = rms_norm(sum, w); q = quantize(y)`
    "combine_add_rms_norm_quantize" CombineAddRmsNormQuantize(
        y: "bf16[k*T, D]",
        slots: "i32[T, k]",
        weights: "f32[T, k]",
        r: "bf16[T, D]",
        w: "bf16[D]"
    ) {
        /// As for `rms_norm`.
        eps: F32,
    } -> (sum: "bf16[T, D]", y: "bf16[T, D]", q: "e4m3[T, D]/f32[1x128]") fused = combine_add_rms_norm_quantize(*eps);

    /// `q = quantize(swiglu(x))`
    "swiglu_quantize" SwigluQuantize(x: "bf16[.., 2*I]") -> (q: "e4m3[.., I]/f32[1x128]") fused = swiglu_quantize();

    /// `out = add(matmul(x, w), r)`
    "matmul_add" MatmulAdd(
        x: "bf16[M, K] or e4m3[M, K]/f32[1x128]",
        w: "bf16[N, K] or e4m3[N, K]/f32[128x128]",
        r: "out[M, N]"
    ) {
        /// `bf16` or `f32`.
        out: DType,
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (out: "out[M, N]") fused = matmul_add(*out, *promote);

    /// `q = quantize(swiglu(matmul(x, w) {out = bf16}))`
    "matmul_swiglu_quantize" MatmulSwigluQuantize(
        x: "bf16[M, K] or e4m3[M, K]/f32[1x128]",
        w: "bf16[N, K] or e4m3[N, K]/f32[128x128]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[M, N/2]/f32[1x128]") fused = matmul_swiglu_quantize(*promote);

    /// `q = quantize(scale_rows(swiglu(matmul(x, w) {out = bf16}), s))`
    "matmul_swiglu_scale_quantize" MatmulSwigluScaleQuantize(
        x: "bf16[M, K] or e4m3[M, K]/f32[1x128]",
        w: "bf16[N, K] or e4m3[N, K]/f32[128x128]",
        s: "f32[M]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[M, N/2]/f32[1x128]") fused = matmul_swiglu_scale_quantize(*promote);

    /// `q = quantize(swiglu(grouped_matmul(x, w, offsets) {out = bf16}))`
    "grouped_matmul_swiglu_quantize" GroupedMatmulSwigluQuantize(
        x: "bf16[R, K] or e4m3[R, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        offsets: "i32[E + 1]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[R, N/2]/f32[1x128]") fused = grouped_matmul_swiglu_quantize(*promote);

    /// `q = quantize(scale_rows(swiglu(grouped_matmul(x, w, offsets) {out = bf16}), s))`
    "grouped_matmul_swiglu_scale_quantize" GroupedMatmulSwigluScaleQuantize(
        x: "bf16[R, K] or e4m3[R, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        offsets: "i32[E + 1]",
        s: "f32[R]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[R, N/2]/f32[1x128]") fused = grouped_matmul_swiglu_scale_quantize(*promote);

    /// `q = quantize(swiglu(masked_matmul(x, w, counts) {out = bf16}))`
    "masked_matmul_swiglu_quantize" MaskedMatmulSwigluQuantize(
        x: "bf16[E, C, K] or e4m3[E, C, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        counts: "i32[E]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[E, C, N/2]/f32[1x128]") fused = masked_matmul_swiglu_quantize(*promote);

    /// `q = quantize(scale_rows(swiglu(masked_matmul(x, w, counts) {out = bf16}), s))`
    "masked_matmul_swiglu_scale_quantize" MaskedMatmulSwigluScaleQuantize(
        x: "bf16[E, C, K] or e4m3[E, C, K]/f32[1x128]",
        w: "bf16[E, N, K] or e4m3[E, N, K]/f32[128x128]",
        counts: "i32[E]",
        s: "f32[E, C]"
    ) {
        /// As for `matmul`.
        promote: u32 | none = NO_PROMOTION,
    } -> (q: "e4m3[E, C, N/2]/f32[1x128]") fused = masked_matmul_swiglu_scale_quantize(*promote);

    /// Normalises, rotates and caches the compressed key-value row of MLA.
    ///
    /// With `dc` the length of `w`: `latent = rms_norm(slice(kv, 0, dc), w)`,
    /// `row = rope(concat(latent, slice(kv, dc..)), positions, table) {start = dc}`,
    /// `out = cache_write(cache, row, positions)`.
    "mla_cache_write" MlaCacheWrite(
        cache: "bf16[C, dc + dr]",
        kv: "bf16[T, dc + dr]",
        w: "bf16[dc]",
        positions: "i32[T]",
        table: "f32[P, dr/2, 2]"
    ) {
        /// Of the norm of the latent.
        eps: F32,
    } -> (out: "bf16[C, dc + dr]") fused = mla_cache_write(*eps);
}
