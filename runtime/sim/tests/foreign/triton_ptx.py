"""Compiles the Triton kernels of one file to PTX for an H100, without a GPU.

    python triton_ptx.py SOURCE.py OUT.ptx

SOURCE.py has one `@triton.jit` function and says how it is compiled:

    KERNEL     the function
    SIGNATURE  argument name -> Triton type, or the value of a `tl.constexpr`
    ALIGNED    arguments that are multiples of 16
    OPTIONS    num_warps, num_stages

It prints what a launcher has to know: threads, bytes of dynamic shared memory,
bytes of global scratch memory, tensor descriptors.
"""

import os
import sys

# Line tables would hold the path of the checkout; fusion is what Triton 3.9
# does by default and says so.
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

import importlib.util

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def main():
    source, out = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("kernel", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = module.KERNEL.arg_names
    constants = {n: v for n, v in module.SIGNATURE.items() if not isinstance(v, str)}
    kernel = triton.compile(
        ASTSource(
            module.KERNEL,
            signature={n: "constexpr" if n in constants else module.SIGNATURE[n] for n in names},
            constexprs=constants,
            attrs={(names.index(n),): [["tt.divisibility", 16]] for n in module.ALIGNED},
        ),
        target=GPUTarget("cuda", 90, 32),
        options=module.OPTIONS,
    )
    with open(out, "w") as file:
        file.write(kernel.asm["ptx"])
    print(
        f"threads {32 * kernel.metadata.num_warps}, dynamic shared memory {kernel.metadata.shared}, "
        f"scratch {kernel.metadata.global_scratch_size}"
    )
    for tensor in kernel.metadata.tensordesc_meta or []:
        print(f"descriptor: {tensor}")


main()
