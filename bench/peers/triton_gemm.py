"""A block-scaled FP8 product in Triton, grouped or not.

out[m, n] = sum over blocks of 128 of K: (a . b of the block) * sa[m, block] * sb[group, n / 128, block]

One program a tile; the tensor core adds up one block of 128, the FP32 accumulator takes it with its scales. Tiles are
visited in columns of `ROWS` tiles, so that neighbours share operands in the L2.
"""

import triton
import triton.language as tl

# (BLOCK_M, BLOCK_N, warps, stages); BLOCK_N divides 128, so that a tile has one scale of b a block of K.
CONFIGS = [(64, 64, 4, 5), (64, 128, 4, 4), (128, 64, 4, 4), (128, 128, 4, 3), (128, 128, 8, 4), (64, 128, 4, 6)]
ROWS = 8


@triton.jit
def block_scaled(
    a_ptr, b_ptr, sa_ptr, sb_ptr, out_ptr, group_ptr, M, N, K, GROUPED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    column = program // (ROWS * tiles_n)
    rows = tl.minimum(tiles_m - column * ROWS, ROWS)
    inside = program % (ROWS * tiles_n)
    tile_m = column * ROWS + inside % rows
    tile_n = inside // rows

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, 128)
    blocks_k = K // 128
    group = tl.zeros((), tl.int64)
    if GROUPED:
        # Groups are multiples of BLOCK_M rows: a tile has one.
        group = tl.load(group_ptr + tile_m * BLOCK_M).to(tl.int64)
    b_ptr += group * N * K
    sb_ptr += group * tl.cdiv(N, 128) * blocks_k + (tile_n * BLOCK_N // 128) * blocks_k
    a_ptrs = a_ptr + m[:, None].to(tl.int64) * K + k[None, :]
    b_ptrs = b_ptr + n[None, :].to(tl.int64) * K + k[:, None]
    sa_ptrs = sa_ptr + m * blocks_k

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(0, blocks_k):
        a = tl.load(a_ptrs, mask=m[:, None] < M, other=0.0)
        b = tl.load(b_ptrs, mask=n[None, :] < N, other=0.0)
        sa = tl.load(sa_ptrs + block, mask=m < M, other=0.0)
        sb = tl.load(sb_ptr + block)
        total += tl.dot(a, b, out_dtype=tl.float32) * (sa * sb)[:, None]
        a_ptrs += 128
        b_ptrs += 128
    out = out_ptr + m[:, None].to(tl.int64) * N + n[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


def launch(data, config):
    """A callable that computes `data.out` with one of CONFIGS."""
    block_m, block_n, warps, stages = config
    grid = (triton.cdiv(data.m, block_m) * triton.cdiv(data.n, block_n),)

    def run():
        block_scaled[grid](
            data.a, data.b, data.sa, data.sb, data.out, data.group_of_row, data.m, data.n, data.k,
            GROUPED=data.groups is not None, BLOCK_M=block_m, BLOCK_N=block_n, ROWS=ROWS,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    return run


def variants(data):
    """Every variant, to choose from by measuring."""
    return [launch(data, config) for config in CONFIGS]
