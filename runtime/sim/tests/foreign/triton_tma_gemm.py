"""FP16 product through tensor descriptors that the host made: c = a b^T."""

import triton
import triton.language as tl


@triton.jit
def tma_gemm(
    c,
    a,
    b,
    k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPECIALIZE: tl.constexpr,
):
    row, col = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for at in tl.range(0, k, BLOCK_K, warp_specialize=SPECIALIZE):
        acc = tl.dot(a.load([row, at]), b.load([col, at]).T, acc)
    c.store([row, col], acc.to(tl.float16))


KERNEL = tma_gemm
SIGNATURE = {
    "c": "tensordesc<fp16[64,64]>",
    "a": "tensordesc<fp16[64,64]>",
    "b": "tensordesc<fp16[64,64]>",
    "k": "i32",
    "BLOCK_M": 64,
    "BLOCK_N": 64,
    "BLOCK_K": 64,
    "SPECIALIZE": False,
}
ALIGNED = []
OPTIONS = {"num_warps": 4, "num_stages": 3}
