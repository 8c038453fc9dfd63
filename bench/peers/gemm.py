"""Products: block-scaled FP8 (1x128 by 128x128), grouped by expert, BF16.

Peers: DeepGEMM; cuBLASLt through torch; a Triton kernel (triton_gemm.py). The FP8 result of each is compared once
with the product of the dequantised operands: a fast wrong kernel is no peer.
"""

from common import Bench, Unavailable, relative_error


def main():
    bench = Bench(__doc__)
    for shape, dims, entry in bench.rows("fp8_gemm"):
        data = Lazy(lambda: Fp8(bench.torch, dims["M"], shape["n"], shape["k"]))
        bench.row(shape, dims, entry, "DeepGEMM", lambda: deep_gemm(bench, data()), "deep_gemm")
        bench.row(shape, dims, entry, "cuBLASLt", lambda: cublas(bench, data()))
        bench.row(shape, dims, entry, "Triton", lambda: triton(bench, data()), "triton")
    for shape, dims, entry in bench.rows("fp8_grouped_gemm"):
        data = Lazy(lambda: Fp8(bench.torch, dims["M"], shape["n"], shape["k"], shape["groups"]))
        bench.row(shape, dims, entry, "DeepGEMM", lambda: deep_gemm(bench, data()), "deep_gemm")
        bench.row(shape, dims, entry, "Triton", lambda: triton(bench, data()), "triton")
    for shape, dims, entry in bench.rows("bf16_gemm"):
        bench.row(shape, dims, entry, "cuBLASLt", lambda: bf16(bench, dims["M"], shape["n"], shape["k"]))
    for shape, dims, entry in bench.rows("batched_gemm"):
        bench.row(shape, dims, entry, "cuBLAS", lambda: batched(bench, dims["T"], shape))
    bench.finish()


class Lazy:
    """Operands that are made when the first peer of a row asks for them."""

    def __init__(self, make):
        self.make, self.made = make, None

    def __call__(self):
        if self.made is None:
            self.made = self.make()
        return self.made


class Fp8:
    """a: e4m3 [M, K] with scales [M, K/128]; b: e4m3 [G, N, K] with scales [G, N/128, K/128]; out: bf16 [M, N].

    With groups, rows are sorted by group, the same number for each.
    """

    def __init__(self, torch, m, n, k, groups=None):
        self.m, self.n, self.k, self.groups = m, n, k, groups
        g = groups or 1
        e4m3 = torch.float8_e4m3fn
        self.a = torch.randn(m, k, device="cuda").to(e4m3)
        self.b = torch.randn(g, n, k, device="cuda", dtype=torch.bfloat16).to(e4m3)
        scales = lambda *shape: torch.rand(*shape, device="cuda") * 0.01 + 0.005
        self.sa = scales(m, k // 128)
        self.sb = scales(g, -(-n // 128), k // 128)
        self.out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
        rows = torch.arange(m, device="cuda", dtype=torch.int64)
        self.group_of_row = (rows * g // m).to(torch.int32)

    def reference(self, torch, rows=64):
        """The first rows' product of the dequantised operands; they belong to group 0."""
        rows = min(rows, self.m // (self.groups or 1))
        a = self.a[:rows].float() * self.sa[:rows].repeat_interleave(128, 1)
        scale = self.sb[0].repeat_interleave(128, 0)[: self.n].repeat_interleave(128, 1)
        return rows, a @ (self.b[0].float() * scale).t()


def checked(bench, data, run, peer):
    """`run` with its error against the reference; measured once a peer, since the reference is slow and large."""
    kind = (peer, data.groups is not None)
    if kind in bench.checked:
        return run
    run()
    rows, expected = data.reference(bench.torch)
    error = relative_error(data.out[:rows], expected)
    # BF16 output and 14-bit accumulation leave well under 1 %.
    if not error < 0.02:
        raise Unavailable(f"its result is wrong: relative error {error:.3g}")
    bench.checked.add(kind)
    return run, error


def deep_gemm(bench, data):
    lib = bench.library("deep_gemm")
    align = find(lib, "get_mn_major_tma_aligned_tensor", "get_col_major_tma_aligned_tensor")
    lhs = (data.a, align(data.sa))
    if data.groups is None:
        product = find(lib, "fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt")
        rhs = (data.b[0], data.sb[0])
        run = lambda: product(lhs, rhs, data.out)
    else:
        product = find(lib, "m_grouped_fp8_gemm_nt_contiguous", "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous")
        rhs = (data.b, data.sb)
        run = lambda: product(lhs, rhs, data.out, data.group_of_row)
    return checked(bench, data, run, "DeepGEMM")


def find(lib, *names):
    """The library has renamed its functions; the first that is there."""
    for name in names:
        for place in (lib, getattr(lib, "utils", None), getattr(getattr(lib, "utils", None), "layout", None)):
            if hasattr(place, name):
                return getattr(place, name)
    raise Unavailable(f"{lib.__name__} has none of {', '.join(names)}")


def cublas(bench, data):
    torch = bench.torch
    if not hasattr(torch, "_scaled_mm"):
        raise Unavailable(f"torch {torch.__version__} has no _scaled_mm")
    # Scales of a are wanted with the rows innermost; those of b as [K/128, N/128] over rows of K/128.
    sa = data.sa.t().contiguous().t()
    b, sb = data.b[0].t(), data.sb[0].t()

    def run():
        data.out = torch._scaled_mm(data.a, b, scale_a=sa, scale_b=sb, out_dtype=torch.bfloat16)

    return checked(bench, data, run, "cuBLASLt")


def triton(bench, data):
    bench.library("triton")
    import triton_gemm

    run = bench.fastest(triton_gemm.variants(data))
    return checked(bench, data, run, "Triton")


def bf16(bench, m, n, k):
    torch = bench.torch
    a = torch.randn(m, k, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(n, k, dtype=torch.bfloat16, device="cuda")
    out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
    return lambda: torch.matmul(a, b.t(), out=out)


def batched(bench, tokens, shape):
    """[T, heads, k] by [heads, n, k]: the absorbed projections of MLA."""
    torch = bench.torch
    make = lambda *extents: torch.randn(*extents, dtype=torch.bfloat16, device="cuda")
    a, b = make(tokens, shape["heads"], shape["k"]), make(shape["heads"], shape["n"], shape["k"])
    return lambda: torch.bmm(a.transpose(0, 1), b.transpose(1, 2))


if __name__ == "__main__":
    main()
