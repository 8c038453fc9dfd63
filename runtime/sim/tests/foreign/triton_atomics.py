"""Atomics with every order and scope that Triton has, and a lock."""

import triton
import triton.language as tl


@triton.jit
def atomics(counters, floats, halves, lock, total, x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    slot = i % 16
    tl.atomic_add(counters + slot, v, mask=i < n)
    tl.atomic_max(counters + 16 + slot, v, mask=i < n, sem="relaxed")
    tl.atomic_min(counters + 32 + slot, v, mask=i < n, sem="release", scope="sys")
    tl.atomic_and(counters + 48 + slot, v | 0xFFF, mask=i < n, sem="acquire")
    tl.atomic_or(counters + 64 + slot, v, mask=i < n)
    tl.atomic_xor(counters + 80 + slot, v, mask=i < n)
    # Small whole numbers add up exactly in any order.
    tl.atomic_add(floats + slot, (v % 8).to(tl.float32), mask=i < n)
    tl.atomic_add(halves + slot, (v % 2).to(tl.float16), mask=i < n)
    # A sum that is read and written in two steps, under a lock.
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total, volatile=True) + tl.sum(v))
    # All threads are done before the one that unlocks.
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


KERNEL = atomics
SIGNATURE = {
    "counters": "*i32",
    "floats": "*fp32",
    "halves": "*fp16",
    "lock": "*i32",
    "total": "*i32",
    "x": "*i32",
    "n": "i32",
    "BLOCK": 256,
}
ALIGNED = ["counters", "x"]
OPTIONS = {"num_warps": 4}
