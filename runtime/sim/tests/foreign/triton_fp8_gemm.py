"""Block-scaled FP8 GEMM as DeepSeek-V3 has it: out = (a, a_scale) (b, b_scale)^T.

a is [m, k] E4M3 with a scale for every 128 columns of a row; b is [n, k] E4M3
with a scale for every 128 x 128 block. Each 128 of K is one product of the
tensor core, scaled and added up in FP32.
"""

import triton
import triton.language as tl


@triton.jit
def fp8_gemm(
    out,
    a,
    a_scale,
    b,
    b_scale,
    m,
    n,
    k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    inside = rows[:, None] < m
    blocks = k // BLOCK_K
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for i in range(blocks):
        at = i * BLOCK_K + ks
        x = tl.load(a + rows[:, None] * k + at[None, :], mask=inside, other=0.0)
        y = tl.load(b + cols[None, :] * k + at[:, None])
        xs = tl.load(a_scale + rows * blocks + i, mask=rows < m, other=0.0)
        ys = tl.load(b_scale + (cols // 128) * blocks + i)
        acc += tl.dot(x, y) * xs[:, None] * ys[None, :]
    tl.store(out + rows[:, None] * n + cols[None, :], acc.to(tl.bfloat16), mask=inside)


KERNEL = fp8_gemm
SIGNATURE = {
    "out": "*bf16",
    "a": "*fp8e4nv",
    "a_scale": "*fp32",
    "b": "*fp8e4nv",
    "b_scale": "*fp32",
    "m": "i32",
    "n": "i32",
    "k": "i32",
    "BLOCK_M": 64,
    "BLOCK_N": 64,
    "BLOCK_K": 128,
}
ALIGNED = ["out", "a", "a_scale", "b", "b_scale", "n", "k"]
OPTIONS = {"num_warps": 4, "num_stages": 3}
