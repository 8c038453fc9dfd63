"""MLA decode in Triton: all heads share one latent cache, the context is split over programs.

First kernel: program (token, block of heads, split) runs the online softmax over its part of the context.
Second kernel: adds the parts up, weighted by their log-sum-exp.
"""

import triton
import triton.language as tl

# (BLOCK_H, BLOCK_C, warps, stages); from 64 heads on the products are wgmma.
CONFIGS = [(16, 32, 4, 2), (16, 64, 4, 2), (64, 32, 8, 2), (64, 64, 8, 2)]


@triton.jit
def part(
    q_ptr, cache_ptr, out_ptr, lse_ptr, T, C, scale, SPLITS, per_split, H: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    token, split = tl.program_id(0), tl.program_id(2)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    v, r = tl.arange(0, V), tl.arange(0, R)
    row = (token * H + head) * (V + R)
    q_latent = tl.load(q_ptr + row[:, None] + v[None, :])
    q_rope = tl.load(q_ptr + row[:, None] + V + r[None, :])
    # The token sees itself and what stands before it.
    visible = C - T + token + 1
    start = split * per_split
    end = tl.minimum(start + per_split, visible)

    highest = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    out = tl.zeros((BLOCK_H, V), tl.float32)
    for at in range(start, end, BLOCK_C):
        c = at + tl.arange(0, BLOCK_C)
        inside = c < end
        latent = tl.load(cache_ptr + c[:, None] * (V + R) + v[None, :], mask=inside[:, None], other=0.0)
        rope = tl.load(cache_ptr + c[:, None] * (V + R) + V + r[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(q_latent, tl.trans(latent)) + tl.dot(q_rope, tl.trans(rope))
        scores = tl.where(inside[None, :], scores * scale, float("-inf"))
        new = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - new[:, None])
        shrink = tl.exp(highest - new)
        out = out * shrink[:, None] + tl.dot(weights.to(latent.dtype), latent)
        total = total * shrink + tl.sum(weights, 1)
        highest = new

    # A split beyond the visible context has the weight exp(-inf) = 0.
    some = total > 0
    out = out / tl.where(some, total, 1.0)[:, None]
    at = (token * H + head) * SPLITS + split
    tl.store(out_ptr + at[:, None] * V + v[None, :], out)
    tl.store(lse_ptr + at, tl.where(some, highest + tl.log(tl.where(some, total, 1.0)), float("-inf")))


@triton.jit
def join(part_ptr, lse_ptr, out_ptr, SPLITS, V: tl.constexpr, MOST: tl.constexpr):
    at = tl.program_id(0)
    v, s = tl.arange(0, V), tl.arange(0, MOST)
    lse = tl.load(lse_ptr + at * SPLITS + s, mask=s < SPLITS, other=float("-inf"))
    weights = tl.exp(lse - tl.max(lse, 0))
    weights = weights / tl.sum(weights, 0)
    parts = tl.load(part_ptr + (at * SPLITS + s)[:, None] * V + v[None, :], mask=(s < SPLITS)[:, None], other=0.0)
    out = tl.sum(parts * weights[:, None], 0)
    tl.store(out_ptr + at * V + v, out.to(out_ptr.dtype.element_ty))


def variants(torch, q, cache, v, scale, sms):
    """Every variant, to choose from by measuring, and the tensor that each fills: [T, heads, v]."""
    out = torch.empty(q.shape[0], q.shape[1], v, dtype=q.dtype, device=q.device)
    return [decode(torch, q, cache, out, scale, sms, config) for config in CONFIGS], out


def decode(torch, q, cache, out, scale, sms, config):
    """A callable that computes `out` with one of CONFIGS."""
    block_h, block_c, warps, stages = config
    v = out.shape[2]
    tokens, heads, width = q.shape
    context = cache.shape[0]
    blocks = tokens * (heads // block_h)
    # Two programs an SM, a part of at least two blocks of the context.
    splits = max(1, min(2 * sms // blocks, context // (2 * block_c), 64))
    per_split = triton.cdiv(triton.cdiv(context, splits), block_c) * block_c
    parts = torch.empty(tokens, heads, splits, v, dtype=torch.float32, device=q.device)
    lse = torch.empty(tokens, heads, splits, dtype=torch.float32, device=q.device)

    def run():
        part[(tokens, heads // block_h, splits)](
            q, cache, parts, lse, tokens, context, scale, splits, per_split, H=heads, V=v, R=width - v,
            BLOCK_H=block_h, BLOCK_C=block_c, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        join[(tokens * heads,)](parts, lse, out, splits, V=v, MOST=triton.next_power_of_2(splits), num_warps=4)

    return run
