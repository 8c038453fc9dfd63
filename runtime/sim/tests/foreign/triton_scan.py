"""Running sums, a sort, a histogram, an arg-max and random numbers of a block."""

import triton
import triton.language as tl


@triton.jit
def scan(sums, sorted_out, best, bins, uniform, x, seed, BLOCK: tl.constexpr, BINS: tl.constexpr):
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(sums + i, tl.cumsum(v, axis=0))
    tl.store(sorted_out + i, tl.sort(v))
    tl.store(best + block, tl.argmax(v, axis=0))
    tl.atomic_add(bins + tl.arange(0, BINS), tl.histogram(v % BINS, BINS))
    tl.store(uniform + i, tl.rand(seed, i))


KERNEL = scan
SIGNATURE = {
    "sums": "*i32",
    "sorted_out": "*i32",
    "best": "*i32",
    "bins": "*i32",
    "uniform": "*fp32",
    "x": "*i32",
    "seed": "i32",
    "BLOCK": 256,
    "BINS": 32,
}
ALIGNED = ["sums", "sorted_out", "uniform", "x"]
OPTIONS = {"num_warps": 4}
