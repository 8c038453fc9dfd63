"""What all peers share: the shapes, how a kernel is timed, how a result is printed.

In: shapes.json (beside this file, or one folder up). Out: one JSON object a line on standard output.
Holds: a library that is not there skips its rows with the reason, and never ends the script; every row is printed as
soon as it is measured; the exit code is 0 when anything was measured and 3 when nothing could be.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Larger than the L2 of any Hopper GPU (50 MB, 60 MB).
FLUSH_BYTES = 256 << 20
# Clock cycles that the GPU spins before each measured launch, so that the host is ahead of it.
SPIN_CYCLES = 300_000


class Unavailable(Exception):
    """A peer cannot run here; the text is the reason."""


class Bench:
    """Times callables and prints rows."""

    def __init__(self, about):
        parser = argparse.ArgumentParser(description=about)
        parser.add_argument("--seconds", type=float, default=45.0, help="begin no row after this time")
        parser.add_argument("--only", default="", help="only rows whose entry contains this")
        self.args = parser.parse_args()
        self.start = time.monotonic()
        self.measured = 0
        self.reasons = []
        self.checked = set()
        self.flush = None
        try:
            import torch
        except ImportError as err:
            self.finish(f"torch is not installed ({err})")
        if not torch.cuda.is_available():
            self.finish("torch sees no GPU")
        self.torch = torch
        torch.manual_seed(0)
        self.versions = {"torch": torch.__version__}

    def finish(self, reason=None):
        """Ends the script with its exit code."""
        if reason:
            self.reasons.append(reason)
        if self.measured:
            sys.exit(0)
        for text in dict.fromkeys(self.reasons):
            print(text, file=sys.stderr)
        sys.exit(3)

    def library(self, *names):
        """The first of these modules that can be imported."""
        reasons = []
        for name in names:
            try:
                module = importlib.import_module(name)
            except Exception as err:  # noqa: BLE001: a broken installation raises anything
                reasons.append(f"{name}: {first_line(err)}")
                continue
            self.versions[name] = str(getattr(module, "__version__", "unknown"))
            return module
        raise Unavailable("; ".join(reasons))

    def rows(self, *ops):
        """Every (shape, dims) of these ops, with the name of its entry."""
        for shape in shapes():
            if shape["op"] not in ops:
                continue
            for dims in shape["dims"]:
                entry = entry_name(shape["name"], dims)
                if self.args.only in entry:
                    yield shape, dims, entry

    def row(self, shape, dims, entry, peer, make, library="torch", launches=1):
        """Measures what `make()` returns: a callable, or (callable, relative error of its result)."""
        about = {"entry": entry, "shape": shape["name"], "op": shape["op"], "dims": dims, "peer": peer}
        if time.monotonic() - self.start > self.args.seconds:
            self.emit({**about, "skipped": "no time left"})
            return
        try:
            made = make()
            run, error = made if isinstance(made, tuple) else (made, None)
            times = self.measure(run)
        except Unavailable as err:
            self.reasons.append(str(err))
            self.emit({**about, "skipped": str(err)})
            return
        except Exception as err:  # noqa: BLE001: a peer's failure is a result, not the end
            self.reasons.append(f"{peer}: {first_line(err)}")
            self.emit({**about, "skipped": f"{type(err).__name__}: {first_line(err)}"})
            return
        finally:
            self.torch.cuda.empty_cache()
        self.measured += 1
        more = {} if error is None else {"relative_error": error}
        version = self.versions.get(library, "unknown")
        self.emit({**about, "library": f"{library} {version}", "launches": launches, **times, **more})

    def measure(self, run, seconds=0.25):
        """Median times of `run`, with a cold and with a warm L2."""
        for _ in range(3):
            run()
        self.torch.cuda.synchronize()
        once = max(self.once(run, self.warm), 1e-6)
        # Cold repetitions pay for the flush, which takes about 0.1 ms.
        count = int(min(100, max(10, seconds / (once + 4e-4))))
        cold = [self.once(run, self.cold, sync=False) for _ in range(count)]
        warm = [self.once(run, self.warm, sync=False) for _ in range(count)]
        self.torch.cuda.synchronize()
        median = lambda pairs: statistics.median(a.elapsed_time(b) for a, b in pairs) * 1e-3
        return {"cold_s": median(cold), "warm_s": median(warm), "repetitions": count}

    def fastest(self, candidates):
        """The fastest of these callables, cold; those that do not fit the GPU are left out."""
        best, failure = None, Unavailable("it has no variant")
        for run in candidates:
            try:
                run()
                self.torch.cuda.synchronize()
                seconds = min(self.once(run, self.cold) for _ in range(5))
            except Exception as err:  # noqa: BLE001: too much shared memory, or a library without the type
                failure = err
                continue
            if best is None or seconds < best[0]:
                best = (seconds, run)
        if best is None:
            raise failure
        return best[1]

    def once(self, run, prepare, sync=True):
        """One timed call: seconds, or the pair of events that will know."""
        event = self.torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        prepare()
        self.torch.cuda._sleep(SPIN_CYCLES)
        start.record()
        run()
        end.record()
        if not sync:
            return start, end
        self.torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3

    def cold(self):
        """Drives everything out of the L2."""
        if self.flush is None:
            self.flush = self.torch.empty(FLUSH_BYTES, dtype=self.torch.uint8, device="cuda")
        self.flush.zero_()

    def warm(self):
        """Leaves the L2 as the call before has left it."""

    def emit(self, row):
        print(json.dumps(row), flush=True)


def shapes():
    """The rows of shapes.json."""
    for folder in (HERE, os.path.dirname(HERE)):
        path = os.path.join(folder, "shapes.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return json.load(file)["shapes"]
    sys.exit("shapes.json is neither beside this script nor one folder up")


def entry_name(name, dims):
    """The bundle's name of a row: `fp8_gemm_2112x7168_m64`, `mla_decode_t1_c4096`."""
    return "_".join([name] + [f"{dim.lower()}{value}" for dim, value in dims.items()])


def first_line(err):
    text = str(err).strip()
    return text.splitlines()[0][:200] if text else type(err).__name__


def relative_error(found, expected):
    """Frobenius norm of the difference over that of what is expected."""
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))
