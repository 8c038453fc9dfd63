"""The product of triton_tma_gemm.py with the loads in warps of their own."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

from triton_tma_gemm import ALIGNED, KERNEL, OPTIONS, SIGNATURE as PLAIN

SIGNATURE = {**PLAIN, "SPECIALIZE": True}
