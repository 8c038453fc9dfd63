"""What works on rows: norms, quantisation, SwiGLU, routing, combine, and moves of rows.

Peers: torch.compile of the plain formula, which makes Triton kernels; torch's own kernels where there is one.
"""

from common import Bench, Unavailable


def main():
    bench = Bench(__doc__)
    for shape, dims, entry in bench.rows(*OPS):
        kind, make = OPS[shape["op"]]
        bench.row(shape, dims, entry, kind, lambda: prepared(bench, kind, make, shape, dims))
    bench.finish()


COMPILED, EAGER = "torch.compile", "torch"
_COMPILED = {}


def prepared(bench, kind, make, shape, dims):
    """The callable of one row; a formula is compiled once for all its extents."""
    torch = bench.torch
    formula, operands = make(torch, shape, dims)
    if kind == COMPILED:
        if not hasattr(torch, "compile"):
            raise Unavailable(f"torch {torch.__version__} has no compile")
        # Keyed by op: a compiled function keeps one kernel for each set of extents.
        key = shape["op"]
        if key not in _COMPILED:
            _COMPILED[key] = torch.compile(formula, dynamic=False)
        formula = _COMPILED[key]
    with torch.no_grad():
        formula(*operands)
    return lambda: formula(*operands)


def bf16(torch, *extents):
    return torch.randn(*extents, dtype=torch.bfloat16, device="cuda")


def quantized(torch, x):
    """e4m3 codes and FP32 scales, amax / 448 over 128 neighbours."""
    blocks = x.float().unflatten(-1, (-1, 128))
    scale = blocks.abs().amax(-1).clamp_min(1e-10) / 448.0
    return (blocks / scale.unsqueeze(-1)).to(torch.float8_e4m3fn).flatten(-2), scale


def normed(torch, x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def rms_norm(torch, shape, dims):
    return (lambda x, w: normed(torch, x, w)), (bf16(torch, dims["T"], shape["hidden"]), bf16(torch, shape["hidden"]))


def add_rms_norm_quantize(torch, shape, dims):
    def formula(x, y, weight):
        total = x + y
        return total, *quantized(torch, normed(torch, total, weight))

    row = (dims["T"], shape["hidden"])
    return formula, (bf16(torch, *row), bf16(torch, *row), bf16(torch, shape["hidden"]))


def quantize(torch, shape, dims):
    return (lambda x: quantized(torch, x)), (bf16(torch, dims["T"], shape["hidden"]),)


def swiglu_quantize(torch, shape, dims):
    """Gate and up lie side by side in one row."""

    def formula(x):
        gate, up = x.float().chunk(2, -1)
        return quantized(torch, torch.nn.functional.silu(gate) * up)

    return formula, (bf16(torch, dims["T"], 2 * shape["width"]),)


def route(torch, shape, dims):
    """Sigmoid scores; the best groups by the sum of their two best biased scores; the best experts of these."""
    groups, experts = shape["groups"], shape["experts"]

    def formula(logits, bias):
        scores = logits.float().sigmoid()
        biased = (scores + bias).unflatten(-1, (groups, experts // groups))
        best = biased.topk(2, -1).values.sum(-1).topk(shape["top_groups"], -1).indices
        chosen = torch.zeros_like(biased[..., 0], dtype=torch.bool).scatter(-1, best, True)
        masked = biased.masked_fill(~chosen.unsqueeze(-1), float("-inf")).flatten(-2)
        index = masked.topk(shape["top"], -1).indices
        weight = scores.gather(-1, index)
        return index, weight / weight.sum(-1, keepdim=True) * 2.5

    return formula, (torch.randn(dims["T"], experts, device="cuda"), torch.zeros(experts, device="cuda"))


def combine(torch, shape, dims):
    tokens, top = dims["T"], shape["top"]
    formula = lambda y, index, weight: (y[index].float() * weight.unsqueeze(-1)).sum(1).to(torch.bfloat16)
    index = torch.randperm(tokens * top, device="cuda").view(tokens, top)
    return formula, (bf16(torch, tokens * top, shape["hidden"]), index, torch.rand(tokens, top, device="cuda"))


def rope(torch, shape, dims):
    """Rotates the last `rotated` channels of every head, by interleaved pairs."""

    def formula(x, cos, sin):
        rest, turned = x.split([shape["width"] - shape["rotated"], shape["rotated"]], -1)
        a, b = turned.float().unflatten(-1, (-1, 2)).unbind(-1)
        pair = (a * cos - b * sin, a * sin + b * cos)
        return torch.cat([rest, torch.stack(pair, -1).flatten(-2).to(x.dtype)], -1)

    angle = torch.rand(dims["T"], 1, shape["rotated"] // 2, device="cuda")
    return formula, (bf16(torch, dims["T"], shape["heads"], shape["width"]), angle.cos(), angle.sin())


def gather(torch, shape, dims):
    table = bf16(torch, shape["rows"], shape["hidden"])
    index = torch.randint(shape["rows"], (dims["T"],), device="cuda")
    return (lambda x, i: torch.index_select(x, 0, i)), (table, index)


def dispatch(torch, shape, dims):
    """Sorts (token, slot) pairs by expert, or copies the sorted rows; the shape says which half it is about."""
    tokens, top = dims["T"], shape["top"]
    experts = torch.rand(tokens, shape["experts"], device="cuda").topk(top, -1).indices.flatten()

    def plan(experts):
        return torch.sort(experts, stable=True).indices, torch.bincount(experts, minlength=shape["experts"]).cumsum(0)

    if shape["kernel"] == "moe_plan":
        return plan, (experts,)
    rows = plan(experts)[0] // top
    return (lambda x, i: torch.index_select(x, 0, i)), (bf16(torch, tokens, shape["hidden"]), rows)


def add(torch, shape, dims):
    row = (dims["T"], shape["hidden"])
    return torch.add, (bf16(torch, *row), bf16(torch, *row))


OPS = {
    "rms_norm": (COMPILED, rms_norm),
    "add_rms_norm_quantize": (COMPILED, add_rms_norm_quantize),
    "quantize": (COMPILED, quantize),
    "swiglu_quantize": (COMPILED, swiglu_quantize),
    "route": (COMPILED, route),
    "combine": (COMPILED, combine),
    "rope": (COMPILED, rope),
    "gather": (EAGER, gather),
    "dispatch": (EAGER, dispatch),
    "add": (EAGER, add),
}


if __name__ == "__main__":
    main()
