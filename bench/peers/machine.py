"""Copy bandwidth and matrix peak of this GPU, as torch reaches them.

Prints rows {"machine": "copy" | "bf16" | "fp8", "per_s": ...}: bytes (read and written) or FLOPs a second.
"""

from common import Bench, Unavailable, first_line


def main():
    bench = Bench(__doc__)
    torch = bench.torch
    limits = [("copy", lambda: copy(torch)), ("bf16", lambda: bf16(torch)), ("fp8", lambda: fp8(torch))]
    for name, make in limits:
        try:
            run, work = make()
            times = bench.measure(run, seconds=1.0)
        except Exception as err:  # noqa: BLE001: an old torch lacks the FP8 product
            reason = str(err) if isinstance(err, Unavailable) else first_line(err)
            bench.reasons.append(f"{name}: {reason}")
            bench.emit({"machine": name, "skipped": reason})
            continue
        bench.measured += 1
        bench.emit({"machine": name, "library": f"torch {torch.__version__}", "per_s": work / times["warm_s"], **times})
    bench.finish()


def copy(torch):
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), 2 * source.numel()


def bf16(torch):
    n = 8192
    a = torch.randn(n, n, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(n, n, dtype=torch.bfloat16, device="cuda")
    return (lambda: torch.matmul(a, b)), 2 * n**3


def fp8(torch):
    if not hasattr(torch, "_scaled_mm"):
        raise Unavailable(f"torch {torch.__version__} has no _scaled_mm")
    n = 8192
    a = torch.randn(n, n, device="cuda").to(torch.float8_e4m3fn)
    b = torch.randn(n, n, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones((), dtype=torch.float32, device="cuda")
    run = lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)
    return run, 2 * n**3


if __name__ == "__main__":
    main()
