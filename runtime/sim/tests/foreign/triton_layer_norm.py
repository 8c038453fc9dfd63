"""Layer norm in FP16 with mean and variance in FP32, a row a block, in chunks."""

import triton
import triton.language as tl


@triton.jit
def layer_norm(out, mean_out, rstd_out, x, weight, bias, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x += row * columns
    out += row * columns
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for at in range(0, columns, BLOCK):
        i = at + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < columns, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / columns
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for at in range(0, columns, BLOCK):
        i = at + tl.arange(0, BLOCK)
        v = tl.load(x + i, mask=i < columns, other=0.0).to(tl.float32)
        d = tl.where(i < columns, v - mean, 0.0)
        square += d * d
    rstd = 1 / tl.sqrt(tl.sum(square, axis=0) / columns + eps)
    tl.store(mean_out + row, mean)
    tl.store(rstd_out + row, rstd)
    for at in range(0, columns, BLOCK):
        i = at + tl.arange(0, BLOCK)
        m = i < columns
        v = tl.load(x + i, mask=m).to(tl.float32)
        y = (v - mean) * rstd * tl.load(weight + i, mask=m) + tl.load(bias + i, mask=m)
        tl.store(out + i, y.to(tl.float16), mask=m)


KERNEL = layer_norm
SIGNATURE = {
    "out": "*fp16",
    "mean_out": "*fp32",
    "rstd_out": "*fp32",
    "x": "*fp16",
    "weight": "*fp32",
    "bias": "*fp32",
    "columns": "i32",
    "eps": "fp32",
    "BLOCK": 256,
}
ALIGNED = ["out", "x", "weight", "bias"]
OPTIONS = {"num_warps": 4}
