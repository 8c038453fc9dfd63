"""Block-scaled FP8 products in Triton: dense, grouped and masked, and weight gradients.

out[m, n] = sum over blocks of 128 of K: (a . b of the block) * sa[m, block] * sb[group, n / 128, block]
out[g, m, n] += sum over the blocks of group g: (x . y of the block) * sx[m, block] * sy[n, block]

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


@triton.jit
def weight_grad(
    x_ptr, y_ptr, sx_ptr, sy_ptr, out_ptr, M, N, K, BLOCKS_A_GROUP,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    column = program // (ROWS * tiles_n)
    rows = tl.minimum(tiles_m - column * ROWS, ROWS)
    inside = program % (ROWS * tiles_n)
    m = (column * ROWS + inside % rows) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (inside // rows) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = group * BLOCKS_A_GROUP
    blocks_k = K // 128
    k = first * 128 + tl.arange(0, 128)
    x_ptrs = x_ptr + m[:, None].to(tl.int64) * K + k[None, :]
    y_ptrs = y_ptr + n[None, :].to(tl.int64) * K + k[:, None]
    sx_ptrs = sx_ptr + m * blocks_k + first
    sy_ptrs = sy_ptr + n * blocks_k + first

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(0, BLOCKS_A_GROUP):
        x = tl.load(x_ptrs, mask=m[:, None] < M, other=0.0)
        y = tl.load(y_ptrs, mask=n[None, :] < N, other=0.0)
        sx = tl.load(sx_ptrs + block, mask=m < M, other=0.0)
        sy = tl.load(sy_ptrs + block, mask=n < N, other=0.0)
        total += tl.dot(x, y, out_dtype=tl.float32) * sx[:, None] * sy[None, :]
        x_ptrs += 128
        y_ptrs += 128
    out = out_ptr + group * M * N + m[:, None].to(tl.int64) * N + n[None, :]
    inside_out = (m[:, None] < M) & (n[None, :] < N)
    tl.store(out, tl.load(out, mask=inside_out, other=0.0) + total, mask=inside_out)


def launch(data, config):
    """A callable that computes `data.out` with one of CONFIGS."""
    block_m, block_n, warps, stages = config
    options = {"BLOCK_M": block_m, "BLOCK_N": block_n, "ROWS": ROWS, "num_warps": warps, "num_stages": stages}
    # With room for all rows of each group to count, masked rows are grouped rows.
    m = data.m * (data.groups if data.layout == "masked" else 1)
    tiles = triton.cdiv(m, block_m) * triton.cdiv(data.n, block_n)
    if data.layout == "weight gradient":
        blocks = data.k // 128 // data.groups
        return lambda: weight_grad[(tiles, data.groups)](
            data.x, data.y, data.sx, data.sy, data.out, m, data.n, data.k, blocks, **options
        )  # fmt: skip
    grouped = data.layout != "dense"
    return lambda: block_scaled[(tiles,)](
        data.a, data.b, data.sa, data.sb, data.out, data.group_of_row, m, data.n, data.k, GROUPED=grouped, **options
    )  # fmt: skip


def variants(data):
    """Every variant, to choose from by measuring."""
    return [launch(data, config) for config in CONFIGS]
