"""Softmax over the rows of a matrix, one row a block, with a ragged end."""

import triton
import triton.language as tl


@triton.jit
def softmax(out, x, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + i, mask=i < columns, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * stride + i, e / tl.sum(e, axis=0), mask=i < columns)


KERNEL = softmax
SIGNATURE = {"out": "*fp32", "x": "*fp32", "stride": "i32", "columns": "i32", "BLOCK": 1024}
ALIGNED = ["out", "x", "stride"]
OPTIONS = {"num_warps": 4}
