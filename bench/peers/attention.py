"""Attention: prefill with the head widths 192 and 128, and MLA decode over a latent cache of 576.

Peers: torch's scaled_dot_product_attention, each of its backends by itself; FlashAttention 3; FlashMLA; a Triton
decode kernel (triton_mla.py).
"""

from common import Bench, Unavailable, relative_error


def main():
    bench = Bench(__doc__)
    for shape, dims, entry in bench.rows("attention_prefill"):
        for backend in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
            peer = "torch SDPA " + backend.split("_")[0].lower()
            bench.row(shape, dims, entry, peer, lambda: sdpa(bench, shape, dims, backend))
        bench.row(shape, dims, entry, "FlashAttention-3", lambda: flash3(bench, shape, dims), "flash_attn_interface")
    for shape, dims, entry in bench.rows("mla_decode"):
        bench.row(shape, dims, entry, "FlashMLA", lambda: flash_mla(bench, shape, dims), "flash_mla")
        bench.row(shape, dims, entry, "Triton", lambda: triton(bench, shape, dims), "triton", launches=2)
    bench.finish()


def prefill_operands(bench, shape, dims, heads_first):
    """q, k: [1, heads, T, 192], v: [1, heads, T, 128], or with heads and tokens exchanged."""
    if dims["T"] != dims["C"]:
        raise Unavailable("only prompts without earlier context")
    make = bench.torch.randn
    order = (1, shape["heads"], dims["T"]) if heads_first else (1, dims["T"], shape["heads"])
    return [make(*order, shape[width], dtype=bench.torch.bfloat16, device="cuda") for width in ("qk", "qk", "v")]


def sdpa(bench, shape, dims, backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = bench.torch.nn.functional.scaled_dot_product_attention
    q, k, v = prefill_operands(bench, shape, dims, heads_first=True)

    def run():
        with sdpa_kernel([getattr(SDPBackend, backend)]):
            return attend(q, k, v, is_causal=True)

    return run


def flash3(bench, shape, dims):
    lib = bench.library("flash_attn_interface", "flash_attn_3.flash_attn_interface")
    q, k, v = prefill_operands(bench, shape, dims, heads_first=False)
    return lambda: lib.flash_attn_func(q, k, v, causal=True)


def decode_operands(bench, shape, dims):
    """q: [T, heads, 576], cache: [C, 576]; the T tokens are the last of the C."""
    make = lambda *extents: bench.torch.randn(*extents, dtype=bench.torch.bfloat16, device="cuda")
    return make(dims["T"], shape["heads"], shape["qk"]), make(dims["C"], shape["qk"])


def flash_mla(bench, shape, dims):
    lib = bench.library("flash_mla")
    torch = bench.torch
    q, cache = decode_operands(bench, shape, dims)
    tokens, heads, page = dims["T"], shape["heads"], 64
    if dims["C"] % page:
        raise Unavailable(f"its cache has pages of {page} tokens")
    lengths = torch.tensor([dims["C"]], dtype=torch.int32, device="cuda")
    table = torch.arange(dims["C"] // page, dtype=torch.int32, device="cuda")[None]
    paged = cache.view(-1, page, 1, shape["qk"])
    plan, splits = lib.get_mla_metadata(lengths, tokens * heads, 1)
    scale = shape["qk"] ** -0.5
    run = lambda: lib.flash_mla_with_kvcache(
        q[None], paged, table, lengths, shape["v"], plan, splits, softmax_scale=scale, causal=True
    )
    error = relative_error(run()[0][0], reference(torch, q, cache, shape["v"], scale))
    return run, error


def triton(bench, shape, dims):
    bench.library("triton")
    import triton_mla

    torch = bench.torch
    q, cache = decode_operands(bench, shape, dims)
    scale = shape["qk"] ** -0.5
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    candidates, out = triton_mla.variants(torch, q, cache, shape["v"], scale, sms)
    run = bench.fastest(candidates)
    run()
    error = relative_error(out, reference(torch, q, cache, shape["v"], scale))
    if not error < 0.02:
        raise Unavailable(f"its result is wrong: relative error {error:.3g}")
    return run, error


def reference(torch, q, cache, v, scale):
    """Plain attention of the T last tokens over the cache."""
    tokens, context = q.shape[0], cache.shape[0]
    scores = torch.einsum("thd,cd->thc", q.float(), cache.float()) * scale
    position = torch.arange(tokens, device=q.device) + context - tokens
    hidden = torch.arange(context, device=q.device)[None, :] > position[:, None]
    weights = scores.masked_fill(hidden[:, None, :], float("-inf")).softmax(-1)
    return torch.einsum("thc,cd->thd", weights, cache[:, :v].float())


if __name__ == "__main__":
    main()
