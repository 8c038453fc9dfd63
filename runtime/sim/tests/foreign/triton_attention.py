"""Flash attention, forward, causal: FP16 heads of 64, on `wgmma`.

A block has 64 queries of one head and passes over the keys up to its diagonal
with a running maximum and sum; loads are pipelined by the compiler.
"""

import triton
import triton.language as tl


@triton.jit
def attention(
    out, lse, q, k, v, length, scale, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    block, head = tl.program_id(0), tl.program_id(1)
    base = head * length * D
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    qs = tl.load(q + base + rows[:, None] * D + d[None, :], mask=rows[:, None] < length, other=0.0)
    top = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, D], dtype=tl.float32)
    # Exponentials are taken to base 2.
    scale = scale * 1.4426950408889634
    for at in range(0, tl.minimum((block + 1) * BLOCK_M, length), BLOCK_N):
        cols = at + tl.arange(0, BLOCK_N)
        inside = cols < length
        ks = tl.load(k + base + cols[None, :] * D + d[:, None], mask=inside[None, :], other=0.0)
        s = tl.dot(qs, ks) * scale
        s = tl.where(rows[:, None] >= cols[None, :], s, -float("inf"))
        new_top = tl.maximum(top, tl.max(s, axis=1))
        p = tl.exp2(s - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(p, axis=1)
        vs = tl.load(v + base + cols[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        acc = acc * shrink[:, None]
        acc = tl.dot(p.to(tl.float16), vs, acc)
        top = new_top
    acc = acc / total[:, None]
    tl.store(lse + head * length + rows, top + tl.log2(total), mask=rows < length)
    tl.store(
        out + base + rows[:, None] * D + d[None, :], acc.to(tl.float16), mask=rows[:, None] < length
    )


KERNEL = attention
SIGNATURE = {
    "out": "*fp16",
    "lse": "*fp32",
    "q": "*fp16",
    "k": "*fp16",
    "v": "*fp16",
    "length": "i32",
    "scale": "fp32",
    "D": 64,
    "BLOCK_M": 64,
    "BLOCK_N": 64,
}
ALIGNED = ["out", "lse", "q", "k", "v"]
OPTIONS = {"num_warps": 4, "num_stages": 2}
