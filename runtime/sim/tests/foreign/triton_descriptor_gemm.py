"""FP16 product through tensor descriptors that the kernel itself writes, to
scratch memory of 128 bytes each: c = a b^T.
"""

import triton
import triton.language as tl


@triton.jit
def descriptor_gemm(
    c, a, b, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    a = tl.make_tensor_descriptor(a, [m, k], [k, 1], [BLOCK_M, BLOCK_K])
    b = tl.make_tensor_descriptor(b, [n, k], [k, 1], [BLOCK_N, BLOCK_K])
    c = tl.make_tensor_descriptor(c, [m, n], [n, 1], [BLOCK_M, BLOCK_N])
    row, col = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for at in range(0, k, BLOCK_K):
        acc = tl.dot(a.load([row, at]), b.load([col, at]).T, acc)
    c.store([row, col], acc.to(tl.float16))


KERNEL = descriptor_gemm
SIGNATURE = {
    "c": "*fp16",
    "a": "*fp16",
    "b": "*fp16",
    "m": "i32",
    "n": "i32",
    "k": "i32",
    "BLOCK_M": 64,
    "BLOCK_N": 64,
    "BLOCK_K": 64,
}
ALIGNED = ["c", "a", "b", "m", "n", "k"]
OPTIONS = {"num_warps": 4, "num_stages": 3}
