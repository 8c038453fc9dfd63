"""Products: block-scaled FP8 (1x128 by 128x128; dense, grouped, masked; weight gradients 1x128 by 1x128), and BF16.

Peers: DeepGEMM; torch's block-scaled product, which is cuBLASLt's, one launch a group; a Triton kernel
(triton_gemm.py). The FP8 result of each is compared once a kind of product with the product of the dequantised
operands: a fast wrong kernel is no peer.
"""

from common import Bench, Unavailable, relative_error
from operands import Product, WeightGrad


def main():
    bench = Bench(__doc__)
    for shape, dims, entry in bench.rows(*FP8):
        data = Lazy(lambda: FP8[shape["op"]](bench.torch, shape, dims))
        groups = shape.get("groups", 1)
        bench.row(shape, dims, entry, "DeepGEMM", lambda: deep_gemm(bench, data()), "deep_gemm")
        bench.row(shape, dims, entry, "cuBLASLt", lambda: cublas(bench, data()), launches=groups)
        bench.row(shape, dims, entry, "Triton", lambda: triton(bench, data()), "triton")
    for shape, dims, entry in bench.rows("bf16_gemm"):
        bench.row(shape, dims, entry, "cuBLASLt", lambda: bf16(bench, dims["M"], shape["n"], shape["k"]))
    for shape, dims, entry in bench.rows("batched_gemm"):
        bench.row(shape, dims, entry, "cuBLAS", lambda: batched(bench, dims["T"], shape))
    bench.finish()


# Operands of each kind of row.
FP8 = {
    "fp8_gemm": lambda torch, s, d: Product(torch, d["M"], s["n"], s["k"]),
    "fp8_grouped_gemm": lambda torch, s, d: Product(torch, d["M"], s["n"], s["k"], s["groups"]),
    "fp8_masked_gemm": lambda torch, s, d: Product(torch, d["M"], s["n"], s["k"], s["groups"], masked=True),
    "fp8_weight_grad": lambda torch, s, d: WeightGrad(torch, s["m"], s["n"], 128 * d["B"], s["groups"]),
}


class Lazy:
    """Operands that are made when the first peer of a row asks for them."""

    def __init__(self, make):
        self.make, self.made = make, None

    def __call__(self):
        if self.made is None:
            self.made = self.make()
        return self.made


def checked(bench, data, run, peer, result=None):
    """`run` with its error against the reference; measured once a peer, since the reference is slow and large.

    `result`, where a peer makes its own, finds the last group's.
    """
    kind = (peer, data.layout)
    if kind in bench.checked:
        return run
    if data.layout == WeightGrad.layout:
        # Earlier runs have added to it.
        data.out.zero_()
    run()
    found = result() if result else data.parts()[-1][4]
    error = relative_error(found[:64], data.expected())
    # BF16 output and 14-bit accumulation leave well under 1 %.
    if not error < 0.02:
        raise Unavailable(f"its result is wrong: relative error {error:.3g}")
    bench.checked.add(kind)
    return run, error


def deep_gemm(bench, data):
    lib = bench.library("deep_gemm")
    align = find(lib, "get_mn_major_tma_aligned_tensor", "get_col_major_tma_aligned_tensor")
    if data.layout == WeightGrad.layout:
        return checked(bench, data, deep_gemm_grad(bench.torch, lib, data), "DeepGEMM")
    lhs = (data.a, align(data.sa))
    if data.layout == "dense":
        product = find(lib, "fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt")
        rhs = (data.b[0], data.sb[0])
        run = lambda: product(lhs, rhs, data.out)
    elif data.layout == "masked":
        product = find(lib, "m_grouped_fp8_gemm_nt_masked", "m_grouped_gemm_fp8_fp8_bf16_nt_masked")
        rhs = (data.b, data.sb)
        run = lambda: product(lhs, rhs, data.out, data.counts, data.m)
    else:
        product = find(lib, "m_grouped_fp8_gemm_nt_contiguous", "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous")
        rhs = (data.b, data.sb)
        run = lambda: product(lhs, rhs, data.out, data.group_of_row)
    return checked(bench, data, run, "DeepGEMM")


def deep_gemm_grad(torch, lib, data):
    """Its operands are the groups' matrices one after the other, its scales [K/128, rows]."""
    one_after_the_other = lambda i: torch.cat([part[i].contiguous().reshape(-1) for part in data.parts()])
    x, y = one_after_the_other(0), one_after_the_other(2)
    sx, sy = data.sx.t().contiguous(), data.sy.t().contiguous()
    if any(place is not None for place in places(lib, "k_grouped_fp8_gemm_nt_contiguous")):
        product = find(lib, "k_grouped_fp8_gemm_nt_contiguous")
        return lambda: product((x, sx), (y, sy), data.out, data.ks, data.ks_tensor, data.out, recipe=(1, 1, 128))
    product = find(lib, "k_grouped_wgrad_gemm_fp8_fp8_fp32_nt")
    return lambda: product((x, sx), (y, sy), data.out, data.ks)


def places(lib, name):
    """Where the library may have this function."""
    utils = getattr(lib, "utils", None)
    return [getattr(place, name, None) for place in (lib, utils, getattr(utils, "layout", None))]


def find(lib, *names):
    """The library has renamed its functions; the first that is there."""
    for name in names:
        for function in places(lib, name):
            if function is not None:
                return function
    raise Unavailable(f"{lib.__name__} has none of {', '.join(names)}")


def cublas(bench, data):
    torch = bench.torch
    if not hasattr(torch, "_scaled_mm"):
        raise Unavailable(f"torch {torch.__version__} has no _scaled_mm")
    grad = data.layout == WeightGrad.layout
    # Scales with one for every 128 of K are wanted with the rows innermost; those of 128x128 blocks of b as
    # [K/128, N/128] over rows of K/128.
    rows_inside = lambda scale: scale.t().contiguous().t()
    operands = [
        (a.contiguous(), b.contiguous().t(), rows_inside(sa), sb.t().contiguous() if grad else sb.t(), out)
        for a, sa, b, sb, out in data.parts()
    ]
    out_dtype = torch.float32 if grad else torch.bfloat16
    found = []

    def run():
        found.clear()
        for a, b, scale_a, scale_b, out in operands:
            product = torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=out_dtype)
            if grad:
                out += product
            else:
                found.append(product)

    return checked(bench, data, run, "cuBLASLt", None if grad else lambda: found[-1])


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
