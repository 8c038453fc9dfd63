"""Compile time of the block-scaled product in Triton, without a GPU.

Compiles `block_scaled` of triton_gemm.py for sm_90 once for each run, past every cache, and prints one JSON object:
seconds to PTX and to the cubin, and the processor's seconds to the cubin (ptxas's among them), each as a list. The
first run, which also loads Triton's own parts, is left out. Exit code 3 when Triton is not there.
"""

import argparse
import json
import os
import sys
import tempfile
import time

# (BLOCK_M, BLOCK_N, warps, stages) of triton_gemm.py's CONFIGS that has the tile of ours.
TILE = (128, 128, 8, 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tile", default=",".join(map(str, TILE)), help="BLOCK_M,BLOCK_N,warps,stages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Read when Triton is imported.
        os.environ["TRITON_CACHE_DIR"] = folder
        os.environ["TRITON_ALWAYS_COMPILE"] = "1"
        try:
            import triton
        except ImportError as err:
            print(f"triton is not installed ({err})", file=sys.stderr)
            sys.exit(3)
        tile = tuple(int(part) for part in args.tile.split(","))
        runs = [compile_once(tile) for _ in range(args.runs + 1)][1:]
    report = {name: [run[name] for run in runs] for name in runs[0]}
    print(json.dumps({"triton": triton.__version__, "tile": tile, **report}))


def compile_once(tile):
    """Seconds of one compilation, by Triton's own listener for the stages' times."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    import triton_gemm

    block_m, block_n, warps, stages = tile
    kernel = triton_gemm.block_scaled
    constants = {"GROUPED": False, "BLOCK_M": block_m, "BLOCK_N": block_n, "ROWS": triton_gemm.ROWS}
    types = {
        "a_ptr": "*fp8e4nv", "b_ptr": "*fp8e4nv", "sa_ptr": "*fp32", "sb_ptr": "*fp32", "out_ptr": "*bf16",
        "group_ptr": "*i32", "M": "i32", "N": "i32", "K": "i32",
    }  # fmt: skip
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    # Pointers and extents that a launcher would find to be multiples of 16.
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if name != "M"}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    # Triton calls this with the times of the stages in microseconds, after each compilation.
    seen = {}

    def listener(src, metadata, metadata_group, times, cache_hit):
        if cache_hit:
            raise RuntimeError("Triton answered from a cache")
        seen.update(dict(times.lowering_stages))

    triton.knobs.compilation.listener = listener
    start, processor = time.perf_counter(), processor_seconds()
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})
    whole = time.perf_counter() - start
    ptxas = seen.get("cubin", 0) * 1e-6
    return {"ptx_s": whole - ptxas, "cubin_s": whole, "processor_s": processor_seconds() - processor}


def processor_seconds():
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
