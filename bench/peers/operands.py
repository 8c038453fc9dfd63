"""Operands of block-scaled FP8 products, and what their results should be.

In: extents. Out: random E4M3 operands with scales on the GPU, and a reference for a part of the result. Holds: a
reference needs memory for one group only.
"""


def codes(torch, *extents):
    """Random E4M3 values."""
    return torch.randn(*extents, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)


def scales(torch, *extents):
    """Random scales of the magnitude that quantised activations have."""
    return torch.rand(*extents, device="cuda") * 0.01 + 0.005


def along_k(scale, k):
    """A scale for each element of K out of one for every 128."""
    return scale.repeat_interleave(128, -1)[..., :k]


class Product:
    """a: e4m3 [M, K] with scales [M, K/128]; b: e4m3 [G, N, K] with scales [G, N/128, K/128]; out: bf16 [M, N].

    With groups, rows are sorted by group, the same number for each: `layout` is `dense` or `grouped`. In the layout
    `masked` a group has its M rows to itself: a is [G, M, K], out [G, M, N], and all M rows count.
    """

    def __init__(self, torch, m, n, k, groups=None, masked=False):
        self.m, self.n, self.k, self.groups = m, n, k, groups
        self.layout = "masked" if masked else "grouped" if groups else "dense"
        g = groups or 1
        rows = (g, m) if masked else (m,)
        self.a = codes(torch, *rows, k)
        self.sa = scales(torch, *rows, k // 128)
        self.b = codes(torch, g, n, k)
        self.sb = scales(torch, g, -(-n // 128), k // 128)
        self.out = torch.empty(*rows, n, dtype=torch.bfloat16, device="cuda")
        self.counts = torch.full((g,), m, dtype=torch.int32, device="cuda")
        every = g * m if masked else m
        row = torch.arange(every, device="cuda", dtype=torch.int64)
        self.group_of_row = (row * g // every).to(torch.int32)

    def parts(self):
        """(a, scales of a, b, scales of b, out) of each group."""
        g = self.groups or 1
        if self.layout == "masked":
            return list(zip(self.a, self.sa, self.b, self.sb, self.out))
        step = self.m // g
        cut = lambda t, i: t[i * step : (i + 1) * step]
        return [(cut(self.a, i), cut(self.sa, i), self.b[i], self.sb[i], cut(self.out, i)) for i in range(g)]

    def expected(self):
        """The last group's first rows."""
        a, sa, b, sb, _ = self.parts()[-1]
        a = a[:64].float() * along_k(sa[:64], self.k)
        scale = along_k(sb.repeat_interleave(128, 0)[: self.n], self.k)
        return a @ (b.float() * scale).t()


class WeightGrad:
    """x: e4m3 [M, K], y: e4m3 [N, K], both with scales [., K/128]; out: f32 [G, M, N] += x y^T over each group's K.

    Groups have the same K, a multiple of 128.
    """

    layout = "weight gradient"

    def __init__(self, torch, m, n, k, groups):
        if k % (128 * groups):
            raise ValueError(f"K = {k} is not {groups} times a multiple of 128")
        self.m, self.n, self.k, self.groups = m, n, k, groups
        self.x, self.sx = codes(torch, m, k), scales(torch, m, k // 128)
        self.y, self.sy = codes(torch, n, k), scales(torch, n, k // 128)
        self.out = torch.zeros(groups, m, n, device="cuda")
        step = k // groups
        self.ks = [step] * groups
        self.ks_tensor = torch.tensor(self.ks, dtype=torch.int32, device="cuda")

    def parts(self):
        """(x, scales of x, y, scales of y, out) of each group."""
        step = self.k // self.groups
        cut = lambda t, i, unit: t[:, i * step // unit : (i + 1) * step // unit]
        return [
            (cut(self.x, i, 1), cut(self.sx, i, 128), cut(self.y, i, 1), cut(self.sy, i, 128), self.out[i])
            for i in range(self.groups)
        ]

    def expected(self):
        """The last group's first rows, of a single run that began with zeros."""
        x, sx, y, sy, _ = self.parts()[-1]
        k = x.shape[-1]
        return (x[:64].float() * along_k(sx[:64], k)) @ (y.float() * along_k(sy, k)).t()
